"""Cancelled and expired messages in whole consumers: none of them starts, each ends once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest
import redis
from consumers import DEAD, STREAM, Make, owners, results
from helpers import Figures, eventually
from protocol_client import make_connection

from shared_sync import Message, RedisStreamProducer, Retry, current_message
from shared_sync.batching import Batching
from shared_sync.protocol import cancelling
from shared_sync.protocol.job_options import OPTIONS, JobOptions
from shared_sync.protocol.keys import StreamKeys
from shared_sync.redis_consumer.jobs import cancellations

KEYS = StreamKeys.of(STREAM)
Cancel = Callable[[str], str]


@pytest.fixture
def cancel(redis_url: str) -> Iterator[Cancel]:
    with closing(make_connection(redis_url)) as connection:
        yield lambda message_id: cancelling.cancel(connection, KEYS, message_id)


class Gate:
    """A processor that keeps the first message until the test lets it go on."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.is_in = threading.Event()
        self.may_go_on = threading.Event()

    def __call__(self, message_id: str, _: dict[str, Any]) -> str:
        self.started.append(message_id)
        self.is_in.set()
        assert self.may_go_on.wait(15)
        return "done"

    def batch(self, messages: Sequence[Message]) -> list[str]:
        self.started += [message.id for message in messages]
        self.is_in.set()
        assert self.may_go_on.wait(15)
        return ["done"] * len(messages)


def statuses(client: redis.Redis) -> dict[str, str]:
    found = results(client)
    assert len({one["message_id"] for one in found}) == len(found), "each message ends once"
    return {one["message_id"]: one["status"] for one in found}


@pytest.mark.parametrize("prefetch", [1, 10])
def test_a_message_that_is_cancelled_while_it_waits_never_starts(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    cancel: Cancel,
    prefetch: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether it was read already or not."""
    monkeypatch.setattr(cancellations, "FRESH_SECONDS", 0.0)
    gate, figures = Gate(), Figures()
    ids = producer.publish_many([{"n": n} for n in range(4)])
    make(gate, prefetch=prefetch, result_stream="results", metrics=figures).start()
    assert gate.is_in.wait(15)
    place = cancelling.WAITING if prefetch == 1 else cancelling.RUNNING
    assert [cancel(one) for one in ids[1:3]] == [place] * 2
    gate.may_go_on.set()
    eventually(lambda: len(results(client)) == 4)
    expected = dict(zip(ids, ["done", "cancelled", "cancelled", "done"], strict=True))
    assert statuses(client) == expected
    assert gate.started == [ids[0], ids[3]]
    eventually(lambda: client.xlen(STREAM) == 0)
    assert cancel(ids[1]) == cancelling.ENDED


def test_a_message_that_is_cancelled_while_its_batch_waits_for_more_never_starts(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, cancel: Cancel
) -> None:
    gate = Gate()
    gate.may_go_on.set()
    first, second = producer.publish_many([{"n": n} for n in range(2)])
    batching = Batching(max_size=3, max_wait_seconds=10)
    options = {"batch_processor": gate.batch, "batch": batching, "result_stream": "results"}
    make(None, **options).start()
    eventually(lambda: owners(client) == {"consumer-1": 2})
    assert cancel(first) == cancelling.RUNNING
    producer.publish_many([{"n": n} for n in range(2)])
    eventually(lambda: len(results(client)) >= 3)
    assert statuses(client)[first] == "cancelled"
    assert first not in gate.started
    assert second in gate.started


def test_a_parked_message_that_is_cancelled_ends_at_once(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, cancel: Cancel
) -> None:
    started: list[str] = []

    def processor(message_id: str, _: dict[str, Any]) -> None:
        started.append(message_id)
        raise Retry(delay_seconds=600)

    message_id = producer.publish({"n": 1})
    make(processor, result_stream="results").start()
    eventually(lambda: owners(client) == {"~parked": 1})
    assert cancel(message_id) == cancelling.PARKED
    eventually(lambda: results(client))
    assert statuses(client) == {message_id: "cancelled"}
    assert started == [message_id]
    assert client.hlen("{jobs}:workers:history") == 0


def test_a_message_that_runs_learns_that_it_is_cancelled(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, cancel: Cancel
) -> None:
    is_in = threading.Event()

    def processor(*_: object) -> None:
        message = current_message()
        is_in.set()
        assert message.cancelled.wait(15)
        message.raise_if_cancelled()

    message_id = producer.publish({"n": 1})
    make(processor, result_stream="results").start()
    assert is_in.wait(15)
    assert cancel(message_id) == cancelling.RUNNING
    eventually(lambda: results(client))
    assert statuses(client) == {message_id: "cancelled"}
    assert client.xlen(DEAD) == 0


def test_a_message_that_fails_after_it_was_cancelled_waits_for_no_retry(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, cancel: Cancel
) -> None:
    gate = Gate()

    def processor(message_id: str, fields: dict[str, Any]) -> None:
        gate(message_id, fields)
        raise Retry(delay_seconds=600)

    options = JobOptions(id="job-1").to_item()
    other_id = client.xadd(STREAM, {"n": 1, OPTIONS: options}).decode()
    message_id = producer.publish({"n": 2})
    make(processor, threads=2, prefetch=1, result_stream="results").start()
    eventually(lambda: len(gate.started) == 2)
    client.zadd(KEYS.cancelled, {"job-1": 10**15})
    assert cancel(message_id) == cancelling.RUNNING
    gate.may_go_on.set()
    eventually(lambda: len(results(client)) == 2)
    assert statuses(client) == {"job-1": "cancelled", message_id: "cancelled"}
    assert sorted(gate.started) == sorted([other_id, message_id])


def test_expired_messages_are_not_run_whether_new_parked_or_of_a_batch(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    gate, figures = Gate(), Figures()
    gate.may_go_on.set()
    long_ago = "1700000000000-1"
    client.xadd(STREAM, {"n": 1}, id=long_ago)
    fresh = producer.publish({"n": 2})
    make(gate, max_age_seconds=60, result_stream="results", metrics=figures).start()
    eventually(lambda: len(results(client)) == 2)
    assert statuses(client) == {long_ago: "expired", fresh: "done"}
    assert gate.started == [fresh]
    assert client.xlen(DEAD) == 0
    eventually(lambda: client.xlen(STREAM) == 0)


def test_a_retry_ends_when_its_message_expires(make: Make, client: redis.Redis) -> None:
    started: list[str] = []

    def processor(message_id: str, _: dict[str, Any]) -> None:
        started.append(message_id)
        raise Retry(delay_seconds=600)

    options = JobOptions(expires_seconds=0.5).to_item()
    make(processor, result_stream="results").start()
    message_id = client.xadd(STREAM, {"n": 1, OPTIONS: options}).decode()
    eventually(lambda: results(client))
    (result,) = results(client)
    assert (result["message_id"], result["status"]) == (message_id, "expired")
    assert result["reason"] == "expired after 0.5 s"
    assert started == [message_id]
