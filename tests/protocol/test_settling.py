"""Parking, burying and handing back messages, once and again.

A script whose reply was lost is sent again, so sending it a second time must change nothing.
"""

from __future__ import annotations

import pytest
import redis
from protocol_client import KEYS, GroupAdmin, Worker, make_connection, result

from shared_sync.connection.connection import Connection
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import RedisRefused
from shared_sync.protocol import groups
from shared_sync.protocol.groups import Ensured
from shared_sync.protocol.keys import PARKED, Keys
from shared_sync.protocol.messages import Answer


def test_a_parked_message_belongs_to_no_worker_until_it_is_due(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    before = admin.now_ms()
    assert worker.park(taken[0], delay_ms=60_000, failure='{"error":"x"}') == 1
    assert admin.pending()[taken[0]] == (PARKED, 1)
    assert before + 60_000 <= admin.due()[taken[0]] <= admin.now_ms() + 60_000
    assert admin.history() == {taken[0]: '{"error":"x"}\n'}
    assert taken[0] in admin.bodies()


def test_each_failure_is_added_to_the_history_and_is_no_crash(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    for attempt in (1, 2, 3):
        assert worker.park(taken[0], delay_ms=0, failure=f'{{"n":{attempt}}}') == 1
        entry = worker.recover().entry
        assert entry is not None
        assert (entry.deliveries, entry.failures, entry.crashes) == (attempt + 1, attempt, 0)
    assert admin.history()[taken[0]] == '{"n":1}\n{"n":2}\n{"n":3}\n'


def test_a_due_time_in_the_very_distant_future_disturbs_nothing_else(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    assert worker.park(taken[0], delay_ms=10**300) == 1
    assert worker.park(taken[1], delay_ms=0) == 1
    assert worker.recover_id() == taken[1]
    found = worker.recover()
    assert found.entry is None
    assert found.next_due_seconds is None or found.next_due_seconds > 0
    assert worker.heartbeat().parked == 1


def test_parking_again_changes_nothing(worker: Worker, admin: GroupAdmin, taken: list[str]) -> None:
    worker.park(taken[0])
    before = admin.everything()
    assert worker.park(taken[0]) == 0
    assert admin.everything() == before


def test_parking_that_arrives_after_the_next_delivery_changes_nothing(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    assert worker.park(taken[0], delay_ms=0) == 1
    assert worker.recover_id() == taken[0]
    before = admin.everything()
    assert worker.park(taken[0], delay_ms=0, delivery=1) == 0
    assert admin.everything() == before
    assert worker.park(taken[0], delay_ms=0, delivery=2) == 1


def test_a_failure_that_is_reported_again_after_the_group_was_lost_is_recorded_once(
    worker: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    worker.park(taken[0], delay_ms=0)
    client.xgroup_destroy("jobs", "workers")
    groups.ensure_group(worker.connection, worker.commands)
    worker.read()
    assert worker.park(taken[0], delay_ms=0) == 1
    assert admin.history()[taken[0]].count("\n") == 1


# --- after a crash that the process has survived ---


def test_a_message_that_is_parked_without_a_failure_is_charged_with_a_crash(
    worker: Worker, other: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    """It waits as after a failure, and is then a suspect, which is taken alone."""
    before = admin.now_ms()
    assert worker.park(taken[0], delay_ms=30_000, failure="") == 1
    assert admin.pending()[taken[0]] == (PARKED, 1)
    assert before + 30_000 <= admin.due()[taken[0]] <= admin.now_ms() + 30_000
    assert admin.history() == {}
    worker.hand_back(taken[1])
    admin.client.zadd(KEYS.due, {taken[0]: 2, taken[1]: 1})
    assert [entry.id for entry in other.scan(most=2).entries] == [taken[1]]
    (entry,) = other.scan(most=2).entries
    assert (entry.id, entry.deliveries, entry.failures, entry.crashes) == (taken[0], 2, 0, 1)
    assert entry.left_by is None


def test_crashes_and_failures_of_a_message_are_counted_apart(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    counts = []
    for failure in ("", '{"n":1}', "", '{"n":2}'):
        worker.park(taken[0], delay_ms=0, failure=failure)
        entry = worker.recover().entry
        assert entry is not None
        counts.append((entry.crashes, entry.failures))
    assert counts == [(1, 0), (1, 1), (2, 1), (2, 2)]
    assert admin.history() == {taken[0]: '{"n":1}\n{"n":2}\n'}


def test_parking_after_a_crash_again_changes_nothing(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    """Neither at once, nor when it arrives after the next delivery."""
    worker.park(taken[0], delay_ms=0, failure="")
    before = admin.everything()
    assert worker.park(taken[0], failure="") == 0
    assert admin.everything() == before
    assert worker.recover_id() == taken[0]
    before = admin.everything()
    assert worker.park(taken[0], failure="", delivery=1) == 0
    assert admin.everything() == before


def test_a_crash_counts_although_the_consumer_was_deleted_meanwhile(
    worker: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    client.xgroup_delconsumer(KEYS.stream, KEYS.group, "w1")
    assert worker.park(taken[0], delay_ms=0, failure="", delivery=1) == 1
    entry = worker.recover().entry
    assert entry is not None
    assert (entry.id, entry.crashes) == (taken[0], 1)


def test_only_the_owner_can_park(
    worker: Worker, other: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    before = admin.everything()
    assert other.park(taken[0]) == 0
    assert other.park("1-1") == 0
    assert admin.everything() == before


def test_a_dead_letter_has_the_fields_the_reason_and_the_history(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    worker.park(taken[0], delay_ms=0, failure='{"n":1}')
    worker.recover()
    error = Answer(items=[b"status", b"dead"], channel="c", payload=b"{}")
    assert worker.bury(taken[0], failure='{"n":2}', answer=error) == 1
    (letter,) = admin.dead()
    assert list(letter.items()) == [
        (b"text", b"a"),
        (b"dead.id", b"?"),
        (b"dead.reason", b"rejected: no"),
        (b"dead.history", b'{"n":1}\n{"n":2}\n'),
    ]
    assert admin.results() == [{b"status": b"dead"}]
    assert admin.history() == {}
    assert admin.due() == {}
    assert admin.bodies() == taken[1:]
    assert list(admin.pending()) == taken[1:]


def test_burying_without_a_failure_adds_nothing_to_the_history(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    worker.bury(taken[0], failure="")
    assert admin.dead()[0][b"dead.history"] == b""


def test_burying_again_changes_nothing(worker: Worker, admin: GroupAdmin, taken: list[str]) -> None:
    worker.bury(taken[0], answer=result("dead"))
    before = admin.everything()
    assert worker.bury(taken[0], answer=result("dead")) == 0
    assert admin.everything() == before


def test_only_the_owner_can_bury(
    worker: Worker, other: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    before = admin.everything()
    assert other.bury(taken[0]) == 0
    assert other.bury("1-1") == 0
    assert admin.everything() == before


def test_dead_letters_are_in_the_order_in_which_they_were_buried(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    for entry_id in reversed(taken):
        worker.bury(entry_id)
    assert [letter[b"text"] for letter in admin.dead()] == [b"c", b"b", b"a"]


def test_a_buried_message_stays_in_the_stream_for_groups_that_still_need_it(
    worker: Worker, connection: Connection, admin: GroupAdmin, taken: list[str]
) -> None:
    second = Worker(connection, "x1", keys=Keys.of("jobs", "second"))
    worker.bury(taken[0])
    assert admin.bodies() == taken
    assert second.read()[0].id == taken[0]


def netstrings(packed: bytes) -> list[bytes]:
    items = []
    while packed:
        length, _, rest = packed.partition(b":")
        items.append(rest[: int(length)])
        assert rest[int(length) : int(length) + 1] == b","
        packed = rest[int(length) + 1 :]
    return items


@pytest.mark.parametrize("fields", [2000, 2001, 6000])
def test_a_message_with_very_many_fields_becomes_a_dead_letter_with_all_of_them(
    worker: Worker, admin: GroupAdmin, client: redis.Redis, fields: int
) -> None:
    items = [part for n in range(fields) for part in (b"f%d" % n, b"1:\xff,%d" % n)]
    client.execute_command("XADD", "jobs", "*", *items)
    (entry,) = worker.read()
    assert entry.items == items
    assert worker.bury(entry.id) == 1
    (letter,) = admin.dead()
    assert letter[b"dead.reason"] == b"rejected: no"
    if fields > 2000:
        assert netstrings(letter[b"dead.fields"]) == items
        assert len(letter) == 4
    else:
        assert all(letter[b"f%d" % n] == b"1:\xff,%d" % n for n in range(fields))


def test_if_the_error_result_is_refused_repeated_tries_leave_one_dead_letter(
    worker: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    client.set("results", "not a stream")
    for _ in range(3):
        with pytest.raises(RedisRefused):
            worker.bury(taken[0], answer=result("dead"))
    client.delete("results")
    worker.bury(taken[0], answer=result("dead"))
    assert len(admin.dead()) == 1
    assert admin.results() == [{b"text": b"dead"}]


def test_a_dead_letter_key_of_the_wrong_type_leaves_the_message_pending_without_a_result(
    worker: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    client.set(KEYS.dead, "not a stream")
    for _ in range(2):
        with pytest.raises(RedisRefused) as caught:
            worker.bury(taken[0], answer=result("dead"))
        assert caught.value.code == "WRONGTYPE"
    assert taken[0] in admin.pending()
    assert taken[0] in admin.bodies()
    assert admin.results() == []
    client.delete(KEYS.dead)
    assert worker.bury(taken[0], answer=result("dead")) == 1
    assert admin.results() == [{b"text": b"dead"}]


def test_burying_ends_a_message_whose_entry_was_deleted_without_a_dead_letter(
    worker: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    client.xdel("jobs", taken[0])
    assert worker.bury(taken[0], answer=result("dead")) == -1
    assert taken[0] not in admin.pending()
    assert admin.dead() == []
    assert admin.history() == {}


def test_a_refused_burial_adds_no_delivery(
    worker: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    client.set(KEYS.dead, "in the way")
    for _ in range(3):
        with pytest.raises(RedisRefused):
            worker.bury(taken[0])
    assert admin.pending()[taken[0]] == ("w1", 1)
    client.delete(KEYS.dead)
    assert worker.bury(taken[0]) == 1


def test_a_message_that_was_handed_back_may_be_taken_at_once_by_any_worker_and_is_not_charged(
    worker: Worker, other: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    assert worker.hand_back(*taken[:2]) == [2, 0]
    assert admin.pending()[taken[0]] == (PARKED, 0)
    entry = other.recover().entry
    assert entry is not None
    assert (entry.id, entry.deliveries, entry.crashes) == (taken[0], 1, 0)
    assert entry.left_by is None
    assert admin.history() == {}


def test_only_the_owner_can_hand_back(
    worker: Worker, other: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    before = admin.everything()
    assert other.hand_back(*taken, "1-1") == [0, 0]
    assert admin.everything() == before


def test_handing_back_again_changes_nothing(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    worker.hand_back(*taken)
    before = admin.everything()
    assert worker.hand_back(*taken) == [0, 0]
    assert admin.everything() == before


def test_a_message_that_failed_before_keeps_its_history_when_it_is_handed_back(
    worker: Worker, taken: list[str]
) -> None:
    worker.park(taken[0], delay_ms=0)
    worker.recover()
    worker.hand_back(taken[0])
    entry = worker.recover().entry
    assert entry is not None
    assert (entry.deliveries, entry.failures, entry.crashes) == (2, 1, 0)


# --- a worker broke at it -----------------------------------------------------------------------


def test_a_message_at_which_a_worker_broke_goes_back_uncharged_and_that_is_noted(
    worker: Worker, other: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    for faults in (1, 2, 3):
        assert worker.fault(taken[0]) == 1
        assert admin.pending()[taken[0]] == (PARKED, 0)
        entry = worker.recover().entry
        assert entry is not None
        assert (entry.deliveries, entry.failures, entry.crashes) == (1, 0, 0)
        assert entry.faults == faults
    worker.fault(taken[0], delay_ms=60_000)
    assert other.recover().entry is None, "it waits"
    assert admin.due()[taken[0]] - admin.now_ms() > 50_000


def test_a_fault_and_failures_are_counted_apart_and_end_together(
    worker: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    worker.park(taken[0], delay_ms=0, failure='{"n":1}')
    worker.recover()
    worker.fault(taken[0])
    worker.recover()
    worker.park(taken[0], delay_ms=0, failure='{"n":2}')
    entry = worker.recover().entry
    assert entry is not None
    assert (entry.deliveries, entry.failures, entry.crashes, entry.faults) == (3, 2, 0, 1)
    assert worker.bury(taken[0], failure='{"n":3}') == 1
    ((_, letter),) = client.xrange(KEYS.dead)
    assert letter[b"dead.history"] == b'{"n":1}\n{"n":2}\n{"n":3}\n'
    assert admin.history() == {}


def test_reporting_a_fault_again_changes_nothing(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    worker.fault(taken[0])
    before = admin.everything()
    assert worker.fault(taken[0]) == 0
    assert admin.everything() == before


def test_a_message_that_breaks_workers_for_days_does_not_grow(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    for _ in range(25):
        worker.fault(taken[0])
        worker.recover()
    assert admin.history() == {taken[0]: "\t" * 20}


@pytest.mark.parametrize("act", ["park", "hand_back", "fault", "leave"])
def test_returning_a_message_whose_entry_was_deleted_ends_it_at_once_or_when_it_is_due(
    worker: Worker,
    other: Worker,
    admin: GroupAdmin,
    client: redis.Redis,
    taken: list[str],
    act: str,
) -> None:
    client.hset(KEYS.history, taken[0], "{}\n")
    client.xdel("jobs", taken[0])
    returned = {
        "park": lambda: worker.park(taken[0], delay_ms=0),
        "hand_back": lambda: worker.hand_back(taken[0]),
        "fault": lambda: worker.fault(taken[0]),
        "leave": worker.leave,
    }[act]()
    left = {"park": 0, "hand_back": 0, "fault": 0, "leave": 2}[act]
    if admin.drops_deleted_bodies_on_claim():
        assert returned == {"park": -1, "fault": -1, "hand_back": [0, 1], "leave": [left, 1]}[act]
        lost = 1
    else:
        assert returned == {"park": 1, "fault": 1, "hand_back": [1, 0], "leave": [left + 1, 0]}[act]
        lost = 0
    for _ in range(4):
        lost += other.recover().lost_bodies
    assert lost == 1
    assert taken[0] not in admin.pending()
    assert admin.history() == {}


def test_a_full_server_still_ends_messages_and_renews_leases(
    own_server: EmbeddedRedis,
) -> None:
    with redis.Redis.from_url(own_server.url, protocol=2) as client:
        connection = make_connection(own_server.url)
        worker = Worker(connection, "w1")
        ids = worker.publish(*([b"n", b"%d" % number] for number in range(5)))
        worker.read(5)
        client.config_set("maxmemory", 1)
        try:
            worker.heartbeat()
            assert worker.finish(ids[0], result("A")) == 1
            assert worker.park(ids[1], delay_ms=0) == 1
            assert worker.bury(ids[2], answer=result("gone")) == 1
            assert worker.hand_back(ids[3]) == [1, 0]
            assert worker.fault(ids[4], delay_ms=1000) == 1
            assert worker.recover_id() == ids[3], "what was not started comes before retries"
            assert groups.ensure_group(connection, worker.commands) is Ensured.EXISTED
            worker.leave()
        finally:
            connection.close()
        assert client.xlen("results") == 2
        assert client.xlen("jobs") == 3


def test_the_index_has_each_dead_letter_and_the_short_fields_of_large_ones(
    worker: Worker, client: redis.Redis
) -> None:
    long = b"x" * 100_000
    ids = worker.publish([b"n", b"1"], [b"audio", long, b"client", b"42"])
    worker.read()
    assert [worker.bury(message_id) for message_id in ids] == [1, 1]
    small, large = client.zrange(KEYS.dead_index, 0, -1)
    letters = client.xrange(KEYS.dead)
    for member, (letter_id, fields) in zip((small, large), letters, strict=True):
        ms, _, sequence = letter_id.partition(b"-")
        size = sum(len(name) + len(value) for name, value in fields.items())
        place = b"%020d-%020d %d" % (int(ms), int(sequence), size)
        assert member.startswith(place)
        assert (member == place) == (member is small)
    _, _, left_out, packed = large.split(b" ", 3)
    assert left_out == b"1"
    assert packed.startswith(b"6:client,2:42,7:dead.id,")
    assert long not in packed


def test_a_dead_letter_is_written_although_its_index_cannot_be(
    worker: Worker, client: redis.Redis
) -> None:
    client.set(KEYS.dead_index, "something else")
    (message_id,) = worker.publish([b"n", b"1"])
    worker.read()
    assert worker.bury(message_id) == 1
    assert client.xlen(KEYS.dead) == 1
