"""Results reach their stream and channel, also of messages that die, and none is lost."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import redis
from consumers import STREAM, Make, dead_letters, pending, results
from helpers import Figures, eventually

from shared_sync import RedisStreamProducer, Reject, RetryPolicy


def test_a_mapping_becomes_the_fields_of_a_result_and_anything_else_the_field_result(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    first = producer.publish({"client_id": "c1", "kind": "mapping"})
    second = producer.publish({"client_id": "c2", "kind": "text"})
    producer.publish({"client_id": "c3", "kind": "none"})

    def processor(_: str, job: dict[str, str]) -> object:
        return {"mapping": {"text": "hello", "words": 1}, "text": "plain"}.get(job["kind"])

    make(processor, result_stream="results", carry_fields=("client_id",)).start()
    eventually(lambda: client.xlen(STREAM) == 0)
    assert results(client) == [
        {"message_id": first, "status": "done", "client_id": "c1", "text": "hello", "words": "1"},
        {"message_id": second, "status": "done", "client_id": "c2", "result": "plain"},
    ]


def test_results_are_published_on_the_channel_named_by_the_message(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    with client.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe("results:c7")
        eventually(lambda: client.pubsub_numsub("results:c7")[0][1] == 1)
        message_id = producer.publish({"client_id": "c7"})
        make(lambda *_: {"text": "schön"}, result_channel="results:{client_id}").start()
        received: list[dict[str, Any]] = []
        eventually(lambda: received.append(listener.get_message()) or any(received))
    (answer,) = filter(None, received)
    expected = {"message_id": message_id, "status": "done", "text": "schön"}
    assert json.loads(answer["data"]) == expected


def test_who_waits_for_a_message_that_dies_gets_an_error_result(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    message_id = producer.publish({"client_id": "c1"})

    def processor(*_: object) -> None:
        raise Reject("no speech in it")

    make(processor, result_stream="results", carry_fields=("client_id",)).start()
    eventually(lambda: client.xlen("results"))
    (answer,) = results(client)
    assert answer["message_id"] == message_id
    assert answer["status"] == "dead"
    assert answer["client_id"] == "c1"
    assert answer["reason"] == "rejected: no speech in it"


def test_a_result_that_cannot_be_written_is_a_failure_that_names_the_field(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    producer.publish({"n": 1})
    make(
        lambda *_: {"tensor": object()},
        result_stream="results",
        retry=RetryPolicy(max_attempts=1),
    ).start()
    eventually(lambda: dead_letters(client))
    assert "'tensor'" in dead_letters(client)[0]["dead.error"]


async def _asynchronous(_: str, __: object) -> None: ...


def test_a_result_that_has_not_run_is_a_failure_and_not_done(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    producer.publish({"n": 1})
    disguised = partial(lambda job, *_: _asynchronous(*job), ("id", {}))
    make(disguised, retry=RetryPolicy(max_attempts=1)).start()
    eventually(lambda: dead_letters(client))
    assert "has not run" in dead_letters(client)[0]["dead.error"]


def test_results_that_redis_refuses_are_kept_and_what_was_done_beside_them_counts_as_done(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    figures = Figures()
    producer.publish_many({"n": n} for n in range(4))

    def processor(_: str, job: dict[str, str]) -> str | None:
        if job["n"] == "0":
            client.set("results", "in the way")
        return job["n"] if job["n"] in "13" else None

    consumer = make(processor, prefetch=4, result_stream="results", metrics=figures)
    consumer.start()
    eventually(lambda: not consumer.redis_connected)
    assert 2 <= pending(client) <= 3, "those with a result, and perhaps one that was not started"
    client.delete("results")
    eventually(lambda: client.xlen(STREAM) == 0)
    eventually(lambda: figures.counters["jobs_processed"] == 4)
    assert [answer["result"] for answer in results(client)] == ["1", "3"]
    assert figures.counters["jobs_lost"] == 0
    eventually(lambda: consumer.redis_connected)
