"""What a consumer tells its probes: never restart a healthy one, never wait for a broken one."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from consumers import GROUP, STREAM, Make
from helpers import Figures, Gate, eventually, start_program

from shared_sync import RedisStreamConsumer, RedisStreamProducer, RetryPolicy, WorkerMetrics
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import ConfigurationError
from shared_sync.redis_consumer import heartbeat, job_budget, recovery, watchdog
from shared_sync.redis_consumer.job_budget import DURATION, FEWEST_JOBS

ONCE = RetryPolicy(max_attempts=1)
QUICK: dict[str, Any] = {"block_seconds": 0.1, "lease_seconds": 2}
"""Loops that turn several times a second."""


class Probes:
    """Asks a consumer time and again, as a health server does, and keeps what it was told."""

    def __init__(self, consumer: RedisStreamConsumer) -> None:
        self._consumer = consumer
        self.told: list[dict[str, Any]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def _ask(self) -> None:
        while True:
            ended = self._stop.wait(0.02)
            health = self._consumer.get_health_data()
            health["asked_at"] = time.monotonic()
            self.told.append(health)
            if ended:
                break

    def __enter__(self) -> Probes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def always(self, name: str) -> bool:
        return len(self.told) > 0 and all(health[name] for health in self.told)

    def first(self, condition: Callable[[dict[str, Any]], bool], since: float) -> float:
        """How long after a moment the condition first held."""
        return next(
            health["asked_at"] - since
            for health in list(self.told)
            if health["asked_at"] > since and condition(health)
        )


def is_well(consumer: RedisStreamConsumer) -> bool:
    health = consumer.get_health_data()
    well = health["live"] and health["ready"] and health["started"] and health["redis_connected"]
    return well and not {"status", "reasons", "details"} & set(health)


def all_reasons(consumer: RedisStreamConsumer) -> str:
    return "; ".join(consumer.get_health_data().get("reasons", []))


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A processor that stays inside until the end of the test."""
    made = Gate()
    yield made
    made.opened.set()


# --- its life ---------------------------------------------------------------------------------


def test_a_consumer_is_live_all_its_life_and_ready_while_it_runs(make: Make) -> None:
    consumer = make(lambda *_: None, block_seconds=0.1)
    health = consumer.get_health_data()
    assert (health["live"], health["ready"], health["started"]) == (True, False, False)
    assert (health["status"], health["reasons"]) == ("degraded", ["not started"])
    consumer.start()
    assert is_well(consumer)
    assert (consumer.live, consumer.ready) == (True, True)
    consumer.stop()
    health = consumer.get_health_data()
    assert (health["live"], health["ready"], health["started"]) == (True, False, True)
    assert (health["status"], health["reasons"]) == ("degraded", ["stopped"])


def test_a_draining_consumer_is_degraded_not_ready_and_live_to_the_end(
    make: Make, producer: RedisStreamProducer, gate: Gate
) -> None:
    producer.publish({"n": 1})
    consumer = make(gate)
    consumer.start()
    assert gate.entered.wait(10)
    with Probes(consumer) as probes:
        stopper = threading.Thread(target=consumer.stop)
        stopper.start()
        eventually(lambda: consumer.state == "draining")
        health = consumer.get_health_data()
        assert (health["live"], health["ready"]) == (True, False)
        assert (health["status"], health["reasons"]) == ("degraded", ["draining"])
        gate.opened.set()
        stopper.join(20)
    assert probes.told[-1]["consumer_state"] == "stopped"
    assert probes.always("live")


