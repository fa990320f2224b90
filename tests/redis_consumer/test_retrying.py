"""A failing message waits, is held by no worker meanwhile, and ends as a dead letter if it must."""

from __future__ import annotations

import json
import time

import pytest
import redis
from consumers import DEAD, STREAM, Make, dead_letters, owners, pending
from helpers import Figures, eventually

from shared_sync import (
    RedisStreamProducer,
    Retry,
    RetryPolicy,
    WorkerMetrics,
    current_message,
)

QUICK = RetryPolicy(max_attempts=3, base_seconds=0.05, max_seconds=0.2)


def test_a_failing_message_waits_is_tried_again_and_succeeds(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    attempts: list[int] = []
    figures = Figures()

    def processor(*_: object) -> str:
        attempts.append(current_message().attempt)
        if len(attempts) < 3:
            raise ValueError("not yet")
        return "done"

    producer.publish({"n": 1})
    make(processor, retry=QUICK, metrics=figures, result_stream="results").start()
    eventually(lambda: client.xlen("results") == 1)
    assert attempts == [1, 2, 3]
    eventually(lambda: figures.counters["jobs_processed"] == 1)
    assert figures.counters["jobs_failed"] == figures.counters["jobs_retried"] == 2
    assert figures.counters["errors.ValueError"] == 2
    assert client.hlen("{jobs}:workers:history") == 0


def test_a_message_that_waits_for_its_retry_is_held_by_no_worker(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    def processor(*_: object) -> None:
        raise Retry(delay_seconds=600)

    message_id = producer.publish({"n": 1})
    consumer = make(processor)
    consumer.start()
    eventually(lambda: client.zcard("{jobs}:workers:due") == 1)
    assert owners(client) == {"~parked": 1}
    due_in = client.zscore("{jobs}:workers:due", message_id) / 1000 - time.time()
    assert 590 < due_in < 601
    assert consumer.stop()
    assert owners(client) == {"~parked": 1}


def test_a_message_that_keeps_failing_becomes_a_dead_letter_with_its_history(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    def processor(*_: object) -> None:
        raise RuntimeError("out of cheese")

    message_id = producer.publish({"name": "n1"})
    figures = Figures()
    make(processor, retry=QUICK, metrics=figures).start()
    eventually(lambda: dead_letters(client))
    (letter,) = dead_letters(client)
    assert letter["name"] == "n1"
    assert letter["dead.id"] == message_id
    assert letter["dead.reason"] == "failed 3 times"
    assert letter["dead.error_type"] == "RuntimeError"
    assert letter["dead.attempts"] == "3"
    assert 'raise RuntimeError("out of cheese")' in letter["dead.traceback"]
    history = [json.loads(line) for line in letter["dead.history"].splitlines()]
    assert [failure["error"] for failure in history] == ["out of cheese"] * 3
    assert client.xlen(STREAM) == pending(client) == 0
    eventually(lambda: figures.counters["jobs_dead"] == 1)
    assert figures.counters["jobs_failed"] == 3


def test_an_entry_that_is_not_text_is_a_dead_letter_and_its_neighbours_live(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    good = []
    producer.publish({"n": 1})
    producer.publish({"audio": b"\xff\xfe"})
    producer.publish({"n": 2})
    make(lambda _, job: good.append(job["n"]), prefetch=10).start()
    eventually(lambda: client.xlen(STREAM) == 0)
    assert good == ["1", "2"]
    (letter,) = dead_letters(client)
    assert "'audio'" in letter["dead.reason"]
    assert "binary_fields" in letter["dead.reason"]
    assert client.xrange(DEAD)[0][1][b"audio"] == b"\xff\xfe"


def test_the_error_rate_counts_every_attempt_once_also_those_of_bad_input(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    metrics = WorkerMetrics("stt-1")

    def processor(_: str, fields: dict[str, str]) -> None:
        if fields["text"] == "fails":
            raise OSError("not today")

    for _ in range(30):
        client.xadd(STREAM, {"text": b"\xff"})
    producer.publish_many([{"text": "fails"}, *({"text": "works"} for _ in range(7))])
    with make(processor, retry=QUICK, metrics=metrics):
        eventually(lambda: client.xlen(STREAM) == 0)
        eventually(lambda: metrics.get_metrics_data()["jobs_dead"] == 31)
    data = metrics.get_metrics_data()
    assert (data["jobs_failed"], data["jobs_retried"], data["jobs_processed"]) == (33, 2, 7)
    assert data["error_rate"] == pytest.approx(33 / 40)
    assert data["errors_by_category"] == {"bad_input": 30, "dependency": 3}
    assert data["errors"] == {"InvalidMessage": 30, "OSError": 3}
