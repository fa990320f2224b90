"""Which messages a step of recovery takes over: due, own, of dead and of foreign consumers."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from protocol_client import HOUR_MS, KEYS, LEASE_MS, GroupAdmin, Recovered, Worker

from shared_sync.connection.connection import Connection


def test_with_nothing_to_recover_nothing_is_found(worker: Worker) -> None:
    assert worker.recover() == Recovered(entry=None, lost_bodies=0, next_due_seconds=None)


def test_a_parked_message_is_not_taken_before_it_is_due(worker: Worker, taken: list[str]) -> None:
    worker.park(taken[0], delay_ms=60_000)
    found = worker.recover()
    assert found.entry is None
    assert found.next_due_seconds == pytest.approx(60, abs=5)


def test_parked_messages_are_taken_in_the_order_of_their_due_times(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    for entry_id in taken:
        worker.park(entry_id)
    now = admin.now_ms()
    times = {taken[2]: now - 2000, taken[0]: now - 1000, taken[1]: now + HOUR_MS}
    admin.client.zadd(KEYS.due, times)
    assert worker.recover_id() == taken[2]
    assert worker.recover_id() == taken[0]
    found = worker.recover()
    assert found.entry is None
    assert found.next_due_seconds == pytest.approx(3600, abs=5)


def test_the_next_due_time_is_reported_after_a_message_was_taken(
    worker: Worker, taken: list[str]
) -> None:
    worker.park(taken[0], delay_ms=0)
    worker.park(taken[1], delay_ms=60_000)
    worker.park(taken[2], delay_ms=HOUR_MS)
    found = worker.recover()
    assert found.entry is not None
    assert found.next_due_seconds == pytest.approx(60, abs=5)


def test_due_messages_come_before_messages_of_dead_consumers(
    worker: Worker, other: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    worker.park(taken[2], delay_ms=0)
    admin.end_lease("w1")
    assert [other.recover_id() for _ in range(4)] == [taken[2], taken[0], taken[1], None]


def test_the_due_time_of_a_message_that_is_not_parked_any_more_is_removed(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    admin.client.zadd(KEYS.due, {taken[0]: 1, "1-1": 1})
    admin.client.hset(KEYS.history, mapping={taken[0]: "{}\n", "1-1": "{}\n"})
    admin.keep_alive("w1")
    assert worker.recover() == Recovered(None, 0, None)
    assert admin.due() == {}
    assert admin.history() == {taken[0]: "{}\n"}
    assert admin.pending()[taken[0]] == ("w1", 1)


def test_many_stale_due_times_do_not_hide_a_message_for_long(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    admin.client.zadd(KEYS.due, {f"1-{number}": 1 for number in range(1, 251)})
    worker.park(taken[0], delay_ms=0)
    found = [worker.scan() for _ in range(3)]
    assert [[entry.id for entry in one.entries] for one in found] == [[], [], [taken[0]]]
    assert [one.more for one in found[:2]] == [True, True]
    assert admin.due() == {}


def test_messages_of_a_live_consumer_are_not_taken_however_long_they_run(
    worker: Worker, other: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    admin.keep_alive("w1")
    for entry_id in taken:
        admin.set_idle(entry_id, "w1", 24 * HOUR_MS)
    assert other.recover().entry is None


def test_messages_of_a_dead_consumer_are_taken_one_at_a_time_and_charged_with_a_crash(
    worker: Worker, other: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    worker.heartbeat()
    assert other.recover().entry is None
    admin.end_lease("w1")
    entry = other.recover().entry
    assert entry is not None
    assert (entry.id, entry.items) == (taken[0], [b"text", b"a"])
    assert entry.left_by is not None
    assert entry.left_by.consumer == b"w1"
    assert (entry.deliveries, entry.crashes) == (2, 1)
    assert admin.pending()[taken[0]] == ("w2", 2)
    assert admin.pending()[taken[1]] == ("w1", 1)


@pytest.mark.parametrize("restores_it", ["heartbeat", "recover"])
def test_a_consumer_whose_lease_alone_was_lost_has_another_one_before_it_is_dead(
    worker: Worker, other: Worker, admin: GroupAdmin, taken: list[str], restores_it: str
) -> None:
    """It may be alive, however long its job takes; and if not, its crash counts."""
    admin.remove_presence("w1")
    admin.set_idle(taken[1], "w1", HOUR_MS)
    getattr(other, restores_it)()
    assert LEASE_MS - 10_000 < admin.presence()["w1"] - admin.now_ms() <= LEASE_MS
    assert other.recover().entry is None
    admin.end_lease("w1")
    entry = other.recover().entry
    assert entry is not None
    assert (entry.deliveries, entry.crashes) == (2, 1)


def test_nothing_is_taken_over_under_a_name_that_is_not_on_record(
    worker: Worker, other: Worker, connection: Connection, admin: GroupAdmin, taken: list[str]
) -> None:
    """As by a command that arrives after its sender has left: a crash with it would not count."""
    third = Worker(connection, "w3")
    admin.end_lease("w1")
    other.leave()
    assert other.recover().entry is None
    assert third.recover_id() == taken[0]


def test_own_messages_that_no_reader_has_are_taken_only_after_a_reply_has_had_its_time(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    admin.keep_alive("w1")
    assert worker.recover(own_idle_ms=7000).entry is None
    admin.set_idle(taken[1], "w1", 8000)
    entry = worker.recover(own_idle_ms=7000).entry
    assert entry is not None
    assert (entry.id, entry.deliveries, entry.crashes) == (taken[1], 1, 0)
    assert admin.pending()[taken[1]] == ("w1", 1)


def test_a_message_that_was_lost_with_a_reply_is_named_and_then_taken_alone(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    """So whoever asks for it knows which message it is whose reply breaks the connection."""
    for entry_id in taken:
        admin.set_idle(entry_id, "w1", 8000)
    worker.park(taken[2], delay_ms=0)
    in_flight = (taken[1],)
    named = worker.scan(own_idle_ms=7000, most=5, in_flight=in_flight)
    assert [entry.id for entry in named.entries] == [taken[2]]
    assert [(one.id, one.deliveries, one.history) for one in named.lost] == [(taken[0], 1, b"")]
    assert abs(named.lost[0].delivered_ms - (admin.now_ms() - 8000)) < 2000
    assert admin.pending()[taken[0]] == ("w1", 1)
    worker.park(taken[2], delay_ms=0)
    alone = worker.scan(own_idle_ms=7000, most=5, in_flight=in_flight, again=taken[0])
    assert ([entry.id for entry in alone.entries], alone.lost) == ([taken[0]], [])
    assert alone.more


@pytest.mark.parametrize(
    "no_longer", ["in flight", "delivered again", "finished", "somebody else's", "predecessor's"]
)
def test_what_is_not_lost_any_more_is_not_taken_again(
    worker: Worker, admin: GroupAdmin, taken: list[str], no_longer: str
) -> None:
    options: dict[str, Any] = {"own_idle_ms": 7000, "in_flight": tuple(taken[1:])}
    admin.set_idle(taken[0], "w1", 8000)
    if no_longer == "in flight":
        options["in_flight"] = tuple(taken)
    elif no_longer == "delivered again":
        admin.set_idle(taken[0], "w1", 0)
    elif no_longer == "finished":
        worker.finish(taken[0])
    elif no_longer == "somebody else's":
        admin.set_idle(taken[0], "w2", 8000)
    else:
        options["since_ms"] = admin.now_ms()
    found = worker.scan(again=taken[0], foreign=(), **options)
    assert [entry.deliveries for entry in found.entries] == [2] * (no_longer == "predecessor's")


def test_messages_of_the_previous_process_of_the_same_name_are_taken_at_once_and_charged(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    """The previous process is dead for certain, and no reply on its way can carry the message."""
    since_ms = admin.now_ms()
    admin.set_idle(taken[0], "w1", 100)
    entry = worker.recover(own_idle_ms=7000, since_ms=since_ms).entry
    assert entry is not None
    assert (entry.id, entry.deliveries, entry.crashes) == (taken[0], 2, 1)
    assert admin.pending()[taken[0]] == ("w1", 2)


def test_messages_that_were_delivered_since_the_name_was_claimed_may_still_be_on_their_way(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    """Also in the first moments, and if the server's clock has been set back."""
    since_ms = admin.now_ms()
    admin.set_idle(taken[0], "w1", 0)
    others = tuple(taken[1:])
    for since in [since_ms] * 20 + [since_ms + HOUR_MS]:
        assert worker.recover(own_idle_ms=7000, since_ms=since, in_flight=others).entry is None


