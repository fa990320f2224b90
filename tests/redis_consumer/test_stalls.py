"""A thread that makes no progress is found and named; a process that was frozen raises no alarm."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from consumers import GROUP, STREAM, Make
from helpers import Figures, Gate, eventually, start_program
from probes import QUICK, Probes, all_reasons, is_well

from shared_sync import RedisStreamProducer, RetryPolicy
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.redis_consumer import recovery, watchdog

ONCE = RetryPolicy(max_attempts=1)


class Blocking(logging.Handler):
    """A log that never returns from some lines, as one on a full disk or in a deadlock."""

    def __init__(self, gate: Gate, text: str) -> None:
        super().__init__()
        self._gate = gate
        self._text = text

    def handle(self, record: logging.LogRecord) -> bool:
        if self._text in record.getMessage():
            self._gate()
        return True


@contextmanager
def _blocking_logger(gate: Gate, text: str) -> Iterator[logging.Logger]:
    logger = logging.Logger("blocking")
    logger.addHandler(Blocking(gate, text))
    try:
        yield logger
    finally:
        gate.opened.set()


def test_a_reader_that_hangs_in_the_users_logger_is_found_and_named(
    make: Make, producer: RedisStreamProducer, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "STALLED_SECONDS", 1.0)

    def fail(*_: object) -> None:
        raise ValueError("so that there is something to log")

    producer.publish({"n": 1})
    with _blocking_logger(gate, "becomes a dead letter") as logger:
        consumer = make(fail, logger=logger, threads=2, retry=ONCE, **QUICK)
        consumer.start()
        assert gate.entered.wait(10)
        eventually(lambda: not consumer.live)
        health = consumer.get_health_data()
        assert (health["status"], health["ready"]) == ("unhealthy", False)
        states = {row["name"]: row["state"] for row in consumer.get_views()["readers"]()["readers"]}
        (stalled,) = [name for name, state in states.items() if state == "stalled"]
        assert health["reasons"] == [f"{stalled} is stalled: it does not go on, and runs no job"]
        assert " < handle (" in health["details"]["stalled"][stalled]
    eventually(lambda: is_well(consumer))


def test_a_heartbeat_thread_that_hangs_in_the_users_metrics_is_found_by_whoever_asks(
    make: Make, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "STALLED_SECONDS", 1.0)

    class Hanging(Figures):
        def set_gauge(self, name: str, value: float) -> None:
            gate()

    consumer = make(lambda *_: None, metrics=Hanging(), **QUICK)
    consumer.start()
    assert gate.entered.wait(10)
    eventually(lambda: not consumer.live)
    assert "consumer-1-heartbeat is stalled" in all_reasons(consumer)
    gate.opened.set()
    eventually(lambda: is_well(consumer))


def test_loops_that_fail_at_every_step_are_not_stalled(
    make: Make, own_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each tries and pauses for up to 0.2 s here; three seconds of that are twice the limit."""
    monkeypatch.setattr(watchdog, "STALLED_SECONDS", 1.5)
    consumer = make(lambda *_: None, url=own_server.url, threads=2, lease_seconds=1)
    consumer.start()
    own_server.kill()
    with Probes(consumer) as probes:
        eventually(lambda: "not answered for 3 s" in all_reasons(consumer))
    assert probes.always("live")


def test_a_reader_that_waits_for_a_reply_is_not_stalled(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a reply takes to arrive: here twice as long as the limit."""
    monkeypatch.setattr(watchdog, "STALLED_SECONDS", 1.0)
    monkeypatch.setattr(recovery, "INTERVAL_SECONDS", 60.0)
    consumer = make(lambda *_: None, block_seconds=2.0, lease_seconds=1)
    consumer.start()
    with Probes(consumer) as probes:
        eventually(lambda: consumer._life.pool.reader_loops[0].turns > 2)
    assert probes.always("live")


def test_a_process_that_was_frozen_raises_no_alarm(own_server: EmbeddedRedis) -> None:
    """Stopped for one and a half times the limit, with checks that come as soon as it goes on."""
    program = textwrap.dedent(f"""
        import json, logging, sys, threading
        from shared_sync import RedisStreamConsumer
        from shared_sync.redis_consumer import watchdog

        watchdog.STALLED_SECONDS = 1.0
        watchdog.LONGEST_STEP_SECONDS = 0.1
        watchdog.SILENT_SECONDS = 1.0
        watchdog.SILENT_STEP_SECONDS = 0.1
        ended, reasons, asked = threading.Event(), [], 0

        def ask():
            global asked
            while not ended.wait(0.001):
                health = consumer.get_health_data()
                asked += 1
                if "status" in health:
                    reasons.append(health["reasons"])

        consumer = RedisStreamConsumer(
            {own_server.url!r}, {STREAM!r}, {GROUP!r}, "c", logging.getLogger("quiet"),
            lambda *_: None, threads=2, block_seconds=0.05, lease_seconds=3,
        )
        with consumer:
            askers = [threading.Thread(target=ask) for _ in range(4)]
            for asker in askers:
                asker.start()
            for line in sys.stdin:
                enough = asked + 100
                while asked < enough and not ended.wait(0.001):
                    pass
                print(json.dumps(reasons), flush=True)
            ended.set()
            for asker in askers:
                asker.join()
    """)
    with start_program(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def alarms() -> list[list[str]]:
            process.stdin.write("report\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            answer: list[list[str]] = json.loads(process.stdout.readline())  # type: ignore[union-attr]
            return answer

        assert alarms() == []
        for _ in range(2):
            process.send_signal(signal.SIGSTOP)
            frozen_at = time.monotonic()
            eventually(lambda at=frozen_at: time.monotonic() - at > 1.5)
            process.send_signal(signal.SIGCONT)
            assert alarms() == []
        process.stdin.close()
        assert process.wait(30) == 0
