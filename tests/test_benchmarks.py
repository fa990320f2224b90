"""The benchmarks, each in brief, and that what they check can fail."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import redis

from shared_sync.connection.embedded import EmbeddedRedis

REPOSITORY = Path(__file__).parents[1]
BENCHMARKS = REPOSITORY / "benchmarks"

pytestmark = pytest.mark.benchmark

Import = Callable[[str], ModuleType]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Import:
    """Imports a module of the benchmarks, as their programs do."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / program), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )


def output_of(program: str, *arguments: str) -> str:
    """What a program prints; fails with all of it when the exit status is not 0."""
    done = run(program, *arguments)
    assert done.returncode == 0, done.stdout
    return done.stdout


def value(name: str, output: str) -> str:
    found = re.search(rf"^{name} +(\S+)", output, re.MULTILINE)
    assert found, output
    return found.group(1)


def kept_of(done: subprocess.CompletedProcess[str], file: Path) -> dict[str, Any]:
    """What a program kept in its JSON file. Its times in brief mean nothing, so bounds may be
    missed; the exit status has to say so."""
    assert file.exists(), done.stdout
    kept: dict[str, Any] = json.loads(file.read_text())
    held = all(check["held"] for check in kept["checks"])
    assert done.returncode == (0 if held else 1), done.stdout
    assert f"bounds: {'held' if held else 'MISSED'}" in done.stdout
    return kept


# --- the consumer beside its opponents ------------------------------------------------------------


def test_the_consumer_is_measured_in_every_cell(
    redis_server: EmbeddedRedis, tmp_path: Path, module: Import
) -> None:
    brief = (
        *("--rounds", "1", "--messages", "1000", "--memory-messages", "3000", "--jobs", "20"),
        *("--latency-seconds", "0.2", "--idle-seconds", "1.2"),
    )
    kept_file = tmp_path / "consumer.json"
    where = ("--redis-server", str(redis_server.binary), "--json", str(kept_file))
    done = run("bench_consumer.py", *brief, *where)
    kept = kept_of(done, kept_file)
    assert "dramatiq and mayu are left out" in done.stdout
    measured = kept["measurements"]
    for label in ("ours, auto", "ours, 1", "one XACK a read, 100", "one XACK a message, 100"):
        assert measured[label]["messages/s"][0] > 0
    assert all(0 < share <= 1 for share in measured["one XACK a read, 1, 20 ms jobs"]["efficiency"])
    assert all(ms > 0 for ms in measured["ours, auto, latency"]["latency p50 ms"])
    assert all(sent > 0 for sent in measured["ours, auto, idle"]["idle commands/s"])
    assert all(seconds > 0 for seconds in measured["ours, auto, start-up"]["start-up s"])
    assert measured["ours, auto, memory"]["MB growth"][0] > 0
    unmeasured = {check.name for check in module("consumer_cells").BOUNDS} - {
        check["name"] for check in kept["checks"]
    }
    assert all("Python 3.13" in name for name in unmeasured), "dramatiq and mayu"


