"""After an outage of Redis nobody is taken for dead at once."""

from __future__ import annotations

import pytest
import redis
from protocol_client import KEYS, LEASE_MS, GroupAdmin, Worker

from shared_sync.connection.connection import Connection


def end_leases(client: redis.Redis, admin: GroupAdmin, **ended_ms_ago: int) -> None:
    """Leave these leases alone, as if nobody had reached the server since they ended."""
    client.delete(KEYS.presence)
    client.zadd(KEYS.presence, {name: admin.now_ms() - ms for name, ms in ended_ms_ago.items()})


def end_grace(client: redis.Redis, admin: GroupAdmin) -> None:
    (member,) = client.zrange(KEYS.outage, 0, -1)
    client.zadd(KEYS.outage, {member: admin.now_ms() - 1})


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
    (until_ms,) = (at for _, at in client.zrange(KEYS.outage, 0, -1, withscores=True))
    assert 0 < until_ms - admin.now_ms() <= 5000
    other.heartbeat()
    assert newcomer.recover().entry is None
    end_grace(client, admin)
    assert newcomer.recover_id() == taken[0], "w1 has not reported by the end of the grace"
    assert not client.exists(KEYS.outage)


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
    client.delete(KEYS.outage)
    assert other.recover().entry is None


def test_a_consumer_whose_lease_ends_while_others_send_heartbeats_is_dead(
    worker: Worker, other: Worker, admin: GroupAdmin, client: redis.Redis, taken: list[str]
) -> None:
    other.heartbeat()
    admin.end_lease("w1")
    other.heartbeat()
    assert other.recover_id() == taken[0]


@pytest.mark.parametrize("ends_it", ["heartbeat", "recover"])
def test_the_key_of_the_outage_exists_only_while_nobody_is_taken_for_dead(
    worker: Worker, other: Worker, admin: GroupAdmin, client: redis.Redis, ends_it: str
) -> None:
    for one in (worker, other):
        one.heartbeat()
        one.recover()
    assert not client.exists(KEYS.outage)
    end_leases(client, admin, w1=1, w2=1)
    worker.heartbeat()
    assert client.exists(KEYS.outage)
    other.heartbeat()
    other.recover()
    assert client.exists(KEYS.outage)
    end_grace(client, admin)
    getattr(worker, ends_it)()
    assert not client.exists(KEYS.outage)


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
    assert client.exists(KEYS.outage)
