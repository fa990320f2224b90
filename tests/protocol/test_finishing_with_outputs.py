"""Ending messages with entries of several streams, and messages that have not run.

Of each message all entries are written or none, whatever is refused and however often it is sent.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from protocol_client import KEYS, METADATA, GroupAdmin, Worker, result

from shared_sync.connection.connection import Connection
from shared_sync.errors import RedisRefused
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.messages import Address, Answer, Bury, Finish, Output
from shared_sync.protocol.replies import DROPPED, is_final, parse_settled

REPLIES = "{jobs}:replies:ab12"
CALLER = Address(REPLIES, may_create=False)
NEXT = "{jobs}:next"


def out(text: str, stream: str = NEXT) -> Output:
    return Output(stream, [b"text", text.encode()])


def answer(text: str, address: Address = CALLER) -> Answer:
    return result(text)._replace(address=address)


def texts(client: redis.Redis, stream: str) -> list[str]:
    return [fields[b"text"].decode() for _, fields in client.xrange(stream)]


def refusals(worker: Worker, *outcomes: Finish) -> dict[int, str]:
    """Send outcomes in one call; return why some were refused, by their places."""
    reply = worker.connection.call(*worker.commands.finish_with_outputs(outcomes))
    return {place: str(error) for place, error in parse_settled(reply).refusals.items()}


@pytest.fixture
def waits(client: redis.Redis) -> str:
    """The stream of a caller that waits for its reply."""
    client.xgroup_create(REPLIES, "unused", mkstream=True)
    return REPLIES


def test_all_that_a_message_publishes_is_written_in_order_and_the_message_ends(
    worker: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str], waits: str
) -> None:
    outputs = [out("a"), out("b", "{jobs}:other"), out("c")]
    finish = Finish(taken[0], result("A").items, outputs=outputs, address=CALLER)
    assert worker.settle(finish) == [1]
    assert texts(client, NEXT) == ["a", "c"]
    assert texts(client, "{jobs}:other") == ["b"]
    assert texts(client, waits) == ["A"]
    assert admin.results() == []
    assert admin.bodies() == taken[1:]
    assert list(admin.pending()) == taken[1:]


def test_sending_it_again_writes_nothing(
    worker: Worker, admin: GroupAdmin, taken: list[str], waits: str
) -> None:
    finish = Finish(taken[0], result("A").items, outputs=[out("a")], address=CALLER)
    assert worker.settle(finish) == [1]
    before = admin.everything()
    assert worker.settle(finish) == [0]
    assert admin.everything() == before


def test_messages_of_all_kinds_end_in_one_call(
    worker: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str], waits: str
) -> None:
    outcomes = [
        Finish(taken[0], outputs=[out("a")]),
        Finish(taken[1], result("expired").items, status="expired", address=CALLER),
        Finish(taken[2], result("cancelled").items, status="cancelled"),
        Finish(taken[0], outputs=[out("twice")]),
    ]
    reply = worker.connection.call(*worker.commands.finish_with_outputs(outcomes))
    assert parse_settled(reply).results == [1, 1, 1, 0]
    assert (texts(client, NEXT), texts(client, waits)) == (["a"], ["expired"])
    assert admin.results() == [{b"text": b"cancelled"}]
    assert admin.bodies() == []


def test_the_usual_header_is_written_for_a_result_with_an_address(
    worker: Worker, client: redis.Redis, taken: list[str]
) -> None:
    finish = Finish(taken[0], [b"text", b"A"], adds_header=True, address=Address("results:g1"))
    assert worker.settle(finish) == [1]
    ((_, fields),) = client.xrange("results:g1")
    assert list(fields.items()) == [
        (b"message_id", taken[0].encode()),
        (b"status", b"done"),
        (b"text", b"A"),
    ]


def test_nothing_is_written_without_a_result_stream(
    connection: Connection, client: redis.Redis, admin: GroupAdmin
) -> None:
    worker = Worker(connection, "w1", results=None)
    (message_id,) = worker.publish([b"n", b"1"])
    worker.read()
    assert worker.settle(Finish(message_id, status="expired")) == [1]
    assert admin.bodies() == []


# --- callers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gone", "no stream", "no ids left"])
def test_a_reply_is_dropped_if_its_stream_cannot_take_it_and_its_message_ends_all_the_same(
    worker: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str], kind: str
) -> None:
    if kind == "no stream":
        client.set(REPLIES, "text")
    elif kind == "no ids left":
        client.xadd(REPLIES, {"n": 1}, id=f"{2**64 - 1}-{2**64 - 1}")
    before = client.dump(REPLIES)
    finish = Finish(taken[0], result("A").items, outputs=[out("a")], address=CALLER)
    assert worker.settle(finish) == [DROPPED]
    assert worker.settle(Bury(taken[1], "", METADATA, answer("dead"))) == [DROPPED]
    assert client.dump(REPLIES) == before
    assert texts(client, NEXT) == ["a"]
    assert len(admin.dead()) == 1
    assert admin.bodies() == taken[2:]
    assert worker.settle(finish) == [0]


def test_the_reply_of_a_dead_message_goes_to_its_caller(
    worker: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str], waits: str
) -> None:
    bury = Bury(taken[0], "", METADATA, answer("dead"))
    assert worker.settle(bury) == [1]
    assert worker.settle(bury) == [0]
    assert texts(client, waits) == ["dead"]
    assert admin.results() == []
    named = answer("dead", Address("results:g1"))
    assert worker.settle(Bury(taken[1], "", METADATA, named)) == [1]
    assert texts(client, "results:g1") == ["dead"]


def test_a_message_is_buried_without_a_result_that_its_stream_never_takes(
    worker: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    client.set("results:g1", "text")
    bury = Bury(taken[0], "", METADATA, answer("dead", Address("results:g1")))
    reply = parse_settled(worker.connection.call(*worker.commands.bury(bury)))
    assert (reply.results, len(admin.dead())) == ([1], 1)
    assert "WRONGTYPE" in str(reply.unpublished)


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1, 2])
def test_if_one_entry_is_refused_no_entry_is_written_and_the_message_stays_pending(
    worker: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str], place: int, waits: str
) -> None:
    client.set("{jobs}:text", "no stream")
    outputs = [out("a"), out("b")]
    outputs.insert(place, out("x", "{jobs}:text"))
    finish = Finish(taken[0], result("A").items, outputs=outputs, address=CALLER)
    other = Finish(taken[1], outputs=[out("other")])
    refused = refusals(worker, finish, other)
    assert list(refused) == [0]
    assert "'{jobs}:text' is no stream, which never takes an entry" in refused[0]
    assert is_final(RedisRefused(refused[0]))
    assert (texts(client, NEXT), texts(client, waits)) == (["other"], [])
    assert admin.bodies() == [taken[0], *taken[2:]]
    client.delete("{jobs}:text")
    assert worker.settle(finish) == [1]


def test_a_result_stream_of_a_wrong_type_can_be_mended_so_it_is_no_fault_of_a_message(
    worker: Worker, client: redis.Redis, taken: list[str]
) -> None:
    client.set("results", "text")
    finish = Finish(taken[0], result("A").items, outputs=[out("a")])
    (refused,) = refusals(worker, finish).values()
    assert "WRONGTYPE" in refused
    assert not is_final(RedisRefused(refused))
    assert texts(client, NEXT) == []


# --- whose message it is ----------------------------------------------------------------------


def test_a_message_that_has_not_run_ends_only_if_it_is_still_this_consumers(
    worker: Worker, other: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    expired = Finish(taken[0], result("expired").items, status="expired")
    assert other.settle(expired) == [0]
    assert admin.results() == []
    client.hset(KEYS.holders, "w1", "another process")
    assert worker.settle(expired) == [0]
    client.hset(KEYS.holders, "w1", worker.commands.identity)
    assert worker.settle(expired) == [1]


def test_records_of_another_consumer_about_a_message_stay(
    worker: Worker, other: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    worker.park(taken[0])
    before = admin.everything()
    assert other.settle(Finish(taken[0], status="expired")) == [0]
    assert admin.everything() == before


def test_a_late_success_ends_a_message_with_all_its_entries_whoever_runs_it_again(
    worker: Worker, other: Worker, client: redis.Redis, admin: GroupAdmin, taken: list[str]
) -> None:
    late = Finish(taken[0], result("late").items, outputs=[out("late")])
    again = Finish(taken[0], result("again").items, outputs=[out("again")])
    assert other.settle(late) == [1]
    assert worker.settle(again) == [0]
    assert texts(client, NEXT) == ["late"]
    assert admin.results() == [{b"text": b"late"}]


@pytest.mark.parametrize("status", ["done", "expired"])
def test_a_message_whose_consumer_was_deleted_from_the_group_ends_once(
    worker: Worker, client: redis.Redis, admin: GroupAdmin, taken: list[str], status: str
) -> None:
    client.xgroup_delconsumer("jobs", "workers", "w1")
    finish = Finish(taken[0], result("A").items, outputs=[out("a")], status=status)
    assert worker.settle(finish) == [1]
    assert worker.settle(finish) == [0]
    assert texts(client, NEXT) == ["a"]
    assert admin.bodies() == taken[1:]


# --- marks and histories ----------------------------------------------------------------------


def test_the_mark_of_a_message_that_has_ended_goes_unless_another_group_needs_it(
    worker: Worker, connection: Connection, client: redis.Redis, taken: list[str]
) -> None:
    client.zadd(KEYS.cancelled, {taken[0]: 9e15, "scheduled-1": 9e15, taken[1]: 9e15})
    items = [b"message_id", b"scheduled-1", b"status", b"cancelled"]
    assert worker.settle(Finish(taken[0], items, status="cancelled")) == [1]
    assert client.zrange(KEYS.cancelled, 0, -1) == [taken[1].encode()]
    Worker(connection, "x1", keys=Keys.of("jobs", "second"))
    assert worker.settle(Finish(taken[1], status="cancelled")) == [1]
    assert client.zrange(KEYS.cancelled, 0, -1) == [taken[1].encode()]


def test_history_and_due_time_of_an_ended_message_are_removed(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    worker.park(taken[0], delay_ms=0)
    assert worker.recover_id() == taken[0]
    assert worker.settle(Finish(taken[0], status="expired")) == [1]
    assert (admin.history(), admin.due()) == ({}, {})


# --- a full server ----------------------------------------------------------------------------


@pytest.fixture
def full(client: redis.Redis, taken: list[str], waits: str) -> Iterator[list[str]]:
    """Messages that were delivered to w1 before the server was full."""
    client.xadd(NEXT, {"text": "unread"})
    client.config_set("maxmemory", 1)
    yield taken
    client.config_set("maxmemory", 0)


def test_a_full_server_accepts_outcomes_that_free_memory_or_whose_result_is_awaited(
    worker: Worker, client: redis.Redis, full: list[str]
) -> None:
    (message_id, *_) = full
    large = Finish(message_id, outputs=[out("x" * 100)])
    (refused,) = refusals(worker, large).values()
    assert "OOM the server is full" in refused
    assert not is_final(RedisRefused(refused))
    assert texts(client, NEXT) == ["unread"]
    assert worker.settle(Finish(full[1], status="expired")) == [1]
    reply = Finish(message_id, result("x" * 100).items, address=CALLER)
    assert worker.settle(reply) == [1], "nothing is unread there"
    small = Finish(full[2], outputs=[out("")])
    assert worker.settle(small) == [1]
    assert texts(client, NEXT) == ["unread", ""]
