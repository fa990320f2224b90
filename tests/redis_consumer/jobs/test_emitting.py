"""What a processor emits is published when its message is done, and only then."""

from __future__ import annotations

from typing import Any

import redis
from consumers import GROUP, LOGGER, STREAM, Make, dead_letters, results
from helpers import eventually

from shared_sync import (
    RedisStreamConsumer,
    RedisStreamProducer,
    Reject,
    RetryPolicy,
    current_message,
)
from shared_sync.batching import Batching
from shared_sync.message import Message

QUICK = RetryPolicy(max_attempts=3, base_seconds=0.01)
NEXT = "{jobs}:next"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
REPLIES = "{jobs}:replies:ab12"


def emitted(client: redis.Redis, stream: str = NEXT) -> list[dict[bytes, bytes]]:
    rows: Any = client.xrange(stream)
    return [fields for _, fields in rows]


def test_what_the_successful_attempt_emits_is_published_once_and_nothing_of_those_that_failed(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    def processor(*_: object) -> str:
        message = current_message()
        for number in range(message.attempt):
            message.emit(NEXT, {"attempt": message.attempt, "n": number})
        message.emit("other", {"attempt": message.attempt})
        if message.attempt < 2:
            raise ValueError("once more")
        return "done"

    producer.publish({"n": 1})
    make(processor, retry=QUICK, result_stream="results").start()
    eventually(lambda: client.xlen("results") == 1)
    assert emitted(client) == [{b"attempt": b"2", b"n": b"0"}, {b"attempt": b"2", b"n": b"1"}]
    assert emitted(client, "other") == [{b"attempt": b"2"}]
    assert client.xlen(STREAM) == 0


def test_a_message_that_is_given_up_emits_nothing(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    def processor(*_: object) -> None:
        current_message().emit(NEXT, {"a": 1})
        raise Reject("no use")

    producer.publish({"n": 1})
    make(processor).start()
    eventually(lambda: len(dead_letters(client)) == 1)
    assert emitted(client) == []


def test_each_message_of_a_batch_emits_for_itself(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    def process(messages: list[Message]) -> list[object]:
        answers: list[object] = []
        for message in messages:
            message.emit(NEXT, {"n": message.fields["n"]})
            is_bad = message.fields["n"] == "2"
            answers.append(Reject("no use") if is_bad else message.fields["n"])
        return answers

    producer.publish_many([{"n": number} for number in range(4)])
    make(
        None,
        batch_processor=process,
        batch=Batching(max_size=4, max_wait_seconds=5),
        result_stream="results",
    ).start()
    eventually(lambda: client.xlen(STREAM) == 0)
    assert [fields[b"n"] for fields in emitted(client)] == [b"0", b"1", b"3"]
    assert [one["status"] for one in results(client)] == ["done", "done", "done", "dead"]


def test_the_last_stage_of_a_pipeline_answers_the_caller_and_nobody_else_does(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, redis_url: str
) -> None:
    def first(*_: object) -> str:
        message = current_message()
        message.report_progress(0.5)
        message.emit(NEXT, {"text": "hello"}, forward_reply=True)
        return "which nobody gets"

    def second(_: str, fields: dict[str, str | bytes]) -> str:
        assert current_message().reply_to == REPLIES
        assert current_message().traceparent == TRACE
        assert set(fields) == {"text"}
        return str(fields["text"]).upper()

    client.xadd(REPLIES, {"made": "by the caller"})
    message_id = producer.publish({"n": 1}, reply_to=REPLIES, traceparent=TRACE)
    make(first, result_stream="results").start()
    stage = RedisStreamConsumer(
        redis_url, NEXT, GROUP, "second", LOGGER, second, result_stream="results"
    )
    with stage:
        eventually(lambda: results(client, REPLIES)[-1].get("status") == "done")
    _, progress, done = results(client, REPLIES)
    assert progress["status"] == "progress"
    assert progress["message_id"] == done["message_id"] == message_id
    assert done["result"] == "HELLO"
    assert done["traceparent"] == progress["traceparent"] == TRACE
    assert client.exists("results") == 0
