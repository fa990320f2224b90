"""While a child is being ended at its deadline: who has its message, and what health says."""

from __future__ import annotations

import json
import time
from pathlib import Path

import child_processors
import redis
from consumers import GROUP, STREAM, Make, dead_letters, owners
from helpers import eventually

from shared_sync import RedisStreamProducer, RetryPolicy, WorkerMetrics

DEADLINE_SECONDS = 0.3
GRACE_SECONDS = 2.0


def test_a_job_whose_child_is_being_ended_is_late_and_nobody_else_gets_its_message(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    tmp_path: Path,
    metrics: WorkerMetrics,
) -> None:
    """The child does not end on SIGTERM, so it runs on until the grace is over."""
    started = tmp_path / "started"
    producer.publish({"do": "ignore the end", "started": str(started)})
    consumer = make(
        child_processors.act,
        isolation="process",
        job_deadline_seconds=DEADLINE_SECONDS,
        kill_grace_seconds=GRACE_SECONDS,
        retry=RetryPolicy(max_attempts=1),
        metrics=metrics,
    )
    consumer.start()
    eventually(started.exists)
    begun = time.monotonic()
    other: list[str] = []
    make(lambda found, _: other.append(found)).start()
    eventually(lambda: consumer.get_health_data()["jobs_late"] == 1)
    health = consumer.get_health_data()
    assert health["live"] is True
    assert health["status"] == "degraded"
    assert health["readers_stuck"] == 0
    assert [row["state"] for row in consumer.get_views()["readers"]()["readers"]] == ["late"]
    assert owners(client) == {"consumer-1": 1}
    assert client.hlen(f"{{{STREAM}}}:{GROUP}:history") == 0
    eventually(lambda: len(dead_letters(client)) == 1)
    assert time.monotonic() - begun >= GRACE_SECONDS, "not before the child was gone"
    assert other == []
    eventually(lambda: metrics.get_metrics_data().get("jobs_overdue") == 1)
    assert consumer.get_health_data()["live"] is True


def test_a_job_that_was_ended_has_failed_once(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, tmp_path: Path
) -> None:
    """And waits for its retry like any other failure."""
    producer.publish({"do": "loop", "started": str(tmp_path / "started")})
    make(
        child_processors.act,
        isolation="process",
        job_deadline_seconds=DEADLINE_SECONDS,
        kill_grace_seconds=0.1,
        retry=RetryPolicy(base_seconds=60),
    ).start()
    history = f"{{{STREAM}}}:{GROUP}:history"
    eventually(lambda: client.hlen(history) == 1)
    (lines,) = client.hvals(history)
    (failure,) = map(json.loads, lines.splitlines())
    assert failure["error_type"] == "deadline"
    assert failure["attempt"] == 1
    assert owners(client) == {"~parked": 1}
