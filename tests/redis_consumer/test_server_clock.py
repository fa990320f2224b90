"""Waits in the queue are measured by the server's clock, whatever the worker's clock shows."""

from __future__ import annotations

import time

import pytest
import redis
from consumers import STREAM, Make
from helpers import Clock, eventually

from shared_sync import RedisStreamProducer, WorkerMetrics
from shared_sync.redis_consumer.server_clock import SLOWEST_REPLY_SECONDS, ServerClock

HOUR = 3600.0


def test_the_servers_time_is_that_of_the_middle_of_a_call() -> None:
    server = ServerClock(clock=lambda: 100.0, wall=lambda: 5000.0)
    assert server.offset_seconds == 4900.0
    server.heard(9_000_000, asked_at=110.0, answered_at=112.0)  # the first, however slow
    assert server.offset_seconds == 9000.0 - 111.0
    server.heard(9_010_000, asked_at=120.0, answered_at=120.5)
    assert server.offset_seconds == 9010.0 - 120.25
    server.heard(9_990_000, asked_at=130.0, answered_at=130.1 + SLOWEST_REPLY_SECONDS)
    assert server.offset_seconds == 9010.0 - 120.25


def test_a_slow_reply_changes_nothing_that_a_quick_one_has_shown() -> None:
    server = ServerClock(clock=lambda: 100.0, wall=lambda: 5000.0)
    server.heard(9_000_000, asked_at=110.0, answered_at=110.002)
    known = server.offset_seconds
    server.heard(9_001_000, asked_at=110.9, answered_at=111.4)  # written 0.1 s after it was asked
    assert server.offset_seconds == known
    server.heard(9_100_000, asked_at=120.0, answered_at=120.4)  # the server's clock was set
    assert server.offset_seconds == 9100.0 - 120.2
    server.heard(9_100_900, asked_at=121.0, answered_at=121.002)  # as quick as the first
    assert server.offset_seconds == 9100.9 - 121.001


def test_waits_are_right_on_a_worker_whose_clock_is_wrong(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() - HOUR)
    metrics = WorkerMetrics("stt-1")
    producer.publish_many([{"n": str(number)} for number in range(10)])
    with make(lambda *_: None, metrics=metrics):
        eventually(lambda: client.xlen(STREAM) == 0)
        eventually(lambda: metrics.get_metrics_data()["jobs_processed"] == 10)
    data = metrics.get_metrics_data()
    assert data["queue_wait_count"] == 10
    assert 0.0 <= data["max_queue_wait_ms"] < 60_000
    assert "queue_wait_unknown" not in data


def test_ids_that_publishers_chose_do_not_spoil_the_waits(make: Make, client: redis.Redis) -> None:
    metrics = WorkerMetrics("stt-1")
    client.xadd(STREAM, {"n": "chosen"}, id="1-1")
    client.xadd(STREAM, {"n": "given"})
    client.xadd(STREAM, {"n": "ahead"}, id=f"{int((Clock.now + 10**10) * 1000)}-0")
    client.xadd(STREAM, {"n": "behind one that is ahead"})
    with make(lambda *_: None, metrics=metrics):
        eventually(lambda: client.xlen(STREAM) == 0)
        eventually(lambda: metrics.get_metrics_data()["jobs_processed"] == 4)
    data = metrics.get_metrics_data()
    assert (data["queue_wait_count"], data["queue_wait_unknown"]) == (1, 3)
    assert data["max_queue_wait_ms"] < 60_000
