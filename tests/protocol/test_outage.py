"""After an outage of Redis nobody is taken for dead at once."""

from __future__ import annotations

import pytest
import redis
from protocol_client import HOUR_MS, KEYS, LEASE_MS, GroupAdmin, Worker

from shared_sync.connection.connection import Connection

FORGIVEN = "forgiven until"
LAST = "last heartbeat"


def end_leases(client: redis.Redis, admin: GroupAdmin, **ended_ms_ago: int) -> None:
    """Leave these leases alone, as if nobody had reached the server since they ended."""
    now_ms = admin.now_ms()
    client.delete(KEYS.presence)
    client.zadd(KEYS.presence, {name: now_ms - ms for name, ms in ended_ms_ago.items()})
    client.zadd(KEYS.outage, {LAST: now_ms - min(ended_ms_ago.values()) - LEASE_MS})


def end_grace(client: redis.Redis, admin: GroupAdmin) -> None:
    assert client.zadd(KEYS.outage, {FORGIVEN: admin.now_ms() - 1}, xx=True, ch=True) == 1


def is_forgiven(client: redis.Redis) -> bool:
    return client.zscore(KEYS.outage, FORGIVEN) is not None


def test_when_all_leases_have_ended_nobody_is_taken_for_dead(
    worker: Worker, other: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    end_leases(client, admin, w1=1, w2=1)
    for _ in range(3):
        assert other.recover().entry is None


def test_after_an_outage_the_others_have_a_grace_to_send_a_heartbeat(
    worker: Worker,
    other: Worker,
    connection: Connection,
    admin: GroupAdmin,
    client: redis.Redis,
    taken: list[str],
) -> None:
    """A consumer that starts only then grants it too, though it finds nothing but ended leases."""
    end_leases(client, admin, w1=1, w2=1)
    newcomer = Worker(connection, "w3")
    assert newcomer.recover().entry is None
    until_ms = client.zscore(KEYS.outage, FORGIVEN)
    assert 0 < until_ms - admin.now_ms() <= 5000
    other.heartbeat()
    assert newcomer.recover().entry is None
    end_grace(client, admin)
    assert newcomer.recover_id() == taken[0], "w1 has not reported by the end of the grace"
    assert not is_forgiven(client)


def test_a_process_that_claims_its_name_first_after_an_outage_grants_the_grace_too(
    worker: Worker,
    other: Worker,
    connection: Connection,
    admin: GroupAdmin,
    client: redis.Redis,
    taken: list[str],
) -> None:
    """Its new lease does not hide that the leases of all others have ended."""
    end_leases(client, admin, w1=1, w2=1)
    newcomer = Worker(connection, "w3", sends_heartbeat=False)
    assert newcomer.claim() is None
    newcomer.heartbeat()
    assert newcomer.recover().entry is None
    end_grace(client, admin)
    assert newcomer.recover_id() == taken[0]


def test_a_consumer_that_sends_a_heartbeat_within_the_grace_is_not_taken_for_dead(
    worker: Worker, other: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    end_leases(client, admin, w1=1, w2=1)
    assert other.recover().entry is None
    worker.heartbeat()
    other.heartbeat()
    client.zrem(KEYS.outage, FORGIVEN)
    assert other.recover().entry is None


def test_a_consumer_whose_lease_ends_while_others_send_heartbeats_is_dead(
    worker: Worker, other: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    other.heartbeat()
    admin.end_lease("w1")
    other.heartbeat()
    assert other.recover_id() == taken[0]


@pytest.mark.parametrize("ends_it", ["heartbeat", "recover"])
def test_the_grace_is_on_record_only_while_nobody_is_taken_for_dead(
    worker: Worker, other: Worker, admin: GroupAdmin, client: redis.Redis, ends_it: str
) -> None:
    for one in (worker, other):
        one.heartbeat()
        one.recover()
    assert not is_forgiven(client)
    end_leases(client, admin, w1=1, w2=1)
    worker.heartbeat()
    assert is_forgiven(client)
    other.heartbeat()
    other.recover()
    assert is_forgiven(client)
    end_grace(client, admin)
    getattr(worker, ends_it)()
    assert not is_forgiven(client)


def test_a_heartbeat_within_the_grace_removes_no_consumer(
    worker: Worker, other: Worker, admin: GroupAdmin, client: redis.Redis
) -> None:
    end_leases(client, admin, w1=1, w2=1)
    worker.heartbeat()
    assert set(admin.presence()) == {"w1", "w2"}
    end_grace(client, admin)
    worker.heartbeat()
    assert set(admin.presence()) == {"w1"}


def test_messages_of_foreign_consumers_are_taken_within_the_grace_too(
    worker: Worker, other: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    """They never announced themselves, so nobody waits for them to do it."""
    end_leases(client, admin, w2=1)
    admin.forget_name("w1")
    admin.set_idle(taken[0], "w1", LEASE_MS)
    assert other.recover_id() == taken[0]
    assert is_forgiven(client)


def test_nothing_of_heartbeats_is_left_when_the_last_consumer_leaves(
    worker: Worker, other: Worker, client: redis.Redis
) -> None:
    worker.leave()
    assert client.zscore(KEYS.outage, LAST) is not None
    other.leave()
    assert not client.exists(KEYS.outage, KEYS.presence, KEYS.holders)


# --- leases that are about to end -------------------------------------------------------------


def test_after_an_outage_leases_that_end_within_the_grace_are_forgiven_too(
    worker: Worker, other: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    """Their owners may need it, too, to connect and to send a heartbeat."""
    client.zadd(KEYS.outage, {LAST: admin.now_ms() - LEASE_MS + 400})
    for name in ("w1", "w2"):
        admin.set_lease(name, 400)
    other.heartbeat()
    assert is_forgiven(client)
    admin.end_lease("w1")
    assert other.recover().entry is None


def test_without_an_outage_a_lease_that_is_about_to_end_is_not_forgiven(
    worker: Worker, other: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    admin.set_lease("w1", 400)
    other.heartbeat()
    assert not is_forgiven(client)


def test_a_longer_lease_of_another_consumer_does_not_hide_an_outage(
    worker: Worker, other: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    end_leases(client, admin, w1=1, w2=1)
    admin.set_lease("w3", 10 * LEASE_MS)
    assert other.recover().entry is None


def test_a_long_lease_of_a_dead_consumer_does_not_look_like_an_outage(
    worker: Worker, other: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    """Nor does a lease that others find short: what counts is when a heartbeat was sent."""
    admin.set_lease("w3", LEASE_MS // 2)
    admin.set_lease("w2", LEASE_MS // 2)
    admin.end_lease("w1")
    assert other.recover_id() == taken[0]


def test_where_no_release_has_noted_the_last_heartbeat_the_newest_lease_tells_of_an_outage(
    worker: Worker, other: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    end_leases(client, admin, w1=1, w2=1)
    client.zrem(KEYS.outage, LAST)
    assert other.recover().entry is None
    client.delete(KEYS.outage)
    admin.keep_alive("w2")
    assert other.recover_id() == taken[0]


def test_a_clock_that_was_put_forward_is_an_outage(
    worker: Worker, other: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    for name in ("w1", "w2"):
        client.zincrby(KEYS.presence, -HOUR_MS, name)
    client.zincrby(KEYS.outage, -HOUR_MS, LAST)
    assert other.recover().entry is None
    other.heartbeat()
    assert other.recover().entry is None
    end_grace(client, admin)
    assert other.recover_id() == taken[0]
