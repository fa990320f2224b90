"""While somebody has paused the group, its consumers take no messages, and are well."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import child_processors
import pytest
import redis
from consumers import GROUP, STREAM, Make, owners, results
from helpers import Figures, Gate, eventually
from protocol_client import KEYS, make_connection

from shared_sync import (
    Batching,
    Message,
    ProcessorContext,
    RedisStreamConsumer,
    RedisStreamProducer,
    Retry,
)
from shared_sync.connection.connection import Connection
from shared_sync.errors import GroupMissing
from shared_sync.group_status import pause, resume
from shared_sync.protocol import group_reading


class Batches:
    """Answers several messages at once."""

    def __init__(self, _: ProcessorContext) -> None: ...

    def process_batch(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        return [dict(message.fields) for message in messages]


QUICK = {"lease_seconds": 1.2, "result_stream": "results"}
"""Five heartbeats a second."""


@pytest.fixture
def connection(redis_url: str) -> Iterator[Connection]:
    with closing(make_connection(redis_url)) as made:
        yield made


def await_confirmation(connection: Connection, *names: str) -> None:
    """Wait until these consumers have confirmed the pause, and sent two more heartbeats."""

    def confirmed() -> dict[str, int | None]:
        found = group_reading.read(connection, KEYS).consumers
        return {one.name: one.lease_end_ms for one in found if one.has_paused}

    eventually(lambda: set(names) <= set(confirmed()))
    for _ in range(2):
        before = confirmed()
        eventually(lambda: all((confirmed()[name] or 0) > (before[name] or 0) for name in names))  # noqa: B023


def test_what_runs_is_finished_and_all_else_waits_uncharged_until_somebody_resumes(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, connection: Connection
) -> None:
    hold, retried, figures = Gate("done"), threading.Event(), Figures()

    def processor(_: str, job: dict[str, str]) -> Any:
        if job["n"] == "retry" and not retried.is_set():
            retried.set()
            raise Retry(0.5)
        return hold()

    consumer = make(processor, consumer_id="w1", metrics=figures, prefetch=5, **QUICK)
    consumer.start()
    producer.publish({"n": "retry"})
    assert retried.wait(10)
    producer.publish({"n": "runs"})
    assert hold.entered.wait(10)
    producer.publish_many([{"n": n} for n in range(3)])
    assert pause(connection, KEYS, by="alice", reason="a new model") is None
    again = pause(connection, KEYS, by="bob")
    assert again is not None
    assert again.by == "alice", "the first pause stays"
    eventually(lambda: consumer.get_health_data()["paused"])
    health = consumer.get_health_data()
    assert (health["live"], health["ready"], health.get("reasons")) == (True, True, None)
    assert (health["paused_by"], health["paused_reason"]) == ("alice", "a new model")
    hold.opened.set()
    await_confirmation(connection, "w1")
    assert len(results(client)) == 1, "what ran is finished, and nothing else was started"
    assert figures.gauges["group_paused"] == figures.gauges["consumer_paused"] == 1
    deliveries = {
        row["message_id"].decode(): row["times_delivered"]
        for row in client.xpending_range(STREAM, GROUP, "-", "+", 10)
    }
    assert set(owners(client)) == {"~parked"}
    assert sum(deliveries.values()) == 1, "only the retry is charged, for its first attempt"
    ended = resume(connection, KEYS)
    assert ended == again
    assert resume(connection, KEYS) is None
    eventually(lambda: len(results(client)) == 5, within=5)
    assert consumer.get_health_data()["paused"] is False
    eventually(lambda: figures.gauges["group_paused"] == figures.gauges["consumer_paused"] == 0)
    assert client.exists(KEYS.paused) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 2},
        {"isolation": "process"},
        {"processor_factory": Batches, "batch": Batching(max_size=4, max_wait_seconds=0.01)},
    ],
    ids=["threads", "process", "batch"],
)
def test_a_worker_that_starts_in_a_paused_group_takes_nothing_and_dead_ones_keep_theirs(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    connection: Connection,
    options: dict[str, Any],
) -> None:
    client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
    pause(connection, KEYS, by="alice")
    producer.publish_many([{"n": n} for n in range(6)])
    client.xreadgroup(GROUP, "dead", {STREAM: ">"}, count=1)
    client.zadd(KEYS.presence, {"dead": 1})
    processor = None if "processor_factory" in options else child_processors.answer
    consumers: list[RedisStreamConsumer] = []
    for name in ("w1", "w2"):
        consumers.append(make(processor, consumer_id=name, **QUICK, **options))
        consumers[-1].start()
    await_confirmation(connection, "w1", "w2")
    assert results(client) == []
    assert owners(client) == {"dead": 1}
    assert all(one.get_health_data()["ready"] for one in consumers)
    assert consumers[1].stop()
    assert client.hexists(KEYS.paused, "consumer:w1")
    assert not client.hexists(KEYS.paused, "consumer:w2"), "who leaves is forgotten"
    resume(connection, KEYS)
    eventually(lambda: len(results(client)) == 6)


def test_a_group_that_does_not_exist_is_not_paused(
    client: redis.Redis, connection: Connection
) -> None:
    client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
    for change in (
        lambda keys: pause(connection, keys, by="a"),
        lambda keys: resume(connection, keys),
    ):
        with pytest.raises(GroupMissing, match="did you mean 'workers'"):
            change(KEYS.of(STREAM, "wrokers"))
    assert client.keys("*paused") == []