def test_sigterm_ends_readiness_first_and_liveness_never(redis_url: str) -> None:
    """As a program sees it that is asked to end while a job runs."""
    program = textwrap.dedent(f"""
        import json, logging, threading
        from shared_sync import RedisStreamConsumer, RedisStreamProducer

        opened, ready, told = threading.Event(), threading.Event(), []

        def processor(*_):
            ready.wait(20)
            print("running", flush=True)
            opened.wait(20)

        def ask():
            while consumer.state != "stopped":
                health = consumer.get_health_data()
                picture = [health["consumer_state"], health["live"], health["ready"]]
                if not told or told[-1] != picture:
                    told.append(picture)
                if health["ready"]:
                    ready.set()
                if health["consumer_state"] == "draining":
                    opened.set()

        with RedisStreamProducer({redis_url!r}, {STREAM!r}) as producer:
            producer.publish({{"n": 1}})
        logger = logging.getLogger("quiet")
        consumer = RedisStreamConsumer({redis_url!r}, {STREAM!r}, {GROUP!r}, "c", logger, processor)
        asker = threading.Thread(target=ask)
        asker.start()
        consumer.start_consuming()
        asker.join()
        print(json.dumps(told), flush=True)
    """)
    with start_program(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGTERM)
        told = json.loads(process.communicate(timeout=30)[0])
    assert process.returncode == 0
    assert [picture for picture in told if not picture[1]] == []
    assert {tuple(picture) for picture in told if picture[0] == "running"} == {
        ("running", True, True)
    }
    assert ["draining", True, False] in told


# --- Redis away -------------------------------------------------------------------------------


@contextmanager
def _killed(server: EmbeddedRedis) -> Iterator[None]:
    server.kill()
    try:
        yield
    finally:
        server.start()


@contextmanager
def _frozen(server: EmbeddedRedis) -> Iterator[None]:
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


@pytest.fixture
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis is heard five times a second and missed after one; users wait four."""
    monkeypatch.setattr(heartbeat, "MAX_INTERVAL_SECONDS", 0.2)
    monkeypatch.setattr(watchdog, "SILENT_SECONDS", 1.0)
    monkeypatch.setattr(watchdog, "SILENT_STEP_SECONDS", 0.25)


@pytest.mark.usefixtures("impatience")
@pytest.mark.parametrize("away", [_killed, _frozen], ids=["killed", "frozen"])
def test_without_redis_a_consumer_is_live_and_not_ready_and_well_again_by_itself(
    make: Make, own_server: EmbeddedRedis, away: Callable[[EmbeddedRedis], Any]
) -> None:
    consumer = make(lambda *_: None, url=own_server.url, threads=2, lease_seconds=8)
    consumer.start()
    eventually(lambda: is_well(consumer))
    with Probes(consumer) as probes:
        gone_at = time.monotonic()
        with away(own_server):
            eventually(lambda: not consumer.ready)
            eventually(lambda: "Redis has not answered for" in all_reasons(consumer))
            health = consumer.get_health_data()
            assert (health["status"], health["redis_connected"]) == ("unhealthy", False)
            assert str(own_server.port) not in str(health["reasons"])
            assert str(own_server.port) in health["details"]["redis"]
            eventually(lambda: "error" in consumer.get_health_data()["details"])
        back_at = time.monotonic()
        eventually(lambda: is_well(consumer))
    assert probes.always("live")
    assert probes.first(lambda health: not health["ready"], gone_at) < 5
    assert probes.first(lambda health: bool(health["ready"]), back_at) < 5


@pytest.mark.usefixtures("impatience")
def test_a_redis_that_hangs_shows_also_while_every_reader_runs_a_job(
    make: Make, own_server: EmbeddedRedis, gate: Gate
) -> None:
    with RedisStreamProducer(own_server.url, STREAM) as producer:
        producer.publish({"n": 1})
    consumer = make(gate, url=own_server.url)
    consumer.start()
    assert gate.entered.wait(10)
    eventually(lambda: is_well(consumer))
    with Probes(consumer) as probes, _frozen(own_server):
        # Before anyone gives up on a reply.
        eventually(lambda: not consumer.ready, within=4)
    assert probes.always("live")


@pytest.mark.usefixtures("impatience")
def test_a_job_that_takes_long_keeps_the_consumer_well(
    make: Make, producer: RedisStreamProducer, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its keeper hears from Redis, and its reader is in a job."""
    monkeypatch.setattr(watchdog, "STALLED_SECONDS", 1.0)
    monkeypatch.setattr(watchdog, "SILENT_SECONDS", 2.0)
    producer.publish({"n": 1})
    consumer = make(gate)
    consumer.start()
    assert gate.entered.wait(10)
    with Probes(consumer) as probes:
        eventually(lambda: consumer.get_health_data()["longest_job_seconds"] > 2.5)
    assert probes.always("live")
    assert probes.always("ready")


