"""After the server's clock was set back nothing waits until it is as late as before.

The tests move what stands in the keys into the future instead: by an hour, as if it had been
written before the clock was set back by that.
"""

from __future__ import annotations

import pytest
import redis
from protocol_client import HOUR_MS, KEYS, LEASE_MS, GroupAdmin, Worker

from shared_sync.connection.connection import Connection
from shared_sync.protocol.dead_letter_layout import failure_line
from shared_sync.protocol.process_identity import ProcessIdentity
from shared_sync.protocol.replies import NameInUse
from shared_sync.redis_consumer import crashes

DELAY_MS = 60_000


def stating(connection: Connection, name: str, lease_ms: int) -> Worker:
    """A consumer that states its lease, and sends a heartbeat."""
    identity = ProcessIdentity.here(lease_ms=lease_ms).text()
    return Worker(connection, name, lease_ms=lease_ms, identity=identity)


def lease_left(admin: GroupAdmin, name: str) -> float:
    return admin.presence()[name] - admin.now_ms()


def test_a_dead_consumers_lease_ends_no_later_than_it_could_have_said(
    connection: Connection, worker: Worker, admin: GroupAdmin
) -> None:
    dead = stating(connection, "dead", LEASE_MS)
    (message_id,) = dead.publish([b"text", b"a"])
    dead.read()
    admin.set_lease("dead", HOUR_MS + LEASE_MS)
    worker.heartbeat()
    assert LEASE_MS - 10_000 < lease_left(admin, "dead") <= LEASE_MS
    assert worker.recover_id() is None
    admin.end_lease("dead")
    assert worker.recover_id() == message_id


@pytest.mark.parametrize(
    ("stated_ms", "left_ms"),
    [
        pytest.param(2 * HOUR_MS, HOUR_MS, id="a longer lease than that of who looks"),
        pytest.param(0, HOUR_MS, id="a release that stated none"),
        pytest.param(LEASE_MS, LEASE_MS + 3000, id="a little later, within the grace"),
    ],
)
def test_a_lease_that_can_be_so_long_is_believed(
    connection: Connection, worker: Worker, admin: GroupAdmin, stated_ms: int, left_ms: int
) -> None:
    stating(connection, "other", stated_ms or LEASE_MS)
    if not stated_ms:
        admin.client.hset(KEYS.holders, "other", "an identity without a lease")
    admin.set_lease("other", left_ms)
    worker.heartbeat()
    assert lease_left(admin, "other") > left_ms - 2000


def test_many_leases_are_set_right_in_steps(
    connection: Connection, worker: Worker, admin: GroupAdmin, client: redis.Redis
) -> None:
    identity = ProcessIdentity.here(lease_ms=LEASE_MS).text()
    names = [f"w{number}" for number in range(2, 252)]
    client.hset(KEYS.holders, mapping=dict.fromkeys(names, identity))
    client.zadd(KEYS.presence, dict.fromkeys(names, admin.now_ms() + HOUR_MS))
    for late in (150, 50, 0):
        worker.heartbeat()
        assert client.zcount(KEYS.presence, admin.now_ms() + 2 * LEASE_MS, "+inf") == late


def test_a_name_is_not_in_use_for_longer_than_the_lease_of_who_had_it(
    connection: Connection, admin: GroupAdmin
) -> None:
    stating(connection, "name", LEASE_MS)
    admin.set_lease("name", HOUR_MS)
    reply = Worker(connection, "name", identity="the next", sends_heartbeat=False).claim()
    assert isinstance(reply, NameInUse)
    assert reply.lease_end_ms - reply.now_ms == LEASE_MS


# --- retries ----------------------------------------------------------------------------------


def failure(delay_ms: int | None) -> str:
    return failure_line(
        worker="w1", time=0.0, attempt=1, error_type="E", error="no", delay_ms=delay_ms
    )


def due_in(admin: GroupAdmin, message_id: str) -> float:
    return admin.due()[message_id] - admin.now_ms()


def put_off(admin: GroupAdmin, *ids: str) -> None:
    for message_id in ids:
        admin.client.zincrby(KEYS.due, HOUR_MS, message_id)


def test_a_retry_waits_no_longer_than_it_was_to(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    """Also behind one that is due earlier."""
    worker.park(taken[0], delay_ms=1000, failure=failure(1000))
    worker.park(taken[1], delay_ms=DELAY_MS, failure=failure(DELAY_MS))
    put_off(admin, taken[1])
    worker.heartbeat()
    assert 0 < due_in(admin, taken[0]) <= 1000
    assert DELAY_MS - 10_000 < due_in(admin, taken[1]) <= DELAY_MS


def test_the_first_retry_is_set_right_also_if_no_process_saw_the_clock_go_back(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    for message_id in taken:
        worker.park(message_id, delay_ms=0, failure=failure(0))
    put_off(admin, *taken)
    assert [worker.recover_id() for _ in taken] == taken


def test_a_message_that_was_handed_back_is_due_at_once(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    worker.hand_back(*taken)
    put_off(admin, *taken)
    worker.heartbeat()
    assert all(due_in(admin, message_id) <= 0 for message_id in taken)
    put_off(admin, *taken)
    assert [worker.recover_id() for _ in taken] == taken


def test_a_message_at_which_a_worker_broke_waits_for_ten_minutes_at_most(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    worker.fault(taken[0], delay_ms=600_000)
    worker.heartbeat()
    assert due_in(admin, taken[0]) > 590_000
    put_off(admin, taken[0])
    worker.heartbeat()
    assert 590_000 < due_in(admin, taken[0]) <= 600_000
    worker.park(taken[1], delay_ms=0, failure=failure(0))
    worker.recover()
    worker.fault(taken[1])
    put_off(admin, taken[1])
    worker.heartbeat()
    assert due_in(admin, taken[1]) <= 600_000


def test_a_retry_of_which_nobody_knows_how_long_it_waits_is_left_alone(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    """An earlier release has parked it."""
    worker.park(taken[0], delay_ms=HOUR_MS, failure=failure(None))
    worker.heartbeat()
    assert worker.recover().entry is None
    assert due_in(admin, taken[0]) > HOUR_MS - 10_000


def test_a_message_that_has_crashed_waits_no_longer_than_one_may(
    worker: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    """Also one that failed before, or whose history is lost: its failures count as crashes."""
    longest = crashes.LONGEST_DELAY_SECONDS * 1000
    worker.park(taken[0], delay_ms=0, failure=failure(0))
    assert worker.recover_id() == taken[0]
    worker.park(taken[0], delay_ms=longest, failure="")
    worker.park(taken[1], delay_ms=longest, failure="")
    worker.park(taken[2], delay_ms=HOUR_MS, failure=failure(HOUR_MS))
    client.hdel(KEYS.history, taken[2])
    worker.heartbeat()
    assert all(longest - 10_000 < due_in(admin, one) <= longest for one in taken)
    put_off(admin, *taken)
    worker.heartbeat()
    assert all(longest - 10_000 < due_in(admin, one) <= longest for one in taken)
    put_off(admin, *taken)
    assert worker.recover().entry is None
    assert min(due_in(admin, one) for one in taken) <= longest, "the first one is set right"


def test_an_errors_text_does_not_say_how_long_a_retry_waits(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    text = 'no", "delay_ms": 0}'
    line = failure_line(
        worker="w1", time=0.0, attempt=1, error_type="E", error=text, delay_ms=HOUR_MS
    )
    worker.park(taken[0], delay_ms=HOUR_MS, failure=line)
    worker.heartbeat()
    assert worker.recover().entry is None
    assert due_in(admin, taken[0]) > HOUR_MS - 10_000
