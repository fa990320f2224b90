"""Entries that only groups needed which are gone are deleted, and no others."""

from __future__ import annotations

import logging
import random
from contextlib import closing

import pytest
import redis
from helpers import Clock
from protocol_client import KEYS, LEASE_MS, Worker, make_connection

from shared_sync.common.guarded import GuardedLogger
from shared_sync.connection.connection import Connection
from shared_sync.protocol.commands import GroupCommands
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.sweep import SWEEP_SECONDS, Sweep

OTHER = Keys.of("jobs", "wrokers")
LOGGER = GuardedLogger(logging.getLogger("tests.sweep"))


class Group(Worker):
    """A worker of a group, which is made new, and what it sweeps."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        super().__init__(connection, "w", keys=keys)
        self.sweep(is_new=True)

    def sweep(self, *, is_new: bool = False) -> int:
        deleted, refused = self.connection.call(*self.commands.sweep(is_new=is_new))
        assert refused == b""
        return int(deleted)

    def finish_all(self) -> None:
        while entries := self.read(100):
            self.done(*(entry.id for entry in entries))


@pytest.fixture
def ours(connection: Connection) -> Group:
    return Group(connection, KEYS)


@pytest.fixture
def mistyped(connection: Connection, ours: Group) -> Group:
    return Group(connection, OTHER)


def messages(count: int) -> list[list[bytes]]:
    return [[b"n", b"%d" % number] for number in range(count)]


def destroy(client: redis.Redis) -> None:
    assert client.xgroup_destroy("jobs", OTHER.group)


def test_what_only_a_group_kept_that_is_gone_is_deleted(
    ours: Group, mistyped: Group, client: redis.Redis
) -> None:
    ours.publish(*messages(250))
    ours.finish_all()
    assert ours.sweep() == 0
    assert client.xlen("jobs") == 250
    destroy(client)
    while ours.sweep():
        pass
    assert client.xlen("jobs") == 0
    assert ours.sweep() == 0
    assert client.hgetall(KEYS.kept) == {b"complete": b"1"}


def test_what_a_group_has_pending_or_unread_stays_with_all_behind_it_until_it_is_finished(
    ours: Group, mistyped: Group, client: redis.Redis
) -> None:
    ids = ours.publish(*messages(10))
    entries = ours.read(8)
    ours.done(*(entry.id for entry in entries if entry.id != ids[4]))
    ours.sweep()
    destroy(client)
    while ours.sweep():
        pass
    assert [entry_id.decode() for entry_id, _ in client.xrange("jobs")] == ids[4:]
    ours.done(ids[4])
    ours.finish_all()
    while ours.sweep():
        pass
    assert client.xlen("jobs") == 0


def test_what_was_finished_after_the_last_step_before_the_group_went_is_deleted_too(
    ours: Group, mistyped: Group, client: redis.Redis
) -> None:
    ours.publish(*messages(3))
    ours.sweep()
    ours.finish_all()
    destroy(client)
    ours.sweep()
    ours.publish(*messages(3))
    ours.finish_all()
    assert client.xlen("jobs") == 0


def test_nothing_is_deleted_that_the_other_group_still_needs(
    ours: Group, mistyped: Group, client: redis.Redis
) -> None:
    ids = ours.publish(*messages(10))
    ours.finish_all()
    entries = mistyped.read(6)
    ours.sweep()
    assert ours.sweep() == mistyped.sweep() == 0
    assert client.xlen("jobs") == 10
    mistyped.done(*(entry.id for entry in entries[:3]))
    assert client.xlen("jobs") == 7, "the last one to finish them deletes them"
    assert ours.sweep() == 0
    assert [entry_id.decode() for entry_id, _ in client.xrange("jobs")] == ids[3:]


@pytest.mark.parametrize("is_destroyed", [True, False])
def test_what_a_group_that_was_set_back_reads_again_is_not_deleted(
    ours: Group, mistyped: Group, client: redis.Redis, is_destroyed: bool
) -> None:
    """The first entry that it needs is then not the first one that it has pending."""
    ids = ours.publish(*messages(10))
    entries = ours.read(10)
    ours.done(*(entry.id for entry in entries if entry.id != ids[7]))
    ours.sweep()
    client.xgroup_setid("jobs", KEYS.group, "0")
    if is_destroyed:
        destroy(client)
    else:
        mistyped.finish_all()
        assert mistyped.sweep() == 0
    assert ours.sweep() == 0
    assert [entry.id for entry in ours.read(10)] == ids


def test_entries_that_were_never_read_are_not_deleted(
    connection: Connection, client: redis.Redis
) -> None:
    """The group was created behind them, so they are no leftovers."""
    client.xadd("jobs", {"n": "unread"})
    for keys in (KEYS, OTHER):
        client.xgroup_create("jobs", keys.group, "$")
    worker = Worker(connection, "w")
    for _ in range(2):
        worker.publish(*messages(3))
        for entry in worker.read():
            worker.done(entry.id)
        assert connection.call(*worker.commands.sweep()) == [0, b""]
        client.xgroup_destroy("jobs", OTHER.group)
    assert connection.call(*worker.commands.sweep()) == [0, b""]
    assert (b"n", b"unread") in client.xrange("jobs")[0][1].items()
    assert not client.exists(KEYS.kept)


def test_a_group_has_read_everything_once_the_stream_was_empty(
    connection: Connection, client: redis.Redis
) -> None:
    """So what it keeps for others later on may be deleted, also if an earlier release made it."""
    client.xgroup_create("jobs", KEYS.group, "0", mkstream=True)
    worker = Worker(connection, "w")
    assert connection.call(*worker.commands.sweep()) == [0, b""]
    assert client.hgetall(KEYS.kept) == {b"complete": b"1"}


def test_a_stream_that_is_never_empty_is_known_as_well_once_only_needed_entries_are_there(
    connection: Connection, client: redis.Redis
) -> None:
    client.xgroup_create("jobs", KEYS.group, "0", mkstream=True)
    worker = Worker(connection, "w")
    ids = worker.publish(*messages(5))
    worker.read(3)
    worker.done(ids[1])
    client.xgroup_create("jobs", OTHER.group, "$")
    assert connection.call(*worker.commands.sweep()) == [0, b""]
    assert client.hget(KEYS.kept, "complete") == b"1"


def test_what_an_earlier_release_has_left_is_not_taken_for_read(
    connection: Connection, client: redis.Redis
) -> None:
    for keys in (KEYS, OTHER):
        client.xgroup_create("jobs", keys.group, "0", mkstream=True)
    worker = Worker(connection, "w")
    ids = worker.publish(*messages(3))
    worker.read(3)
    worker.done(ids[0])
    assert connection.call(*worker.commands.sweep()) == [0, b""]
    assert not client.exists(KEYS.kept)


def test_without_a_second_group_nothing_is_ever_deleted(ours: Group, client: redis.Redis) -> None:
    """As for entries that an operator has skipped, or that remain of a deletion that failed."""
    ours.publish(*messages(5))
    client.xgroup_setid("jobs", KEYS.group, "$")
    assert ours.sweep() == ours.sweep() == 0
    assert client.xlen("jobs") == 5


def test_a_group_that_is_made_anew_forgets_what_the_old_one_had_finished(
    ours: Group, mistyped: Group, connection: Connection, client: redis.Redis
) -> None:
    ours.publish(*messages(5))
    ours.finish_all()
    ours.sweep()
    client.xgroup_destroy("jobs", KEYS.group)
    destroy(client)
    anew = Group(connection, KEYS)
    assert anew.sweep() == 0
    assert len(anew.read(10)) == 5


def test_a_stream_or_a_group_that_is_gone_is_no_error(ours: Group, client: redis.Redis) -> None:
    client.xgroup_destroy("jobs", KEYS.group)
    assert ours.sweep() == 0
    client.delete("jobs")
    assert ours.sweep() == 0


@pytest.mark.parametrize("sequence", [0, 9, 99, 2**53 - 1, 2**64 - 2])
def test_the_last_entry_of_all_is_deleted_too(
    ours: Group, mistyped: Group, client: redis.Redis, sequence: int
) -> None:
    client.xadd("jobs", {"n": "1"}, id=f"5-{sequence}")
    ours.finish_all()
    ours.sweep()
    destroy(client)
    while ours.sweep():
        pass
    assert client.xlen("jobs") == 0


@pytest.mark.parametrize("seed", range(6))
def test_in_random_histories_of_three_groups_no_needed_entry_is_deleted(
    redis_url: str, client: redis.Redis, seed: int
) -> None:
    chance = random.Random(seed)
    names = ["workers", "wrokers", "wokers"]
    with closing(make_connection(redis_url)) as connection:
        groups: dict[str, Group] = {}
        needed: dict[str, set[str]] = {}
        pending: dict[str, list[str]] = {}
        for _ in range(120):
            name = chance.choice(names)
            act = chance.choice(["publish", "read", "done", "done", "sweep", "join", "destroy"])
            if act == "join" or not groups:
                if name not in groups:
                    groups[name] = Group(connection, Keys.of("jobs", name))
                    needed[name] = {entry_id.decode() for entry_id, _ in client.xrange("jobs")}
                    pending[name] = []
                continue
            name = chance.choice([*groups])
            group = groups[name]
            if act == "publish":
                for entry_id in group.publish(*messages(chance.randint(1, 5))):
                    for ids in needed.values():
                        ids.add(entry_id)
            elif act == "read":
                pending[name] += [entry.id for entry in group.read(chance.randint(1, 6))]
            elif act == "done" and pending[name]:
                chosen = chance.sample(pending[name], chance.randint(1, len(pending[name])))
                group.done(*chosen)
                needed[name] -= set(chosen)
                pending[name] = [entry_id for entry_id in pending[name] if entry_id not in chosen]
            elif act == "sweep":
                group.sweep()
            elif act == "destroy" and chance.random() < 0.3 and len(groups) > 1:
                for one in groups.values():
                    one.sweep()
                client.xgroup_destroy("jobs", name)
                for kept in (groups, needed, pending):
                    kept.pop(name)  # type: ignore[attr-defined]
            there = {entry_id.decode() for entry_id, _ in client.xrange("jobs")}
            assert set().union(*needed.values()) <= there
        (last, *others) = [*groups]
        for name in others:
            client.xgroup_destroy("jobs", name)
        groups[last].sweep()
        if pending[last]:
            groups[last].done(*pending[last])
        groups[last].finish_all()
        while groups[last].sweep():
            pass
        assert client.xlen("jobs") == 0, "and in the end nothing is left"


# --- when ---------------------------------------------------------------------------------------


class Counting:
    """Stands in for a connection, and counts the steps."""

    def __init__(self) -> None:
        self.reply: list[object] = [0, b""]
        self.steps = 0

    def call(self, *_: object) -> list[object]:
        self.steps += 1
        return self.reply


def test_a_step_comes_now_and_then_and_the_next_at_once_while_there_is_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    clock, connection = Clock(), Counting()
    sweep = Sweep(GroupCommands(KEYS, "w1", LEASE_MS), LOGGER, clock)

    def steps(*, is_empty: bool = False) -> int:
        before = connection.steps
        sweep.check(connection, is_empty=is_empty)  # type: ignore[arg-type]
        return connection.steps - before

    assert [steps(), steps()] == [1, 0]
    clock.now += SWEEP_SECONDS
    connection.reply = [10_000, b""]
    assert [steps(), steps()] == [1, 1]
    assert "10000 entries of stream jobs are deleted that every group has finished" in caplog.text
    connection.reply = [0, b""]
    assert [steps(), steps()] == [1, 0]
    assert [steps(is_empty=True), steps(is_empty=True)] == [1, 0]
    clock.now += SWEEP_SECONDS
    connection.reply = [0, b"NOPERM this user has no permissions to run the 'xtrim' command"]
    assert steps() == 1
    clock.now += SWEEP_SECONDS
    assert steps() == 0
    assert caplog.text.count("lacks +xtrim") == 1