def test_a_group_that_is_gone_and_may_not_be_created_is_unhealthy_until_it_is_there(
    make: Make, own_server: EmbeddedRedis
) -> None:
    with redis.Redis.from_url(own_server.url, protocol=2) as admin:
        admin.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
        rights = ("~*", "&*", "+@all", "-xgroup", "+xgroup|delconsumer")
        admin.execute_command("ACL", "SETUSER", "worker", "on", "nopass", *rights)
        url = own_server.url.replace("redis://", "redis://worker:none@")
        consumer = make(lambda *_: None, url=url, block_seconds=0.1)
        consumer.start()
        eventually(lambda: is_well(consumer))
        admin.xgroup_destroy(STREAM, GROUP)
        gone = f"the group {GROUP} of stream {STREAM} does not exist"
        eventually(lambda: gone in all_reasons(consumer))
        health = consumer.get_health_data()
        assert (health["status"], health["live"], health["ready"]) == ("unhealthy", True, False)
        admin.xgroup_create(STREAM, GROUP, id="0")
        eventually(lambda: is_well(consumer))


def test_a_group_that_is_created_anew_is_well_again_within_a_beat(
    make: Make, client: redis.Redis
) -> None:
    figures = Figures()
    consumer = make(lambda *_: None, metrics=figures, block_seconds=0.1)
    consumer.start()
    client.xgroup_destroy(STREAM, GROUP)
    eventually(lambda: figures.counters["groups_recreated"] == 1)
    eventually(lambda: is_well(consumer), within=5)


# --- jobs past their budget -------------------------------------------------------------------


def test_a_job_past_its_budget_degrades_and_one_past_its_limit_is_not_live(
    make: Make, producer: RedisStreamProducer, gate: Gate
) -> None:
    message_id = producer.publish({"n": 1})
    consumer = make(gate, threads=2, job_deadline_seconds=0.2, job_limit_seconds=1, retry=ONCE)
    consumer.start()
    assert gate.entered.wait(10)
    (job,) = consumer.get_views()["readers"]()["jobs"]
    with Probes(consumer) as probes:
        eventually(lambda: consumer.get_health_data()["readers_stuck"] == 1)
        eventually(lambda: not consumer.live)
    told = {health.get("status"): health for health in probes.told}
    late, over = told["degraded"], told["unhealthy"]
    assert (late["live"], late["ready"], late["jobs_late"]) == (True, True, 1)
    (reason,) = late["reasons"]
    assert reason.startswith(f"reader {job['reader']} runs message {message_id} for ")
    assert reason.endswith(" s, its budget is 0.2 s")
    assert (over["live"], over["ready"], over["jobs_late"]) == (False, False, 1)
    (reason,) = over["reasons"]
    assert reason.startswith(f"reader {job['reader']} runs message {message_id} for 1 s")
    assert reason.endswith(", its limit is 1 s")
    gate.opened.set()
    eventually(lambda: is_well(consumer))


def test_a_consumer_whose_readers_are_all_stuck_is_not_ready(
    make: Make, producer: RedisStreamProducer, gate: Gate
) -> None:
    producer.publish({"n": 1})
    consumer = make(gate, job_deadline_seconds=0.2, job_limit_seconds=600, retry=ONCE)
    consumer.start()
    eventually(lambda: not consumer.ready)
    eventually(lambda: consumer.get_health_data()["readers_stuck"] == 1)
    health = consumer.get_health_data()
    assert (health["live"], health["status"]) == (True, "degraded")
    assert health["reasons"][0] == "no reader is free: nothing is consumed"
    gate.opened.set()
    eventually(lambda: is_well(consumer))


