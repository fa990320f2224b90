"""What stopping does to jobs that can be ended, as those in child processes can."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from consumers import GROUP, STREAM, Make, owners
from helpers import eventually

from shared_sync import RedisStreamProducer, current_message
from shared_sync.isolation.errors import ChildCrashed
from shared_sync.message import Fields
from shared_sync.redis_consumer.running import isolation
from shared_sync.redis_consumer.running.runner import ThreadRunner
from shared_sync.redis_consumer.slot import Attempt


class EndableRunner(ThreadRunner):
    """Runs a job until it is ended, as if a child process did."""

    entered = threading.Event()
    beside: Callable[[], object] = staticmethod(lambda: None)
    """Called in the reader's thread, meanwhile."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._is_interrupted = threading.Event()

    def run(self, attempt: Attempt, fields: Sequence[Fields]) -> Sequence[object]:
        type(self).entered.set()
        type(self).beside()
        self._is_interrupted.wait(30)
        attempt.ended_at = self._clock()
        raise ChildCrashed(-signal.SIGKILL)

    def interrupt(self) -> bool:
        self._is_interrupted.set()
        return True


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EndableRunner, "entered", threading.Event())


@pytest.mark.parametrize("drain_seconds", [0.0, 0.5])
def test_what_still_runs_after_the_drain_is_ended_and_goes_back_uncharged(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    drain_seconds: float,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(isolation, "ThreadRunner", EndableRunner)
        first = make(lambda *_: None, drain_seconds=drain_seconds)
    message_id = producer.publish({"n": 1})
    first.start()
    assert EndableRunner.entered.wait(10)
    assert first.stop() is True, "every thread has ended"
    assert owners(client) == {"~parked": 1}
    attempts: list[int] = []
    second = make(lambda *_: attempts.append(current_message().attempt))
    second.start()
    eventually(lambda: client.xlen(STREAM) == 0)
    assert attempts == [1], message_id


def test_a_reader_that_stops_its_own_consumer_charges_nothing(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one does that finds that another process has taken the name."""
    with monkeypatch.context() as patched:
        patched.setattr(isolation, "ThreadRunner", EndableRunner)
        consumer = make(lambda *_: None)
    monkeypatch.setattr(EndableRunner, "beside", staticmethod(lambda: consumer.stop(0)))
    message_id = producer.publish({"n": 1})
    consumer.start()
    eventually(lambda: consumer.state == "stopped")
    assert owners(client) == {"~parked": 1}
    assert (
        client.xpending_range(STREAM, GROUP, message_id, message_id, 1)[0]["times_delivered"] == 0
    )


PROGRAM = """
    import atexit, sys, threading
    from pathlib import Path
    import held
    from shared_sync import RedisStreamConsumer

    consumer = RedisStreamConsumer(
        sys.argv[1], "jobs", "workers", "w", None, held.hold, isolation="process",
        drain_seconds=0.2, max_crashes=2,
    )
    consumer.start()
    while not Path(sys.argv[2]).exists():
        threading.Event().wait(0.01)
"""
HELD = """
import os, time
from pathlib import Path

def hold(message_id, job):
    started = Path(job["started"])
    started.with_suffix(".new").write_text(str(os.getpid()))
    started.with_suffix(".new").rename(started)
    time.sleep(600)
"""
WITHOUT_THREADS = """
    def refuse(thread):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    atexit.register(lambda: setattr(threading.Thread, "start", refuse))
"""


@pytest.mark.parametrize(
    ("ending", "status"),
    [("raise OSError('the port is taken')", 1), (WITHOUT_THREADS, 0)],
    ids=["raises", "without threads"],
)
def test_a_program_that_ends_ends_its_children_and_hands_back_what_they_run(
    ending: str,
    status: int,
    redis_url: str,
    producer: RedisStreamProducer,
    client: redis.Redis,
    tmp_path: Path,
) -> None:
    started = tmp_path / "started"
    message_id = producer.publish({"started": str(started)})
    (tmp_path / "held.py").write_text(HELD)
    text = textwrap.dedent(PROGRAM) + textwrap.dedent(ending)
    ended = subprocess.run(
        [sys.executable, "-c", text, redis_url, str(started)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert ended.returncode == status, ended.stderr
    assert not psutil.pid_exists(int(started.read_text()))
    assert owners(client) == {"~parked": 1}
    (row,) = client.xpending_range(STREAM, GROUP, message_id, message_id, 1)
    assert row["times_delivered"] == 0
