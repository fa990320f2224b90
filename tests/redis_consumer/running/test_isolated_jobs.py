"""What a message can do while it runs, it can do in a child process as well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import job_processors
import pytest
import redis
from consumers import Make, dead_letters, results
from helpers import eventually

from shared_sync import Batching, RedisStreamProducer, RetryPolicy, WorkerMetrics
from shared_sync.protocol.job_options import OPTIONS, TYPES, JobOptions
from shared_sync.redis_consumer.running.received_progress import ReceivedProgress

REPLIES = "{jobs}:replies:a"


def send(client: redis.Redis, options: JobOptions, **fields: str) -> str:
    """Publish a message with options; return its id."""
    sent: Any = client.xadd("jobs", {**fields, OPTIONS: options.to_item()})
    return str(sent.decode())


def raw(client: redis.Redis, stream: str) -> list[dict[bytes, bytes]]:
    return [fields for _, fields in client.xrange(stream)]


def test_what_is_emitted_in_a_child_is_written_when_its_message_is_done(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    make(job_processors.emit, isolation="process", result_stream="results").start()
    sent = producer.publish({"text": "hello", "streams": "next other"})
    producer.publish({"streams": "other"})  # has no result
    eventually(lambda: client.xlen("other") == 2 and client.xlen("jobs") == 0)
    (result,) = raw(client, "results")
    assert (result[b"message_id"], result[b"length"]) == (sent.encode(), b"5")
    audio = b"\xff\xfe"
    assert raw(client, "next") == [{b"text": b"hello", b"audio": audio}]
    assert [one[b"text"] for one in raw(client, "other")] == [b"hello", b""]


def test_a_caller_gets_the_result_of_a_child_or_of_the_message_that_the_child_has_forwarded(
    make: Make, client: redis.Redis
) -> None:
    make(job_processors.emit, isolation="process", result_stream="results").start()
    client.xadd(REPLIES, {"begin": "0"})
    asked = JobOptions(reply_to=REPLIES, traceparent="00-1", expires_seconds=60)
    answered = send(client, asked, text="hello")
    nothing = send(client, asked)
    forwarded = send(client, asked, text="on", forward="{jobs}:next")
    eventually(lambda: client.xlen("{jobs}:next") == 1 and client.xlen("jobs") == 0)
    _, answer, empty = raw(client, REPLIES)
    assert json.loads(answer.pop(TYPES.encode())) == {"json": ["length"], "bytes": ["raw"]}
    assert answer == {
        b"message_id": answered.encode(),
        b"status": b"done",
        b"traceparent": b"00-1",
        b"length": b"5",
        b"raw": b"\xff",
    }
    assert empty == {
        b"message_id": nothing.encode(),
        b"status": b"done",
        b"traceparent": b"00-1",
    }
    (emitted,) = raw(client, "{jobs}:next")
    options = JobOptions.parse(emitted[OPTIONS.encode()])
    assert (options.reply_to, options.id, options.traceparent) == (REPLIES, forwarded, "00-1")
    assert options.expires_seconds is not None
    assert 0 < options.expires_seconds < 60
    assert raw(client, "results") == [], "only the message that was forwarded has a result"


def test_each_message_of_a_batch_in_a_child_emits_on_its_own(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    consumer = make(
        None,
        batch_processor=job_processors.emit_batch,
        batch=Batching(max_size=4, max_wait_seconds=5),
        isolation="process",
        result_stream="results",
        retry=RetryPolicy(max_attempts=1),
    )
    producer.publish_many([{"n": n} for n in range(4)])
    consumer.start()
    eventually(lambda: client.xlen("results") == 4)
    assert [fields[b"n"] for fields in raw(client, "next")] == [b"0", b"2"]
    found = {one["status"]: one for one in results(client)}
    assert found["dead"]["error_type"] == "ValueError"


@pytest.mark.parametrize("do", ["die", "fail"])
def test_the_next_attempt_gets_the_last_progress_of_a_child(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, do: str
) -> None:
    make(
        job_processors.count,
        isolation="process",
        result_stream="results",
        retry=RetryPolicy(max_attempts=2, base_seconds=0.01),
        max_crashes=2,
        progress_per_second=1000,
    ).start()
    producer.publish({"places": 10, "at": 6, "do": do})
    eventually(lambda: results(client) and results(client)[-1]["status"] == "done")
    *progress, done = results(client)
    assert done["result"] == "from 7"
    places = [int(one["place"]) for one in progress]
    assert places == sorted(set(places)), "in their order, each once"
    assert {6, 9} <= set(places), "the last of each attempt"
    assert {one["status"] for one in progress} == {"progress"}
    assert progress[-1]["text"] == "part 9"
    eventually(lambda: client.hlen("{jobs}:workers:progress") == 0)


@pytest.mark.parametrize("then", ["return", "raise", "fail", "die", "ignore"])
def test_a_cancelled_message_that_runs_in_a_child_ends_cancelled_unless_it_is_done(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    tmp_path: Path,
    metrics: WorkerMetrics,
    then: str,
) -> None:
    make(
        job_processors.wait,
        isolation="process",
        result_stream="results",
        lease_seconds=1.0,
        kill_grace_seconds=0.1 if then == "ignore" else 60.0,
        max_crashes=1,
        retry=RetryPolicy(max_attempts=1),
        metrics=metrics,
    ).start()
    started = tmp_path / "started"
    sent = producer.publish({"started": started, "then": then})
    eventually(started.exists)
    assert producer.cancel(sent) == "running"
    eventually(lambda: client.xlen("results") == 1)
    (result,) = results(client)
    if then == "return":
        assert (result["status"], result["result"]) == ("done", "done nevertheless")
    else:
        assert (result["status"], result["reason"]) == ("cancelled", "cancelled")
    assert dead_letters(client) == []
    eventually(lambda: client.xlen("jobs") == 0)
    counted = metrics.get_metrics_data()
    ended = {name for name in ("children_cancelled", "children_crashed") if counted.get(name)}
    assert ended == {"ignore": {"children_cancelled"}, "die": {"children_crashed"}}.get(then, set())


def test_in_a_batch_in_a_child_only_the_cancelled_message_ends_and_the_others_run_again(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, tmp_path: Path
) -> None:
    consumer = make(
        None,
        batch_processor=job_processors.wait_batch,
        batch=Batching(max_size=2, max_wait_seconds=5),
        isolation="process",
        result_stream="results",
        lease_seconds=1.0,
        kill_grace_seconds=0.0,
    )
    started = tmp_path / "started"
    first = producer.publish({"started": started})
    second = producer.publish({"started": started})
    consumer.start()
    eventually(started.exists)
    producer.cancel(second)
    eventually(lambda: client.xlen("results") == 2)
    found = {one["message_id"]: (one["status"], one.get("result")) for one in results(client)}
    assert found == {first: ("done", "alone"), second: ("cancelled", None)}


def test_the_last_progress_of_a_child_arrives_although_the_channel_beside_the_jobs_is_late(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ReceivedProgress, "receive", lambda *_: None)
    make(job_processors.count, isolation="process", result_stream="results").start()
    producer.publish({"places": 10, "at": 6, "do": "fail"})
    eventually(lambda: results(client) and results(client)[-1]["status"] == "done")
    assert [one.get("place") for one in results(client)] == ["6", "9", None]
