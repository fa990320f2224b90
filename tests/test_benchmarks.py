"""The benchmarks that end with a verdict, each in brief, as its header says."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from shared_sync.connection.embedded import EmbeddedRedis

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(BENCHMARKS / program), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def output_of(process: subprocess.Popen[str]) -> str:
    """What it prints; fails with all of it when its verdict is not good."""
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    return output


def figure(name: str, output: str) -> str:
    found = re.search(rf"^{name} +(\S+)", output, re.MULTILINE)
    assert found, output
    return found.group(1)


@pytest.fixture(scope="module", autouse=True)
def soak(redis_server: EmbeddedRedis) -> Iterator[subprocess.Popen[str]]:
    """A short one, which runs beside the other tests here.

    This seed brings a killed Redis, a terminated and a killed worker, and cut connections.
    """
    brief = ("--minutes", "0.05", "--fault-every", "0.7", "--lease", "1", "--rate", "30")
    binary = str(redis_server.binary)
    process = start("soak.py", *brief, "--seed", "1353", "--redis-server", binary)
    yield process
    process.send_signal(signal.SIGTERM)
    process.communicate()


def test_a_killed_workers_jobs_are_done_within_the_bound(redis_server: EmbeddedRedis) -> None:
    brief = ("--runs", "1", "--lease", "2", "--jobs", "40")
    server = ("--redis-server", str(redis_server.binary))
    output = output_of(start("crash_recovery.py", *brief, *server))
    assert "bound: 4 s, the lease of 2 s and 2 s: held" in output
    (row,) = re.findall(r"^ +1 +([\d.]+) +(\d+) +(\d+) +(\d+)$", output, re.MULTILINE)
    assert float(row[0]) <= 4
    assert int(row[1]) >= 1, "it was killed with jobs in its hands"
    assert row[2:] == ("0", "0")


def test_crash_recovery_leaves_nothing_behind_in_a_redis_that_it_is_given(
    redis_url: str, client: redis.Redis
) -> None:
    client.set("mine", "kept")
    brief = ("--runs", "1", "--lease", "1", "--jobs", "40")
    output_of(start("crash_recovery.py", *brief, "--redis-url", redis_url))
    assert client.keys() == [b"mine"]


def test_a_short_soak_loses_and_doubles_nothing(soak: subprocess.Popen[str]) -> None:
    output = output_of(soak)
    assert "nothing lost, nothing doubled" in output
    assert figure("lost", output) == figure("published twice", output) == "0"
    assert int(figure("messages", output)) >= 10
    assert int(figure("runs", output).rstrip(",")) >= 10
    assert int(figure("faults", output).rstrip(":")) >= 1


def test_the_benchmark_of_metrics_prints_all_its_tables() -> None:
    """Its times in brief mean nothing, so its verdict does not count here; its accuracy does."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "bench_metrics.py"), "--brief"],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.stderr == ""
    *tables, verdict = re.split(r"^(?=\w+: )", done.stdout, flags=re.MULTILINE)[1:]
    assert [table.partition(":")[0] for table in tables] == [
        *("Recording", "Batches", "Reading", "Accuracy", "Memory"),
    ]
    assert done.returncode == {"held": 0, "broken": 1}[verdict.split(": ")[1]]
    accuracy = re.findall(r"^(\S+) +p[\d.]+ +([\d.]+) ", tables[3], re.MULTILINE)
    assert Counter(distribution for distribution, _ in accuracy) == dict.fromkeys(
        ("lognormal", "bimodal", "constant", "heavy-tailed"), 4
    )
    assert all(float(off) <= 1 for _, off in accuracy)