def test_a_slow_script_does_not_take_a_message_on_its_way_for_one_of_the_previous_process(
    worker: Worker, admin: GroupAdmin
) -> None:
    """The script is slow here because very many leases ended while Redis was away."""
    admin.client.zadd(admin.keys.presence, {f"w{n}": 1 for n in range(30_000)})
    (message_id,) = worker.publish([b"text", b"a"])
    since_ms = admin.now_ms()
    assert [entry.id for entry in worker.read()] == [message_id]
    assert worker.recover(own_idle_ms=7000, since_ms=since_ms).entry is None


def test_own_messages_in_flight_are_not_taken(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    for entry_id in taken:
        admin.set_idle(entry_id, "w1", HOUR_MS)
    assert worker.recover(own_idle_ms=7000, in_flight=tuple(taken)).entry is None
    in_flight = (taken[0], taken[1], "1-1")
    assert worker.recover_id(own_idle_ms=7000, in_flight=in_flight) == taken[2]


def test_a_message_is_recovered_by_one_consumer_only(
    worker: Worker, other: Worker, connection: Connection, admin: GroupAdmin, taken: list[str]
) -> None:
    third = Worker(connection, "w3")
    admin.end_lease("w1")
    other.heartbeat()
    third.heartbeat()
    found = [one.recover_id() for one in (other, third, other, third)]
    assert found == [*taken, None]


def test_messages_of_a_recovery_whose_reply_was_lost_are_taken_again_without_a_charge(
    worker: Worker, other: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    admin.end_lease("w1")
    other.heartbeat()
    assert other.recover_id() == taken[0]
    for entry_id in taken[1:]:
        other.recover()
        admin.set_idle(entry_id, "w2", 100)
    assert other.recover(own_idle_ms=7000).entry is None
    admin.set_idle(taken[0], "w2", 8000)
    entry = other.recover(own_idle_ms=7000).entry
    assert entry is not None
    assert (entry.id, entry.deliveries) == (taken[0], 2)


def test_pending_messages_whose_entries_were_deleted_end_and_are_counted(
    worker: Worker, other: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    client.hset(KEYS.history, taken[0], "{}\n")
    client.xdel("jobs", taken[0], taken[1])
    admin.end_lease("w1")
    found = other.recover()
    assert found.lost_bodies == 2
    assert found.entry is not None
    assert found.entry.id == taken[2]
    assert list(admin.pending()) == [taken[2]]
    assert admin.history() == {}
    assert other.recover().lost_bodies == 0


def test_many_deleted_entries_do_not_hold_up_the_message_behind_them(
    worker: Worker, other: Worker, admin: GroupAdmin, client: redis.Redis
) -> None:
    ids = worker.publish(*([b"n", b"%d" % number] for number in range(60)))
    worker.read(60)
    client.xdel("jobs", *ids[:-1])
    admin.end_lease("w1")
    first, second = other.recover(), other.recover()
    assert first.lost_bodies + second.lost_bodies == 59
    assert ids[-1] in {one.entry.id for one in (first, second) if one.entry}


def test_a_parked_message_whose_entry_was_deleted_ends_and_is_counted(
    worker: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    worker.park(taken[0], delay_ms=0)
    client.xdel("jobs", taken[0])
    found = worker.recover()
    assert (found.entry, found.lost_bodies) == (None, 1)
    assert taken[0] not in admin.pending()
    assert admin.due() == {}
    assert admin.history() == {}


def test_a_parked_message_survives_the_loss_of_every_hint(
    worker: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    worker.park(taken[0])
    client.delete(KEYS.due, KEYS.history, KEYS.presence)
    assert worker.recover().entry is None
    worker.heartbeat()
    assert list(admin.due()) == [taken[0]]
    assert worker.recover_id() == taken[0]


def test_a_parked_message_that_is_still_in_flight_here_is_not_taken(
    worker: Worker, other: Worker, taken: list[str]
) -> None:
    worker.park(taken[0], delay_ms=0)
    assert worker.recover(in_flight=(taken[0],)).entry is None
    assert other.recover_id() == taken[0]
