"""Results reach their stream and channel, also of messages that die, and none is lost."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis
from consumers import STREAM, Make, dead_letters, pending, results
from helpers import Figures, eventually

from shared_sync import RedisStreamProducer, Reject


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
    types = '{"json": ["words"]}'
    content = {"client_id": "c1", "text": "hello", "words": "1", "shared_sync.types": types}
    assert results(client) == [
        {"message_id": first, "status": "done", **content},
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


@pytest.mark.parametrize("result_stream", [None, "results"])
@pytest.mark.parametrize(
    ("make_result", "told"),
    [
        (lambda: (iter(["segment"]), {"language": "en"}), "result[0] is a list_iterator"),
        (lambda: _asynchronous("id", {}), "result is a coroutine"),
        (lambda: {"segments": map(str, [1])}, "result.segments is a map"),
    ],
)
def test_a_result_that_has_not_run_is_a_dead_letter_after_one_run(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    make_result: Callable[[], object],
    told: str,
    result_stream: str | None,
) -> None:
    producer.publish({"n": 1})
    runs: list[str] = []

    def processor(message_id: str, _: object) -> object:
        runs.append(message_id)
        return make_result()

    make(processor, result_stream=result_stream).start()
    eventually(lambda: dead_letters(client))
    (letter,) = dead_letters(client)
    assert letter["dead.reason"].startswith("bad result: ")
    assert f"{told}, which has not run" in letter["dead.reason"]
    assert letter["dead.error_type"] == "InvalidResult"
    assert letter["dead.attempts"] == "1"
    assert len(runs) == 1
    assert [answer["status"] for answer in results(client)] == ["dead"] * bool(result_stream)


def test_a_result_without_a_form_is_a_dead_letter_after_one_run_and_names_the_place(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    producer.publish({"n": 1})
    runs: list[str] = []

    def processor(message_id: str, _: object) -> object:
        runs.append(message_id)
        return {"segments": [{"score": 0.5}, {"score": float("nan")}]}

    make(processor, result_stream="results").start()
    eventually(lambda: client.xlen("results"))
    assert "result.segments[1].score is nan" in dead_letters(client)[0]["dead.reason"]
    (answer,) = results(client)
    assert (answer["status"], answer["error_type"]) == ("dead", "InvalidResult")
    assert len(runs) == 1


def test_dates_paths_and_the_like_are_published_as_text(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    producer.publish({"at": datetime.date(2026, 1, 2), "file": Path("/a/b.wav")})

    def processor(_: str, job: dict[str, str]) -> object:
        at = datetime.date.fromisoformat(job["at"])
        return {"at": at, "file": Path(job["file"]), "words": [{"cost": Decimal("1.10")}]}

    make(processor, result_stream="results").start()
    eventually(lambda: client.xlen("results"))
    (answer,) = results(client)
    assert (answer["at"], answer["file"]) == ("2026-01-02", "/a/b.wav")
    assert json.loads(answer["words"]) == [{"cost": "1.10"}]


def test_a_result_cannot_pass_itself_off_as_that_of_another_message(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    message_ids = producer.publish_many({"status": "new", "message_id": "9-9"} for _ in range(2))
    make(lambda _id, job: job, result_stream="results").start()
    eventually(lambda: client.xlen("results") == 2)
    assert results(client) == [
        {
            "message_id": message_id,
            "status": "done",
            "result.status": "new",
            "result.message_id": "9-9",
        }
        for message_id in message_ids
    ]
    assert sum("which every result has already" in line for line in caplog.messages) == 1


async def _asynchronous(_: str, __: object) -> None: ...


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
