"""Recovery goes on in bounded steps: each takes a few messages, and the next goes on behind it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import redis
from protocol_client import HOUR_MS, KEYS, LEASE_MS, GroupAdmin, Worker

from shared_sync.connection.connection import Connection
from shared_sync.protocol.keys import PARKED
from shared_sync.protocol.messages import Read
from shared_sync.protocol.scan import Found, Position

BETWEEN_READS_MS = 1000
"""Deliveries that lie so far apart belong to different reads."""


def publish_many(worker: Worker, count: int) -> list[str]:
    return worker.publish(*([b"n", b"%d" % number] for number in range(count))) if count else []


def read_many(worker: Worker, count: int) -> list[str]:
    """Publish messages and read all of them; return their ids."""
    ids = publish_many(worker, count)
    if ids:
        assert [entry.id for entry in worker.read(count)] == ids
    return ids


def park_many(worker: Worker, admin: GroupAdmin, count: int) -> list[str]:
    """Let messages fail once; they are due now, one after another."""
    ids = read_many(worker, count)
    for message_id in ids:
        worker.park(message_id, delay_ms=0)
    set_due_order(admin, ids)
    return ids


def set_due_order(admin: GroupAdmin, ids: Sequence[str]) -> None:
    first_ms = admin.now_ms() - HOUR_MS
    admin.client.zadd(KEYS.due, {one: first_ms + n for n, one in enumerate(ids)})


def count_deliveries(admin: GroupAdmin, ids: Iterable[str], owner: str, deliveries: int) -> None:
    for message_id in ids:
        claimed = admin.client.xclaim(
            KEYS.stream, KEYS.group, owner, 0, [message_id], retrycount=deliveries, justid=True
        )
        assert claimed == [message_id.encode()]


def make_suspects(admin: GroupAdmin, parked_ids: Iterable[str]) -> None:
    """Charge parked messages, which failed once, with a crash."""
    count_deliveries(admin, parked_ids, PARKED, 2)


def die_with(
    connection: Connection, admin: GroupAdmin, name: str, count: int, *, in_one_read: bool = False
) -> list[str]:
    """A consumer dies with so many messages, each of another read or all of one."""
    dead = Worker(connection, name)
    ids = read_many(dead, count)
    now_ms = admin.now_ms()
    for number, message_id in enumerate(ids):
        reads_ago = 1 if in_one_read else count - number
        delivered_ms = now_ms - reads_ago * BETWEEN_READS_MS
        admin.client.xclaim(
            *(admin.keys.stream, admin.keys.group, name, 0, [message_id]),
            time=delivered_ms,
            justid=True,
        )
    admin.end_lease(name)
    return ids


def ids_of(found: Found) -> list[str]:
    return [entry.id for entry in found.entries]


# --- due messages -----------------------------------------------------------------------------


def test_due_messages_without_a_crash_are_taken_many_at_a_time_the_first_due_first(
    worker: Worker, admin: GroupAdmin
) -> None:
    ids = park_many(worker, admin, 30)
    by_due_time = [*ids[20:], *ids[:20]]
    set_due_order(admin, by_due_time)
    first, second = worker.steps(2, most=12)
    assert ids_of(first) == by_due_time[:12]
    assert {(one.deliveries, one.failures, one.crashes) for one in first.entries} == {(2, 1, 0)}
    assert first.more
    assert ids_of(second) == by_due_time[12:24]
    third = worker.scan(most=12, position=second.position)
    assert ids_of(third) == by_due_time[24:]
    assert not third.more
    assert admin.due() == {}
    assert set(admin.pending().values()) == {("w1", 2)}


def test_a_due_suspect_is_taken_alone_and_the_messages_around_it_are_taken_too(
    worker: Worker, admin: GroupAdmin
) -> None:
    ids = park_many(worker, admin, 9)
    suspects = {ids[0], ids[3], ids[8]}
    make_suspects(admin, suspects)
    taken = [ids_of(found) for found in worker.steps(8, most=4)]
    assert taken[0] == [ids[0]]
    assert taken[1][:2] == ids[1:3]
    assert all(len(of_one) == 1 for of_one in taken if suspects & set(of_one))
    assert sorted(chain(*taken)) == ids
    assert sum(map(bool, taken)) <= 5, "the messages around the suspects are taken together"


def test_a_due_suspect_has_its_turn_although_there_is_always_more_that_is_due(
    worker: Worker, admin: GroupAdmin
) -> None:
    ids = park_many(worker, admin, 12)
    make_suspects(admin, ids[3:4])
    first, second, third = worker.steps(3, most=5)
    assert ids_of(first) == ids[:3], "the suspect is not passed by"
    assert ids_of(second) == ids[3:4]
    assert ids_of(third) == ids[4:9]


def test_more_due_suspects_than_a_step_visits_do_not_hide_the_messages_behind_them(
    worker: Worker, admin: GroupAdmin
) -> None:
    ids = park_many(worker, admin, 253)
    suspects, others = ids[:250], ids[250:]
    make_suspects(admin, suspects)
    found = list(worker.steps(4, most=10, startable_crashes=0))
    assert [ids_of(one) for one in found] == [[], [], others, []]
    assert [one.more for one in found] == [True, True, False, True]
    assert worker.scan(most=10).position.due_rank == 0
    assert ids_of(worker.scan(most=10)) == suspects[1:2]


def test_what_is_due_does_not_keep_what_a_dead_consumer_left_from_being_taken(
    worker: Worker, other: Worker, connection: Connection, admin: GroupAdmin
) -> None:
    due = park_many(worker, admin, 6)
    left_behind = die_with(connection, admin, "w3", 3)
    taken = [
        other.recover_id(due_comes_last=due_comes_last) for due_comes_last in [True, False] * 3
    ]
    assert taken == [
        left_behind[0], due[0], left_behind[1], due[1], left_behind[2], due[2]
    ]  # fmt: skip
    assert ids_of(other.scan(due_comes_last=True, most=2)) == due[3:5]


# --- dead consumers ---------------------------------------------------------------------------


def test_dead_consumers_take_turns(
    worker: Worker, connection: Connection, admin: GroupAdmin
) -> None:
    left = {name: die_with(connection, admin, name, 3) for name in ("d1", "d2", "d3")}
    found = list(worker.steps(10))
    in_turns = [left[name][n] for n in range(3) for name in ("d1", "d2", "d3")]
    assert [ids_of(one) for one in found] == [*([one] for one in in_turns), []]
    assert all(one.more for one in found[:8])


def test_a_walk_that_begins_among_the_dead_consumers_goes_on_with_the_first_ones(
    worker: Worker, connection: Connection, admin: GroupAdmin
) -> None:
    left = {name: die_with(connection, admin, name, 1) for name in ("d1", "d2", "d3")}
    position = Position(dead_rank=2)
    taken = []
    for _ in left:
        found = worker.scan(position=position)
        taken += ids_of(found)
        position = found.position
    assert taken == [*left["d3"], *left["d1"], *left["d2"]]


def test_of_one_dead_consumer_each_step_takes_the_message_of_another_read(
    worker: Worker, connection: Connection, admin: GroupAdmin
) -> None:
    ids = die_with(connection, admin, "d1", 50)
    apart: list[Read] = []
    position, taken = Position(), []
    for _ in ids:
        (entry,) = (found := worker.scan(apart=apart, position=position)).entries
        assert entry.left_by is not None
        apart.append(entry.left_by)
        taken.append(entry.id)
        position = found.position
    assert taken == ids
    assert worker.scan(position=position).entries == []


def test_more_messages_that_must_wait_than_a_step_visits_do_not_hide_the_others(
    worker: Worker, connection: Connection, admin: GroupAdmin
) -> None:
    waiting = die_with(connection, admin, "d1", 250, in_one_read=True)
    other = die_with(connection, admin, "d2", 1)
    first = worker.scan()
    assert ids_of(first) == waiting[:1]
    apart = [entry.left_by for entry in first.entries]
    taken = [ids_of(found) for found in worker.steps(6, apart=apart, in_flight=waiting[:1])]
    assert list(chain(*taken)) == other


def test_walks_find_every_message_that_may_be_taken_and_no_other(
    worker: Worker, connection: Connection, admin: GroupAdmin
) -> None:
    """Of 60 dead consumers. Heartbeats meanwhile remove those that have nothing pending."""
    counts = [0, 1, 2, 0, 7, 130]
    left = [die_with(connection, admin, f"d{n:02}", counts[n % 6]) for n in range(60)]
    in_flight, crashed_twice = left[1][:1], left[4][:3]
    count_deliveries(admin, crashed_twice, "d04", 2)
    taken: list[str] = []
    for number, found in enumerate(worker.steps(3000, startable_crashes=1, in_flight=in_flight)):
        taken += ids_of(found)
        if number % 50 == 0:
            worker.heartbeat()
        if not found.more:
            break
    assert sorted(taken) == sorted({*chain(*left)} - {*in_flight, *crashed_twice})


# --- foreign consumers ------------------------------------------------------------------------


def test_foreign_consumers_are_found_only_once_their_messages_are_idle_for_a_lease(
    worker: Worker, admin: GroupAdmin, client: redis.Redis
) -> None:
    ids = publish_many(worker, 4)
    for name in ("f1", "f2"):
        client.xreadgroup(KEYS.group, name, {KEYS.stream: ">"}, count=2)
    assert worker.recover_id() is None
    admin.set_idle(ids[3], "f2", LEASE_MS + 1000)
    entry = worker.recover().entry
    assert entry is not None
    assert entry.id == ids[3]
    assert entry.left_by is not None
    assert entry.left_by.consumer == b"f2"
    assert worker.recover_id() is None


def test_a_step_goes_on_where_the_last_one_ended_among_the_messages_of_a_foreign_consumer(
    worker: Worker, admin: GroupAdmin, client: redis.Redis
) -> None:
    ids = publish_many(worker, 452)
    client.xreadgroup(KEYS.group, "f1", {KEYS.stream: ">"}, count=450)
    client.xreadgroup(KEYS.group, "f2", {KEYS.stream: ">"})
    old = [ids[449], ids[451]]
    admin.set_idle(old[0], "f1", 2 * LEASE_MS)
    admin.set_idle(old[1], "f2", 2 * LEASE_MS)
    foreign = ["f1", "f2"]
    found = list(worker.steps(5, foreign=foreign))
    assert [ids_of(one) for one in found] == [[], [], [], [], old[:1]]
    assert [one.foreign_done for one in found] == [0] * 5
    assert all(one.more for one in found)
    rest = worker.scan(foreign=foreign, position=found[-1].position)
    assert (ids_of(rest), rest.foreign_done) == (old[1:], 1)
    last = worker.scan(foreign=foreign[1:], position=rest.position)
    assert (ids_of(last), last.foreign_done, last.more) == ([], 1, False)
    assert last.position == Position()


def test_a_foreign_consumer_that_has_sent_a_heartbeat_is_not_foreign_any_more(
    worker: Worker, other: Worker, admin: GroupAdmin
) -> None:
    (message_id,) = read_many(other, 1)
    admin.set_idle(message_id, "w2", 2 * LEASE_MS)
    admin.keep_alive("w2")
    found = worker.scan(foreign=["w2"])
    assert (ids_of(found), found.foreign_done, found.more) == ([], 1, False)
