"""What a consumer reports to probes: never restart a healthy one, never wait for a broken one."""

from __future__ import annotations

import json
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
from probes import QUICK, Probes, all_reasons, is_well

from shared_sync import RedisStreamProducer, Reject, RetryPolicy, WorkerMetrics
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import ConfigurationError
from shared_sync.protocol import commands
from shared_sync.redis_consumer import job_budget, watchdog
from shared_sync.redis_consumer.job_budget import DURATION, FEWEST_JOBS
from shared_sync.redis_consumer.outcome_share import LEAST_OUTCOMES

ONCE = RetryPolicy(max_attempts=1)


# --- what is wrong although every thread goes on ------------------------------------------------


def test_a_worker_whose_every_message_dies_is_degraded_and_says_so(
    make: Make, producer: RedisStreamProducer
) -> None:
    def processor(*_: object) -> None:
        raise Reject("no good")

    consumer = make(processor)
    consumer.start()
    producer.publish_many({"n": n} for n in range(LEAST_OUTCOMES))
    eventually(lambda: consumer.get_health_data().get("status") == "degraded")
    health = consumer.get_health_data()
    assert (health["live"], health["ready"]) == (True, True)
    assert "100 % of the last 20 outcomes" in health["reasons"][0]


def test_undecodable_input_counts_as_failing_too(make: Make, client: redis.Redis) -> None:
    consumer = make(lambda *_: None)
    consumer.start()
    for _ in range(LEAST_OUTCOMES):
        client.xadd(STREAM, {"audio": b"\xff"})
    eventually(lambda: "outcomes" in all_reasons(consumer))


def test_hazards_are_looked_for_at_the_start_logged_and_reported(
    make: Make, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    client.xadd(STREAM, {"n": 1})
    client.xgroup_create(STREAM, GROUP, id="$")
    consumer = make(lambda *_: None)
    consumer.start()
    eventually(lambda: consumer.get_health_data().get("status") == "degraded")
    (reason,) = consumer.get_health_data()["reasons"]
    assert "no group is going to read entry" in reason
    assert consumer.ready
    assert reason in caplog.messages


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
    assert probes.learned[-1]["consumer_state"] == "stopped"
    assert probes.always("live")


def test_sigterm_ends_readiness_first_and_liveness_never(redis_url: str) -> None:
    """As a program sees it that is asked to end while a job runs."""
    program = textwrap.dedent(f"""
        import json, logging, threading
        from shared_sync import RedisStreamConsumer, RedisStreamProducer

        opened, ready, seen = threading.Event(), threading.Event(), []

        def processor(*_):
            ready.wait(20)
            print("running", flush=True)
            opened.wait(20)

        def ask():
            while consumer.state != "stopped":
                health = consumer.get_health_data()
                picture = [health["consumer_state"], health["live"], health["ready"]]
                if not seen or seen[-1] != picture:
                    seen.append(picture)
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
        print(json.dumps(seen), flush=True)
    """)
    with start_program(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGTERM)
        seen = json.loads(process.communicate(timeout=30)[0])
    assert process.returncode == 0
    assert [picture for picture in seen if not picture[1]] == []
    assert {tuple(picture) for picture in seen if picture[0] == "running"} == {
        ("running", True, True)
    }
    assert ["draining", True, False] in seen


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
    monkeypatch.setattr(commands, "LONGEST_HEARTBEAT_SECONDS", 0.2)
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
    """Its heartbeat thread hears from Redis, and its reader is in a job."""
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


def test_a_group_that_is_created_anew_is_well_again_within_a_heartbeat(
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
    by_status = {health.get("status"): health for health in probes.learned}
    late, over = by_status["degraded"], by_status["unhealthy"]
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