def test_a_job_that_takes_far_longer_than_those_before_is_late_and_never_fatal(
    make: Make, producer: RedisStreamProducer, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_budget, "SHORTEST_BUDGET_SECONDS", 0.3)
    metrics = WorkerMetrics("stt-1")
    metrics.record_batch(durations={DURATION: [0.002] * FEWEST_JOBS})
    producer.publish({"n": 1})
    consumer = make(gate, metrics=metrics, threads=2, **QUICK)
    consumer.start()
    with Probes(consumer) as probes:
        eventually(lambda: consumer.get_health_data()["jobs_late"] == 1)
        health = consumer.get_health_data()
        assert (health["live"], health["ready"], health["status"]) == (True, True, "degraded")
        assert health["readers_stuck"] == 0
        eventually(lambda: metrics.get_metrics_data()["jobs_late"] == 1)
        assert health["reasons"][0].endswith("its budget is 0.3 s")
        (job,) = consumer.get_views()["readers"]()["jobs"]
        assert (job["state"], job["budget_seconds"], job["limit_seconds"]) == ("late", 0.3, None)
        gate.opened.set()
        eventually(lambda: is_well(consumer))
    assert probes.always("live")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"job_limit_seconds": 60}, "job_limit_seconds needs job_deadline_seconds"),
        ({"job_deadline_seconds": 60, "job_limit_seconds": 59}, "job_limit_seconds"),
        ({"job_deadline_seconds": 60, "job_limit_seconds": "long"}, "job_limit_seconds"),
        ({"late_after_p99s": 0.5}, "late_after_p99s"),
        ({"late_after_p99s": float("nan")}, "late_after_p99s"),
        ({"late_after_p99s": True}, "late_after_p99s"),
    ],
)
def test_limits_that_cannot_work_are_refused(
    make: Make, arguments: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigurationError, match=named):
        make(lambda *_: None, **arguments)


# --- loops that stand still -------------------------------------------------------------------


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
        raise ValueError("so that there is something to tell")

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


def test_a_keeper_that_hangs_in_the_users_metrics_is_found_by_whoever_asks(
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
    assert "consumer-1-keeper is stalled" in all_reasons(consumer)
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
        eventually(lambda: consumer._reader_loops[0].turns > 2)
    assert probes.always("live")


def test_a_process_that_was_frozen_raises_no_alarm(own_server: EmbeddedRedis) -> None:
    """Stopped for one and a half times the limit, with looks that come as soon as it goes on."""
    program = textwrap.dedent(f"""
        import json, logging, sys, threading
        from shared_sync import RedisStreamConsumer
        from shared_sync.redis_consumer import watchdog

        watchdog.STALLED_SECONDS = 1.0
        watchdog.LONGEST_STEP_SECONDS = 0.1
        watchdog.SILENT_SECONDS = 1.0
        watchdog.SILENT_STEP_SECONDS = 0.1
        ended, told, asked = threading.Event(), [], 0

        def ask():
            global asked
            while not ended.wait(0.001):
                health = consumer.get_health_data()
                asked += 1
                if "status" in health:
                    told.append(health["reasons"])

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
                print(json.dumps(told), flush=True)
            ended.set()
            for asker in askers:
                asker.join()
    """)
    with start_program(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def told() -> list[list[str]]:
            process.stdin.write("tell\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            answer: list[list[str]] = json.loads(process.stdout.readline())  # type: ignore[union-attr]
            return answer

        assert told() == []
        for _ in range(2):
            process.send_signal(signal.SIGSTOP)
            frozen_at = time.monotonic()
            eventually(lambda at=frozen_at: time.monotonic() - at > 1.5)
            process.send_signal(signal.SIGCONT)
            assert told() == []
        process.stdin.close()
        assert process.wait(30) == 0


# --- views ------------------------------------------------------------------------------------


def test_the_view_of_the_readers_tells_what_each_does(
    make: Make, producer: RedisStreamProducer, gate: Gate
) -> None:
    consumer = make(gate, threads=2, job_deadline_seconds=600)
    view = consumer.get_views()["readers"]
    assert view() == {"stream": STREAM, "group": GROUP, "readers": [], "jobs": []}
    message_id = producer.publish({"n": 1})
    consumer.start()
    assert gate.entered.wait(10)
    shown = view()
    json.dumps(shown)
    (job,) = shown["jobs"]
    assert 0 <= job.pop("age_seconds") < 60
    assert job.pop("reader") in {"consumer-1-reader-1", "consumer-1-reader-2"}
    assert job == {
        "message_id": message_id,
        "attempt": 1,
        "budget_seconds": 600,
        "limit_seconds": 900,
        "state": "running",
    }
    assert [row["name"] for row in shown["readers"]] == [
        "consumer-1-reader-1",
        "consumer-1-reader-2",
    ]
    assert sorted(row["state"] for row in shown["readers"]) == ["running", "waiting"]
    assert all(0 <= row["seconds"] < 60 for row in shown["readers"])
