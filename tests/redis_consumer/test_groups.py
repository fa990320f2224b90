"""A group whose name is mistyped: it is reported, and it costs no room once it is removed."""

from __future__ import annotations

import logging

import pytest
import redis
from consumers import GROUP, STREAM, Make
from helpers import eventually

from shared_sync import RedisStreamConsumer, RedisStreamProducer
from shared_sync.errors import QueueFull
from shared_sync.protocol import held_back, sweep
from shared_sync.redis_consumer import heartbeat_thread

MISTYPED = "wrokers"


def run_mistyped_worker(redis_url: str) -> None:
    with RedisStreamConsumer(redis_url, STREAM, MISTYPED, None, None, print):
        pass


def test_a_new_group_beside_others_is_reported_with_their_names(
    make: Make, redis_url: str, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with make(lambda *_: None):
        assert f"created the group {GROUP} of stream {STREAM}, which is new or empty" in caplog.text
    client.xgroup_destroy(STREAM, GROUP)
    client.xadd(STREAM, {"n": "1"})
    caplog.clear()
    with make(lambda *_: None):
        assert f"created the group {GROUP} of stream {STREAM}\n" in caplog.text
    caplog.clear()
    with make(lambda *_: None):
        assert "created" not in caplog.text
    run_mistyped_worker(redis_url)
    (line,) = [record for record in caplog.records if "created" in record.message]
    assert line.levelno == logging.WARNING
    assert f"created a new group {MISTYPED} of stream {STREAM}" in line.message
    assert f"which has other groups already: {GROUP}. " in line.message
    assert line.message.endswith(f"groups drop --stream {STREAM} {MISTYPED}")


def test_a_group_that_holds_entries_back_is_in_the_health_data_until_it_is_removed(
    make: Make,
    redis_url: str,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heartbeat_thread, "SURVEY_SECONDS", 0.1)
    monkeypatch.setattr(sweep, "SWEEP_SECONDS", 0.1)
    monkeypatch.setattr(held_back, "HELD_BACK_SECONDS", 0.0)
    consumer = make(lambda *_: None, lease_seconds=1)
    consumer.start()
    run_mistyped_worker(redis_url)
    with RedisStreamProducer(redis_url, STREAM, max_queue_depth=3) as producer:
        producer.publish_many({"n": n} for n in range(3))
        eventually(lambda: any(MISTYPED in one for one in reasons(consumer)))
        assert consumer.get_health_data()["status"] == "degraded"
        assert consumer.ready
        with pytest.raises(QueueFull):
            producer.publish({"n": 3})
        client.xgroup_destroy(STREAM, MISTYPED)
        eventually(lambda: client.xlen(STREAM) == 0)
        eventually(lambda: reasons(consumer) == [])
        producer.publish({"n": 3})


def reasons(consumer: RedisStreamConsumer) -> list[str]:
    found: list[str] = consumer.get_health_data().get("reasons", [])
    return found
