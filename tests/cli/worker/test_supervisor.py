"""`shared-sync worker --processes`: several workers on one machine, kept running, shown as one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from helpers import eventually, free_port, start_program

from shared_sync import RedisStreamProducer

PROCESSOR = """
import time

def double(message_id, job):
    time.sleep(0.002)
    return {"n": 2 * int(job["n"])}
"""
MESSAGES = 600


class Supervised:
    """The command in a folder of its own, with its log and its health page."""

    def __init__(self, folder: Path, url: str, *options: str) -> None:
        (folder / "doubling.py").write_text(PROCESSOR)
        self.port = free_port()
        self._log = folder / "worker.log"
        with self._log.open("w") as log:
            self.process: subprocess.Popen[str] = start_program(
                [
                    *(sys.executable, "-m", "shared_sync", "worker", *options),
                    *("--redis-url", url, "--stream", "jobs", "--group", "g"),
                    *("--host", "127.0.0.1", "--health-port", str(self.port)),
                    *("--result-stream", "results", "--consumer-id", "w"),
                ],
                cwd=folder,
                stderr=log,
                text=True,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def pids(self) -> list[int]:
        """The process ids of all workers that were started, the newest last."""
        return [int(found) for found in re.findall(r"worker \S+ is process (\d+)", self.log)]

    def get(self, path: str, accept: str = "application/json") -> tuple[int, str]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", headers={"Accept": accept}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as answer:
            return answer.code, answer.read().decode()
        except OSError:
            return 0, "{}"

    def health(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get("/health")[1])
        return found


@pytest.fixture
def supervise(tmp_path: Path, redis_url: str) -> Iterator[Callable[..., Any]]:
    """Starts the command as a context, and leaves no process behind."""

    @contextmanager
    def start(*options: str) -> Iterator[Supervised]:
        supervised = Supervised(tmp_path, redis_url, *options)
        try:
            yield supervised
        finally:
            supervised.process.kill()
            supervised.process.wait()
            for pid in supervised.pids():
                eventually(lambda pid=pid: not is_alive(pid), within=30)

    return start


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def publish(url: str, count: int) -> None:
    with RedisStreamProducer(url, "jobs") as producer:
        producer.publish_many({"n": number} for number in range(count))


def test_one_page_shows_all_workers_and_one_that_is_killed_is_started_again(
    supervise: Callable[..., Any], redis_url: str, client: redis.Redis
) -> None:
    with supervise("doubling:double", "--processes", "3") as crew:
        eventually(lambda: crew.health().get("status") == "healthy", within=60, every=0.1)
        publish(redis_url, MESSAGES)
        eventually(lambda: client.xlen("results") > 30, every=0.002)
        killed = crew.pids()[0]
        os.kill(killed, signal.SIGKILL)
        eventually(
            lambda: any("after SIGKILL" in why for why in crew.health().get("reasons", ())),
            every=0.1,
        )
        eventually(lambda: client.xlen("results") == MESSAGES, within=60, every=0.1)
        eventually(lambda: crew.health()["status"] == "healthy", within=60, every=0.1)
        numbers = sorted(int(fields[b"n"]) for _, fields in client.xrange("results"))
        assert numbers == [2 * number for number in range(MESSAGES)]

        health = crew.health()
        assert health["workers_running"] == 3
        assert {"w-1", "w-2", "w-3"} <= health["checks"].keys()
        assert [crew.get(f"/health/{probe}")[0] for probe in ("live", "ready", "startup")] == [
            200
        ] * 3
        metrics = json.loads(crew.get("/metrics")[1])
        assert metrics["worker_restarts"] == 1
        series = crew.get("/metrics", "text/plain;version=0.0.4")[1]
        assert series.count("# TYPE jobs_processed_total counter") == 1
        done = re.findall(r'jobs_processed_total\{instance_id="(w-\d)"\} (\d+)', series)
        assert [name for name, _ in done] == ["w-1", "w-2", "w-3"]
        assert sum(int(count) for _, count in done) == metrics["jobs_processed"]
        opened = crew.get("/metrics", "application/openmetrics-text;version=1.0.0")[1]
        assert opened.count("# EOF") == 1
        state = json.loads(crew.get("/api/state")[1])
        readers = {row["name"] for row in state["views"]["readers"]["data"]["readers"]}
        assert readers == {f"w-{number}-reader-1" for number in (1, 2, 3)}
        group = state["views"]["group"]["data"]
        assert len(group["consumers"]) >= 3
        assert group["status"]["health"] == "healthy"
        assert any(group["report"]["alive"]["counts"])

        crew.process.send_signal(signal.SIGTERM)
        assert crew.process.wait(40) == 0
    assert "Traceback" not in crew.log


def test_a_changed_source_starts_the_worker_anew_and_it_ends_when_its_supervisor_is_killed(
    supervise: Callable[..., Any], tmp_path: Path, redis_url: str, client: redis.Redis
) -> None:
    with supervise("doubling:double", "--reload") as crew:
        eventually(lambda: crew.health().get("status") == "healthy", within=60, every=0.1)
        (tmp_path / "doubling.py").write_text("def doubel(message_id, job): ...\n")
        eventually(lambda: "cannot work with its configuration" in crew.log, within=30)
        assert "did you mean doubel?" in crew.log
        (tmp_path / "doubling.py").write_text("def double(message_id, job): return {'n': 'new'}\n")
        publish(redis_url, 1)
        eventually(lambda: client.xlen("results") == 1, within=60, every=0.1)
        assert client.xrange("results")[0][1][b"n"] == b"new"
        crew.process.kill()
        crew.process.wait()
        eventually(lambda: not is_alive(crew.pids()[-1]), within=30)
    assert "the supervisor has ended; this worker drains" in crew.log
    assert {one["name"] for one in client.xinfo_consumers("jobs", "g")} <= {b"~parked"}
