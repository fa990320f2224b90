"""When recovery takes over messages that have a crash behind them, and beside which others."""

from __future__ import annotations

from typing import Any

import pytest
from protocol_client import KEYS, GroupAdmin, Worker

from shared_sync.connection.connection import Connection
from shared_sync.protocol.messages import Read
from shared_sync.protocol.process_identity import ONE_BY_ONE, ProcessIdentity
from shared_sync.protocol.scan import Predecessor


def test_a_suspect_waits_while_it_has_more_crashes_than_may_start(
    worker: Worker, other: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    admin.end_lease("w1")
    admin.client.xclaim("jobs", "workers", "w1", 0, [taken[0]], retrycount=2, justid=True)
    found = [other.recover(startable_crashes=1).entry for _ in range(3)]
    assert [entry and entry.id for entry in found] == [taken[1], taken[2], None]
    entry = other.recover(startable_crashes=2).entry
    assert entry is not None
    assert (entry.id, entry.deliveries, entry.crashes) == (taken[0], 3, 2)


def test_a_due_suspect_waits_too_and_other_due_messages_pass_it(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    admin.client.xclaim("jobs", "workers", "w1", 0, [taken[0]], retrycount=3, justid=True)
    worker.park(taken[0], delay_ms=0)
    worker.park(taken[1], delay_ms=0)
    admin.client.zadd(KEYS.due, {taken[0]: 1})
    assert worker.recover_id(startable_crashes=0) == taken[1]
    assert worker.recover_id(startable_crashes=0) is None
    assert set(admin.due()) == {taken[0]}
    assert worker.recover_id(startable_crashes=2) == taken[0]


def test_a_message_with_the_most_crashes_does_not_wait(
    worker: Worker, other: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    admin.end_lease("w1")
    admin.client.xclaim("jobs", "workers", "w1", 0, [taken[0]], retrycount=3, justid=True)
    entry = other.recover(startable_crashes=0).entry
    assert entry is not None
    assert (entry.id, entry.crashes) == (taken[0], 3)


def test_messages_of_one_read_of_a_dead_consumer_run_one_at_a_time_in_a_process(
    worker: Worker, other: Worker, connection: Connection, admin: GroupAdmin, taken: list[str]
) -> None:
    """Whichever of them was the cause of a crash, it does not take the others down twice."""
    for entry_id in taken:
        admin.set_idle(entry_id, "w1", 1000)
    (alone,) = worker.publish([b"text", b"d"])
    worker.read()
    admin.end_lease("w1")
    first = other.recover().entry
    assert first is not None
    assert (first.id, first.left_by is not None) == (taken[0], True)
    apart = (first.left_by,) if first.left_by else ()
    assert other.recover_id(apart=apart) == alone, "messages of another read need not wait"
    assert other.recover_id(apart=apart) is None
    assert Worker(connection, "w3").recover_id() == taken[1], "nor must another process wait"
    assert other.recover_id() == taken[2]


def test_messages_belong_to_one_read_also_if_the_server_took_long_to_deliver_them(
    worker: Worker, other: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    """Servers up to 7.0 read the clock for each message, so long messages differ in their times."""
    for number, entry_id in enumerate(taken):
        admin.set_idle(entry_id, "w1", 1000 - 63 * number)
    admin.end_lease("w1")
    first = other.recover().entry
    assert first is not None
    assert first.left_by is not None
    assert other.recover_id(apart=(first.left_by,)) is None


@pytest.mark.parametrize(
    ("identity", "apart"),
    [
        pytest.param(ProcessIdentity.here(prefetch=1).text(), False, id="1"),
        pytest.param(ProcessIdentity.here(prefetch=100).text() + ONE_BY_ONE, False, id="1 so far"),
        pytest.param(ProcessIdentity.here(prefetch=10).text(), True, id="10"),
        pytest.param('{"host": "gpu-7"}', True, id="says nothing about reads"),
        pytest.param("[1]", True, id="not an object"),
        pytest.param("the identity of w1", True, id="not JSON"),
        pytest.param(None, True, id="no identity"),
    ],
)
def test_messages_of_a_dead_consumer_that_read_singly_do_not_wait_for_each_other(
    worker: Worker,
    other: Worker,
    admin: GroupAdmin,
    taken: list[str],
    identity: str | None,
    apart: bool,
) -> None:
    """The reads of the dead consumer count, since another version may read in another way."""
    admin.client.hdel(admin.keys.holders, "w1")
    if identity is not None:
        admin.client.hset(admin.keys.holders, "w1", identity)
    admin.end_lease("w1")
    other.heartbeat()  # it removes the identities of consumers with nothing pending
    first = other.recover().entry
    assert first is not None
    assert first.left_by is not None
    assert other.recover_id(apart=(first.left_by,)) == (None if apart else taken[1])


@pytest.mark.parametrize("singly", [True, False])
def test_for_messages_of_the_previous_process_of_its_name_the_reads_of_that_process_count(
    connection: Connection, worker: Worker, admin: GroupAdmin, taken: list[str], singly: bool
) -> None:
    admin.end_lease("w1")
    admin.pass_ms(5)
    successor = Worker(
        connection, "w1", identity=ProcessIdentity.here(prefetch=1).text(), sends_heartbeat=False
    )
    assert successor.claim() is None
    predecessor = Predecessor.READ_SINGLY if singly else Predecessor.READ_SEVERAL
    before: dict[str, Any] = {"since_ms": admin.now_ms(), "predecessor": predecessor}
    first = successor.recover(**before).entry
    assert first is not None
    assert first.left_by is not None
    assert (first.id, first.deliveries) == (taken[0], 2)
    found = successor.recover_id(**before, apart=(first.left_by,))
    assert found == (taken[1] if singly else None)


def test_reads_of_other_consumers_and_other_times_are_not_kept_apart(
    worker: Worker, other: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    admin.end_lease("w1")
    delivered_ms = admin.now_ms()
    apart = (Read(b"w9", delivered_ms), Read(b"w1", delivered_ms - 60_000))
    assert other.recover_id(apart=apart, in_flight=(taken[1],)) == taken[0]
    assert other.recover_id(apart=apart, in_flight=(taken[1],)) == taken[2]


def test_failures_do_not_make_a_message_a_suspect(worker: Worker, taken: list[str]) -> None:
    for number in range(3):
        worker.park(taken[0], delay_ms=0, failure=f'{{"n":{number}}}')
        assert worker.recover_id(startable_crashes=0) == taken[0]
