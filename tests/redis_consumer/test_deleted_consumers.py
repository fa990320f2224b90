"""What a consumer does counts although XGROUP DELCONSUMER has taken its messages away meanwhile.

People delete consumers that look idle, as one does that runs a job for hours.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest
import redis
from consumers import GROUP, STREAM, Make, dead_letters, pending, results
from helpers import Figures, eventually
from protocol_client import GroupAdmin, Worker, result

from shared_sync import RedisStreamProducer, Reject, RetryPolicy
from shared_sync.connection.connection import Connection
from shared_sync.protocol import groups
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.messages import Finish


class Deleting:
    """A processor whose consumer is deleted as it runs for the first time."""

    def __init__(self, client: redis.Redis, end: Any) -> None:
        self.client = client
        self.end = end
        self.runs: list[str] = []

    def __call__(self, message_id: str, _: object) -> object:
        self.runs.append(message_id)
        if len(self.runs) == 1:
            self.client.xgroup_delconsumer(STREAM, GROUP, "c1")
        if isinstance(self.end, BaseException):
            raise self.end
        return self.end


@pytest.mark.parametrize("end", ["hello", None])
def test_a_finished_message_counts_and_its_result_is_published_once(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, end: str | None
) -> None:
    message_ids = [producer.publish({"n": n}) for n in range(3)]
    figures = Figures()
    processor = Deleting(client, end)
    make(processor, consumer_id="c1", result_stream="results", metrics=figures, prefetch=3).start()
    eventually(lambda: client.xlen(STREAM) == 0)
    eventually(lambda: figures.counters["jobs_processed"] == 3)
    assert processor.runs == message_ids, "also those that were fetched and not started"
    assert figures.counters["jobs_lost"] == 0
    assert [one["message_id"] for one in results(client)] == (message_ids if end else [])
    assert pending(client) == 0


def test_a_failed_message_is_tried_again(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    producer.publish({"n": 1})
    processor = Deleting(client, ValueError("no"))
    make(processor, consumer_id="c1", retry=RetryPolicy(max_attempts=3, base_seconds=0.01)).start()
    eventually(lambda: dead_letters(client))
    (letter,) = dead_letters(client)
    assert letter["dead.attempts"] == "3"
    assert letter["dead.crashes"] == "0"
    assert letter["dead.history"].count("\n") == 3
    assert client.xlen(STREAM) == 0


def test_a_rejected_message_becomes_a_dead_letter(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    producer.publish({"n": 1})
    make(Deleting(client, Reject("no")), consumer_id="c1", result_stream="results").start()
    eventually(lambda: dead_letters(client))
    assert [one["status"] for one in results(client)] == ["dead"]
    assert client.xlen(STREAM) == 0


def test_messages_that_a_draining_consumer_has_not_started_go_back(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    message_ids = [producer.publish({"n": n}) for n in range(3)]
    deleted, stops = threading.Event(), threading.Event()

    def first(*_: object) -> str:
        client.xgroup_delconsumer(STREAM, GROUP, "c1")
        deleted.set()
        assert stops.wait(10)
        return "first"

    consumer = make(first, consumer_id="c1", result_stream="results", prefetch=3)
    consumer.start()
    assert deleted.wait(10)
    stopping = threading.Thread(target=consumer.stop)
    stopping.start()
    eventually(lambda: pending(client) == 2)
    stops.set()
    stopping.join(20)
    make(lambda *_: "second", consumer_id="c2", result_stream="results").start()
    eventually(lambda: client.xlen("results") == 3)
    assert [one["message_id"] for one in results(client)] == message_ids
    assert [one["result"] for one in results(client)] == ["first", "second", "second"]
    assert client.xlen(STREAM) == 0


def test_a_message_that_still_runs_when_its_consumer_has_to_stop_goes_back(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    message_id = producer.publish({"n": 1})
    deleted, stopped = threading.Event(), threading.Event()

    def hangs(*_: object) -> str:
        client.xgroup_delconsumer(STREAM, GROUP, "c1")
        deleted.set()
        stopped.wait(20)
        return "too late"

    consumer = make(hangs, consumer_id="c1", result_stream="results")
    consumer.start()
    assert deleted.wait(10)
    assert not consumer.stop(timeout=0.1)
    make(lambda *_: "second", consumer_id="c2", result_stream="results").start()
    eventually(lambda: client.xlen("results") == 1)
    stopped.set()
    (answer,) = results(client)
    assert (answer["message_id"], answer["result"]) == (message_id, "second")
    assert client.xlen(STREAM) == 0


def test_messages_that_wait_for_a_retry_are_tried_again_although_their_consumer_was_deleted(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    """It has no process and looks as if it were left over."""
    message_id = producer.publish({"n": 1})
    runs: list[str] = []

    def processor(one: str, _: object) -> str:
        runs.append(one)
        if len(runs) == 1:
            raise ValueError("not yet")
        return "at last"

    make(processor, retry=RetryPolicy(base_seconds=1.0), result_stream="results").start()
    eventually(lambda: client.zcard("{jobs}:workers:due") == 1)
    assert client.xgroup_delconsumer(STREAM, GROUP, "~parked") == 1
    eventually(lambda: client.xlen("results") == 1)
    assert [one["result"] for one in results(client)] == ["at last"]
    assert runs == [message_id] * 2
    assert client.xlen(STREAM) == 0
    assert client.zcard("{jobs}:workers:due") == 0


# --- single commands --------------------------------------------------------------------------


def test_what_another_worker_has_finished_meanwhile_is_not_published_again(
    worker: Worker, other: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    admin.end_lease("w1")
    assert other.recover_id() == taken[0]
    client.xgroup_delconsumer(STREAM, GROUP, "w1")
    assert other.finish(taken[0], result("other")) == 1
    outcomes = [Finish(one, *result(one)[:3]) for one in taken]
    assert worker.settle(*outcomes) == [0, 1, 1]
    assert worker.settle(*outcomes) == [0, 0, 0]
    assert [fields[b"text"].decode() for fields in admin.results()] == ["other", *taken[1:]]
    assert admin.bodies() == []
    assert admin.pending() == {}


def test_if_another_worker_has_taken_a_message_over_failures_and_hand_backs_leave_it_alone(
    worker: Worker, other: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    admin.end_lease("w1")
    assert other.recover_id() == taken[0]
    client.xgroup_delconsumer(STREAM, GROUP, "w1")
    assert worker.park(taken[0], delivery=1) == 0
    assert worker.bury(taken[0]) == 0
    assert worker.hand_back(taken[0]) == [0, 0]
    assert admin.pending() == {taken[0]: ("w2", 2)}
    assert worker.hand_back(*taken[1:]) == [2, 0]
    assert admin.pending()[taken[1]] == ("~parked", 0)


def test_a_message_that_is_named_twice_is_published_once(
    worker: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    client.xgroup_delconsumer(STREAM, GROUP, "w1")
    assert worker.settle(*[Finish(taken[0], *result("A")[:3])] * 2) == [1, 0]
    assert len(admin.results()) == 1


def test_a_failure_that_is_recorded_is_not_recorded_again(
    worker: Worker, other: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    """Its call is repeated, and another worker's consumer was deleted in between."""
    assert worker.park(taken[0], delay_ms=0, delivery=1) == 1
    assert other.recover_id() == taken[0]
    client.xgroup_delconsumer(STREAM, GROUP, "w2")
    assert worker.park(taken[0], delay_ms=0, delivery=1) == 0
    assert other.park(taken[0], failure='{"n":2}', delivery=2) == 1
    assert admin.pending()[taken[0]] == ("~parked", 2)


