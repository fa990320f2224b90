"""Claiming a consumer's name, and what a process may do that has lost its name."""

from __future__ import annotations

import pytest
import redis
from protocol_client import LEASE_MS, GroupAdmin, Worker, result

from shared_sync.connection.connection import Connection
from shared_sync.errors import RedisRefused
from shared_sync.protocol.process_identity import ONE_BY_ONE
from shared_sync.protocol.replies import NameClaimed, parse_claim


@pytest.fixture
def successor(
    connection: Connection, worker: Worker, admin: GroupAdmin, taken: list[str]
) -> Worker:
    """Claimed the name of w1, which has three messages and was frozen past its lease."""
    admin.end_lease("w1")
    made = Worker(connection, "w1", identity="successor", sends_heartbeat=False)
    assert made.claim() is None
    return made


def test_a_name_belongs_to_one_process_until_its_lease_has_ended(
    connection: Connection, worker: Worker, admin: GroupAdmin
) -> None:
    other = Worker(connection, "w1", identity="other", sends_heartbeat=False)
    in_use = other.claim()
    assert in_use is not None
    assert in_use.identity == b"the identity of w1"
    assert 0 < in_use.lease_end_ms - in_use.now_ms <= LEASE_MS
    admin.end_lease("w1")
    assert other.claim() is None
    assert other.claim() is None
    assert worker.claim() is not None


def test_a_name_is_free_at_once_if_its_process_left_or_is_known_to_have_ended(
    connection: Connection, worker: Worker, admin: GroupAdmin
) -> None:
    other = Worker(connection, "w1", identity="other", sends_heartbeat=False)
    claim = other.commands.claim(ended=b"the identity of w1")
    assert isinstance(parse_claim(connection.call(*claim)), NameClaimed)
    assert worker.claim() is not None
    other.leave()
    assert worker.claim() is None


def test_a_process_that_lost_its_name_gets_an_error_and_owns_nothing_any_more(
    worker: Worker, successor: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    before = admin.everything()
    for act in (worker.heartbeat, worker.recover):
        with pytest.raises(RedisRefused, match="successor") as caught:
            act()
        assert caught.value.code == "HELD"
    assert worker.park(taken[0]) == 0
    assert worker.bury(taken[1]) == 0
    assert worker.hand_back(*taken) == [0, 0]
    assert worker.leave() == [0, 0]
    assert admin.everything() == before
    assert successor.park(taken[0]) == 1


def test_a_process_that_lost_its_name_may_still_publish_the_first_result(
    worker: Worker, successor: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    assert worker.finish(taken[0], result("late")) == 1
    assert successor.finish(taken[0], result("later")) == 0
    assert admin.results() == [{b"text": b"late"}]


def test_if_the_successor_has_died_too_the_first_heartbeat_claims_the_name(
    worker: Worker, successor: Worker, admin: GroupAdmin
) -> None:
    admin.end_lease("w1")
    worker.heartbeat()
    with pytest.raises(RedisRefused, match="the identity of w1"):
        successor.heartbeat()


def test_a_process_whose_successor_has_died_recovers_only_after_its_next_heartbeat(
    worker: Worker, successor: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    admin.end_lease("w1")
    assert worker.recover(own_idle_ms=0).entry is None
    worker.heartbeat()
    assert worker.recover(own_idle_ms=0).entry is not None


def test_a_heartbeat_restores_a_lost_identity(worker: Worker, admin: GroupAdmin) -> None:
    admin.client.delete(admin.keys.holders)
    worker.heartbeat()
    assert admin.client.hgetall(admin.keys.holders) == {b"w1": b"the identity of w1"}


def test_identities_do_not_pile_up(
    connection: Connection, worker: Worker, admin: GroupAdmin
) -> None:
    Worker(connection, "w2")
    Worker(connection, "w3")
    admin.end_lease("w2")
    admin.remove_presence("w3")
    worker.heartbeat()
    assert set(admin.client.hgetall(admin.keys.holders)) == {b"w1"}
    worker.leave()
    assert not admin.client.exists(admin.keys.holders)


def test_a_process_owns_its_name_before_and_after_it_notes_that_it_reads_several_at_a_time(
    connection: Connection, admin: GroupAdmin
) -> None:
    worker = Worker(connection, "w1", identity="one", sends_heartbeat=False)
    worker.commands.reads_one_by_one = True
    assert worker.claim() is None
    assert admin.client.hget(admin.keys.holders, "w1") == b"one" + ONE_BY_ONE.encode()
    worker.publish([b"n", b"1"], [b"n", b"2"])
    first, second = worker.read()
    worker.heartbeat()
    assert worker.park(first.id) == 1
    assert [connection.call(*worker.commands.read_many()) for _ in range(2)] == [1, 0]
    worker.commands.reads_one_by_one = False
    worker.heartbeat()
    assert admin.client.hget(admin.keys.holders, "w1") == b"one"
    assert worker.park(second.id) == 1
    assert worker.claim() is None


def test_a_process_that_lost_its_name_notes_nothing_for_the_one_that_has_it(
    connection: Connection, worker: Worker, successor: Worker, admin: GroupAdmin
) -> None:
    before = admin.everything()
    assert connection.call(*worker.commands.read_many()) == 0
    assert admin.everything() == before