def test_workers_take_turns_and_what_takes_long_is_measured_once(
    redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    kept_file = tmp_path / "consumer.json"
    brief = ("--cells", "startup,memory", "--rounds", "2", "--memory-messages", "500")
    where = ("--redis-server", str(redis_server.binary), "--json", str(kept_file))
    done = run("bench_consumer.py", *brief, *where)
    measured = kept_of(done, kept_file)["measurements"]
    for kind in ("ours, auto", "one XACK a read, 1"):
        assert len(measured[f"{kind}, start-up"]["start-up s"]) == 2
    assert len(measured["ours, auto, memory"]["MB growth"]) == 1
    turns = re.findall(r"^round (\d): (.+, start-up): ", done.stdout, re.MULTILINE)
    assert [number for number, _ in turns] == ["1", "1", "2", "2"]
    assert turns[0][1] == turns[2][1] != turns[1][1]


def test_a_cell_that_needs_another_python_is_left_out_without_it() -> None:
    output = output_of("bench_consumer.py", "--cells", "queues", "--rounds", "1")
    assert "dramatiq and mayu are left out" in output


def test_the_producer_is_measured_beside_redis_py(
    redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    kept_file = tmp_path / "producer.json"
    where = ("--redis-server", str(redis_server.binary), "--json", str(kept_file))
    done = run("bench_producer.py", "--rounds", "2", "--seconds", "0.02", *where)
    kept = kept_of(done, kept_file)
    for rates in kept["measurements"].values():
        assert len(rates["messages/s"]) == 2
        assert all(rate > 0 for rate in rates["messages/s"])
    assert [check["name"] for check in kept["checks"]] == [
        "publish / xadd",
        "publish_many / pipeline",
    ]


def test_requests_are_measured_beside_what_is_done_by_hand(
    redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    kept_file = tmp_path / "requests.json"
    where = ("--json", str(kept_file), "--redis-server", str(redis_server.binary))
    done = run("bench_request.py", "--rounds", "2", "--seconds", "0.05", *where)
    kept = kept_of(done, kept_file)
    for measured in kept["measurements"].values():
        assert all(calls > 0 for calls in measured["calls"])
    assert [check["name"] for check in kept["checks"]] == ["request / by hand"]


def test_an_unknown_cell_is_refused() -> None:
    done = run("bench_consumer.py", "--cells", "empty,full")
    assert done.returncode == 2
    assert "no such cell: full" in done.stdout


def test_each_bound_of_the_consumer_can_be_missed(module: Import) -> None:
    cells, report = module("consumer_cells"), module("report")
    higher_is_better = {"messages/s", "efficiency"}

    def measured(ours: float, theirs: float) -> Any:
        found = report.Measurements()
        for candidate in cells.candidates_of(list(cells.CELLS)):
            better = ours if candidate.label.startswith("ours") else theirs
            quantities = dict.fromkeys(higher_is_better, better) | dict.fromkeys(
                ("latency p50 ms", "idle % of a core", "idle commands/s", "MB growth"), 1 / better
            )
            found.add(candidate.label, quantities)
        return found

    good = report.check_all(cells.BOUNDS, measured(100.0, 1.0))
    bad = report.check_all(cells.BOUNDS, measured(0.01, 1.0))
    assert len(good) == len(bad) == len(cells.BOUNDS)
    assert all(check.held for check in good)
    assert not any(check.held for check in bad)


def test_what_was_not_measured_is_not_checked(module: Import) -> None:
    cells, report = module("consumer_cells"), module("report")
    assert report.check_all(cells.BOUNDS, report.Measurements()) == []


def test_what_is_kept_can_be_printed_as_markdown(module: Import) -> None:
    report = module("report")
    checks = [{"name": "a / b", "value": 0.25, "bound": 0.5, "at_least": True, "held": False}]
    kept = {
        "machine": "2 cores",
        "measurements": {
            "a": {"messages/s": [1000, 3000, 2000]},
            "idle": {"commands/s": [4]},
            "b": {"messages/s": [8000], "MB": [40.04]},
        },
        "checks": checks,
    }
    assert report.markdown_of(kept) == (
        "|  | messages/s | MB |\n| --- | --- | --- |\n"
        "| a | 2,000 (1,000 to 3,000) |  |\n| b | 8,000 | 40 |\n\n"
        "|  | commands/s |\n| --- | --- |\n| idle | 4 |\n\n"
        "|  | measured | bound |  |\n| --- | --- | --- | --- |\n"
        "| a / b | 0.25 | at least 0.5 | missed |\n\nmachine: 2 cores."
    )


# --- retries, growth, fairness --------------------------------------------------------------------


def test_every_fiftieth_job_is_retried_once(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    kept_file = tmp_path / "retries.json"
    brief = ("--messages", "1000", "--rounds", "1")
    where = ("--redis-server", str(redis_server.binary), "--json", str(kept_file))
    kept = kept_of(run("bench_retries.py", *brief, *where), kept_file)
    assert kept["measurements"]["2 % fail once"]["latest retry s"][0] > 0
    assert "latest retry s" not in kept["measurements"]["without failures"]
    assert len(kept["checks"]) == 2


def test_the_bounds_of_retries_can_be_missed(module: Import) -> None:
    retries, report = module("bench_retries"), module("report")
    found = report.Measurements()
    found.add(retries.WITHOUT, {"messages/s": 1000.0})
    found.add(retries.WITH, {"messages/s": 790.0, "latest retry s": 0.2})
    found.add(retries.WITH, {"messages/s": 790.0, "latest retry s": 1.1})
    checks = report.check_all(retries.BOUNDS, found)
    assert [(check.value, check.held) for check in checks] == [(0.79, False), (1.1, False)]


def test_a_large_group_is_measured_in_every_scenario(
    redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    kept_file = tmp_path / "growth.json"
    brief = (
        *("--waiting", "1000", "--dead-pending", "40", "--dead", "4", "--parked", "30"),
        *("--live", "3", "--runs", "1", "--seconds", "20"),
    )
    where = ("--redis-server", str(redis_server.binary), "--json", str(kept_file))
    kept = kept_of(run("bench_growth.py", *brief, *where), kept_file)
    measured = kept["measurements"]
    assert set(measured) == {"fresh", "dead", "parked"}
    assert all(row["fresh messages/s"][0] > 0 for row in measured.values())
    assert all(row["script calls"][0] > 0 for row in measured.values())
    assert all(row["longest PING ms"][0] > 0 for row in measured.values())
    assert len(kept["checks"]) == 5


def test_the_bounds_of_growth_can_be_missed(module: Import) -> None:
    growth, report = module("bench_growth"), module("report")
    found = report.Measurements()
    found.add("fresh", {"fresh messages/s": 1000.0, "% within 5 ms": 100.0})
    for scenario in ("dead", "parked"):
        found.add(
            scenario,
            {"fresh messages/s": 790.0, "% within 5 ms": 99.8, "taken over/s": 299.0},
        )
    assert [check.held for check in report.check_all(growth.BOUNDS, found)] == [False] * 5


def test_fairness_is_measured_with_two_workers(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    kept_file = tmp_path / "fairness.json"
    brief = ("--jobs", "100", "--long-seconds", "0.3", "--runs", "1")
    where = ("--redis-server", str(redis_server.binary), "--json", str(kept_file))
    kept = kept_of(run("bench_fairness.py", *brief, *where), kept_file)
    (row,) = kept["measurements"].values()
    assert row["runs"][0] >= 100
    assert 0 < row["busy"][0] <= 1
    assert len(kept["checks"]) == 2


# --- GPUs -----------------------------------------------------------------------------------------


def test_batches_are_measured(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    kept_file = tmp_path / "gpu.json"
    where = ("--redis-server", str(redis_server.binary), "--json", str(kept_file))
    kept = kept_of(run("bench_gpu.py", "batches", "--jobs", "48", *where), kept_file)
    measured = kept["measurements"]
    assert measured["1 of 32 is bad"]["results"] == [31]
    assert measured["does not fit above 8"]["lost"] == [0]
    assert measured["20 ms + 1 ms model, single"]["messages/s"][0] > 10
    assert measured["20 ms + 1 ms model, batches of 16"]["messages/s"][0] > 10


def test_an_unknown_section_is_refused() -> None:
    done = run("bench_gpu.py", "batches", "ovens")
    assert done.returncode == 2
    assert "no such section: ovens" in done.stdout


def test_each_bound_of_gpus_can_be_missed(module: Import) -> None:
    gpu, report = module("bench_gpu"), module("report")
    assert report.check_all(gpu.BOUNDS, report.Measurements()) == []
    too_few = {"results", "culprit dead", "exit code", "last smallest"}
    best = ("speech, 1 thread", "20 ms + 1 ms model, single")
    labels = {
        *("speech, 1 thread", "speech, 4 processes", "SIGKILL of the parent", "deadline kills"),
        *module("gpu_faults").CASES,
        *(module("gpu_batches").ONE_BAD, module("gpu_batches").UNFIT),
        *(module("gpu_batches").SINGLE, module("gpu_batches").BATCHED),
        *(module("gpu_outside").BROKEN, module("gpu_outside").BROKEN_CHILD),
        module("gpu_outside").DEAD,
    }
    names = (
        *("audio s/s", "p99 live ms", "late heartbeat s", "others charged", "consumer ended"),
        *("left after 1 s", "lost", "twice", "descriptors more", "threads more", "children more"),
        *("charged", "runs", "last size", "messages/s", "dead letters", "wasted", "attempts/s"),
        *("done after s", *too_few),
    )
    found = report.Measurements()
    for label in labels:
        values = {name: 0.0 if name in too_few else 1000.0 for name in names}
        found.add(label, values | ({"audio s/s": 999.0} if label in best else {}))
    checks = report.check_all(gpu.BOUNDS, found)
    assert len(checks) == len(gpu.BOUNDS)
    assert [check.name for check in checks if check.held] == []


class Journal:
    """Runs and owners of messages, as bench_fairness.py records them."""

    def __init__(self, fairness: ModuleType) -> None:
        self._fairness = fairness
        self._runs: list[Any] = []
        self._owners: dict[str, list[Any]] = {}

    def run(
        self, message: str, worker: str, thread: str, began: float, ended: float, long: bool = False
    ) -> None:
        self._runs.append(self._fairness.Run(message, worker, thread, began, ended, long))

    def owned(self, message: str, owner: str, since: float, until: float) -> None:
        owned = self._fairness.Owned(owner, (since, until))
        self._owners.setdefault(message, []).append(owned)

    def waits(self) -> tuple[float, float]:
        waits = self._fairness.longest_waits(self._runs, self._owners, threads=2)
        return round(waits.in_process, 6), round(waits.elsewhere, 6)


@pytest.fixture
def journal(module: Import) -> Journal:
    """The left worker runs a long job from 0 to 2; one thread of the right is busy from 0 to 1."""
    journal = Journal(module("fairness"))
    journal.run("long", "left", "left-1", 0, 2, long=True)
    journal.run("other", "right", "right-1", 0, 1, long=True)
    return journal


def test_a_job_waits_while_another_thread_of_its_process_is_free(journal: Journal) -> None:
    journal.owned("short", "left", 0.5, 9)
    journal.run("short", "left", "left-1", 2, 2.001)
    assert journal.waits() == (1.5, 1.5), "the second thread of either process never ran anything"


def test_a_job_waits_while_a_thread_of_the_other_process_is_free(journal: Journal) -> None:
    journal.run("also long", "left", "left-2", 0, 2, long=True)
    journal.run("one more", "right", "right-2", 0, 1.5, long=True)
    journal.owned("short", "left", 0.5, 9)
    journal.run("short", "left", "left-1", 2, 2.001)
    assert journal.waits() == (0.0, 1.0), "from 1, when the first thread of the right is free"


def test_a_job_that_was_handed_back_waits_on_until_it_starts(journal: Journal) -> None:
    journal.run("also long", "left", "left-2", 0, 2, long=True)
    journal.run("one more", "right", "right-2", 0, 1, long=True)
    journal.owned("short", "left", 0.0, 1.2)
    journal.owned("short", "~parked", 1.2, 1.6)
    journal.owned("short", "right", 1.6, 9)
    journal.run("short", "right", "right-1", 1.7, 1.701)
    assert journal.waits() == (0.0, 0.6), "0.2 in the left, 0.4 in Redis; the right is not held up"


def test_a_short_gap_between_two_jobs_is_not_idleness(journal: Journal) -> None:
    for number in range(20):
        began = number * 0.1
        journal.run(f"busy-{number}", "left", "left-2", began, began + 0.09)
    journal.run("one more", "right", "right-2", 0, 2, long=True)
    journal.run("and more", "right", "right-1", 1, 2, long=True)
    journal.owned("short", "left", 0.0, 9)
    journal.run("short", "left", "left-1", 2, 2.001)
    assert journal.waits() == (0.0, 0.0)


def test_a_job_that_waits_behind_short_ones_only_is_not_counted(journal: Journal) -> None:
    journal.owned("short", "right", 1.2, 9)
    journal.run("short", "right", "right-1", 1.9, 1.901)
    assert journal.waits() == (0.0, 0.0)


def test_the_bounds_of_fairness_can_be_missed(module: Import) -> None:
    fairness, report = module("bench_fairness"), module("report")
    found = report.Measurements()
    found.add(fairness.LABEL, {"in its process s": 0.1, "elsewhere s": 4.1})
    found.add(fairness.LABEL, {"in its process s": 0.6, "elsewhere s": 0.1})
    assert [check.held for check in report.check_all(fairness.BOUNDS, found)] == [False] * 2


# --- nothing lost, nothing published twice --------------------------------------------------------


def test_a_killed_workers_jobs_are_done_within_the_bound(redis_server: EmbeddedRedis) -> None:
    brief = ("--runs", "1", "--lease", "2", "--jobs", "40")
    server = ("--redis-server", str(redis_server.binary))
    output = output_of("crash_recovery.py", *brief, *server)
    assert "bound: 4 s, the lease of 2 s and 2 s: held" in output
    (row,) = re.findall(r"^ +1 +([\d.]+) +(\d+) +(\d+) +(\d+)$", output, re.MULTILINE)
    assert float(row[0]) <= 4
    assert int(row[1]) >= 1, "it was killed while it ran jobs"
    assert row[2:] == ("0", "0")


def test_crash_recovery_leaves_nothing_behind_in_a_redis_that_it_is_given(
    redis_url: str, client: redis.Redis
) -> None:
    client.set("mine", "kept")
    brief = ("--runs", "1", "--lease", "1", "--jobs", "40")
    output_of("crash_recovery.py", *brief, "--redis-url", redis_url)
    assert client.keys() == [b"mine"]


def test_the_worker_command_loses_nothing(redis_server: EmbeddedRedis) -> None:
    server = ("--redis-server", str(redis_server.binary))
    output = output_of("worker_command.py", "--messages", "1500", *server)
    assert output.count("1500 of 1500 messages have a result, 0 of them two") == 2
    assert "killed: 3 run, restarts: 1" in output


def test_a_short_soak_loses_nothing_and_publishes_nothing_twice(
    redis_server: EmbeddedRedis,
) -> None:
    """This seed brings a killed Redis, a terminated and a killed worker, and cut connections."""
    brief = ("--minutes", "0.05", "--fault-every", "0.7", "--lease", "1", "--rate", "30")
    server = ("--redis-server", str(redis_server.binary))
    output = output_of("soak.py", *brief, "--seed", "1353", *server)
    assert "nothing lost, nothing published twice" in output
    assert value("lost", output) == value("published twice", output) == "0"
    assert int(value("messages", output)) >= 10
    assert int(value("runs", output).rstrip(",")) >= 10
    assert int(value("faults", output).rstrip(":")) >= 1


def test_an_upgrade_and_a_rollback_lose_nothing(redis_server: EmbeddedRedis) -> None:
    """Both releases are this one here; it shows that the program works, and what it checks."""
    brief = ("--rounds", "1", "--step-seconds", "0.3", "--workers", "2", "--lease", "1")
    load = ("--rate", "30", "--seed", "2")
    server = ("--redis-server", str(redis_server.binary))
    output = output_of("rolling_upgrade.py", "--old", str(REPOSITORY), *brief, *load, *server)
    assert value("lost", output) == value("published twice", output) == "0"
    assert int(value("messages", output)) >= 10
    replaced = re.findall(r"replaced by the (old|new) release after (SIG\w+) (\d+)", output)
    assert sum(int(times) for release, _, times in replaced if release == "new") == 2
    assert {signal for _, signal, _ in replaced} == {"SIGTERM", "SIGKILL"}


LOSSY_RELEASE = """
import redis
from shared_sync.redis_consumer import RedisStreamConsumer

start = RedisStreamConsumer.__init__


def start_lossy(self, url, stream, group, name, logger, message_processor, **options):
    def lose_some(message_id, fields):
        if int(fields["n"]) % 10 == 0:
            with redis.Redis.from_url(url) as client:
                client.xack(stream, group, message_id)
                client.xdel(stream, message_id)
        return message_processor(message_id, fields)

    start(self, url, stream, group, name, logger, lose_some, **options)


RedisStreamConsumer.__init__ = start_lossy
"""
"""Makes workers throw each tenth message away before they run it."""


def test_an_upgrade_from_a_release_that_loses_messages_fails(
    redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(REPOSITORY / "shared_sync", broken / "shared_sync")
    for pages in ("README.md", "docs"):
        (broken / pages).symlink_to(REPOSITORY / pages)
    (broken / "sitecustomize.py").write_text(LOSSY_RELEASE)
    brief = ("--rounds", "1", "--step-seconds", "0.3", "--workers", "1", "--lease", "1")
    load = ("--rate", "30", "--seed", "2")
    server = ("--redis-server", str(redis_server.binary))
    done = run("rolling_upgrade.py", "--old", str(broken), *brief, *load, *server)
    assert done.returncode == 1
    assert int(value("lost", done.stdout)) >= 1
    (folder,) = re.findall(r"^the evidence is in (\S+)$", done.stdout, re.MULTILINE)
    shutil.rmtree(folder)


def test_a_release_that_does_not_name_its_rights_is_refused(module: Import, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# A release")
    with pytest.raises(SystemExit, match="--rights"):
        module("rolling_upgrade").least_rights(tmp_path)


def test_the_ledger_finds_what_was_lost_and_what_was_published_twice(module: Import) -> None:
    ledger = module("soak_ledger").Ledger()
    ledger.acknowledged([1, 2, 3, 4], ["1-0", "2-0", "3-0", "4-0"])
    for number, times in ((1, 1), (2, 2), (4, 1)):
        for _ in range(times):
            ledger.result(number, f"{number}-0", "done")
    ledger.dead_letter(4, "4-0", "work", "failed")
    mistakes = {number: text for number, (text, _) in ledger.mistakes(lambda _: "work").items()}
    assert set(mistakes) == {2, 3, 4}
    assert mistakes[3] == "it has not ended"
    totals = ledger.totals()
    assert (totals.lost, totals.published_twice) == (1, 2)


# --- the gateway scene ----------------------------------------------------------------------------


def test_the_gateway_scene_finds_nothing_wrong(redis_server: EmbeddedRedis) -> None:
    brief = ("--requests", "60", "--rate", "10", "--reply-ttl", "3")
    output = output_of("gateway_scene.py", *brief, "--redis-server", str(redis_server.binary))
    assert value("requests of living gateways", output) == value("results", output) != "0"


def test_the_journal_of_a_gateway_shows_its_mistakes(module: Import, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    done = {"event": "ended", "status": "done", "right": True, "moment": 2.0}
    missing = {**done, "status": "missing", "right": False}
    ends = [(1, done), (2, done), (2, done), (3, missing), (4, {**done, "right": False})]
    sent = [{"event": "sent", "number": number, "moment": 1.0} for number in range(1, 6)]
    facts = [*sent, *({**end, "number": number} for number, end in ends)]
    journal.write_text("".join(f"{json.dumps(fact)}\n" for fact in facts))
    book = module("scene_journal").GatewayJournal.read(journal)
    assert not book.is_complete
    assert book.mistakes() == [
        "request 2 has 2 results",
        "request 3 has no result",
        "the result of request 4 is done and wrong",
        "request 5 has no result",
    ]


# --- metrics --------------------------------------------------------------------------------------


def test_the_benchmark_of_metrics_prints_all_its_tables() -> None:
    """Its times in brief mean nothing, so only its accuracy is checked here."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "bench_metrics.py"), "--brief"],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.stderr == ""
    *tables, bounds = re.split(r"^(?=\w+: )", done.stdout, flags=re.MULTILINE)[1:]
    assert [table.partition(":")[0] for table in tables] == [
        *("Recording", "Batches", "Reading", "Accuracy", "Memory"),
    ]
    assert done.returncode == {"held": 0, "MISSED": 1}[bounds.split(": ")[1]]
    accuracy = re.findall(r"^(\S+) +p[\d.]+ +([\d.]+) ", tables[3], re.MULTILINE)
    assert Counter(distribution for distribution, _ in accuracy) == dict.fromkeys(
        ("lognormal", "bimodal", "constant", "heavy-tailed"), 4
    )
    assert all(float(off) <= 1 for _, off in accuracy)