def test_what_is_to_be_read_again_after_the_group_was_lost_is_not_ended(
    worker: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    client.xgroup_destroy(STREAM, GROUP)
    groups.ensure_group(worker.connection, worker.commands)
    assert worker.finish(taken[0], result("A")) == 0
    assert worker.park(taken[1], delivery=1) == 0
    assert worker.hand_back(taken[2]) == [0, 0]
    assert admin.pending() == {}
    assert [entry.id for entry in worker.read()] == taken


def test_where_several_groups_share_a_stream_nothing_is_published_twice(
    worker: Worker,
    other: Worker,
    connection: Connection,
    admin: GroupAdmin,
    client: redis.Redis,
    taken: list[str],
) -> None:
    """An entry that another group still needs looks the same, finished or not."""
    second = Worker(connection, "x1", keys=Keys.of("jobs", "second"))
    admin.end_lease("w1")
    assert other.recover_id() == taken[0]
    assert other.finish(taken[0], result("other")) == 1
    client.xgroup_delconsumer(STREAM, GROUP, "w1")
    assert worker.settle(*[Finish(one, *result(one)[:3]) for one in taken]) == [0, 0, 0]
    assert [fields[b"text"] for fields in admin.results()] == [b"other"]
    assert [entry.id for entry in second.read()] == taken
