"""Rights that a Redis user may lack."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
import redis
from protocol_client import KEYS, LEASE_MS, GroupAdmin, Worker, make_connection

from shared_sync.connection.connection import Connection
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import RedisAccessDenied
from shared_sync.protocol import groups
from shared_sync.protocol.commands import GroupCommands
from shared_sync.protocol.groups import Ensured
from shared_sync.protocol.replies import QueueMetrics, parse_heartbeat


def test_checking_the_rights_changes_nothing(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    def state() -> tuple[object, ...]:
        hints = (admin.due(), admin.history(), admin.presence())
        return (admin.bodies(), admin.pending(), *hints, admin.results(), admin.dead())

    (unread,) = worker.publish([b"text", b"unread"])
    worker.park(taken[0])
    before = state()
    groups.check_rights(worker.connection, worker.commands)
    assert state() == before
    assert [entry.id for entry in worker.read()] == [unread]


@pytest.fixture
def restricted(own_server: EmbeddedRedis) -> Iterator[tuple[Connection, redis.Redis]]:
    """A connection of a user who may not remove consumers and create groups, and a full client."""
    with redis.Redis.from_url(own_server.url, protocol=2) as client:
        rights = ("on", ">pw", "~*", "+@all", "-xgroup|delconsumer", "-xgroup|create")
        if str(client.info("server")["redis_version"]).startswith("6."):
            # Before 7.0 one part of a command cannot be taken away, only given.
            allowed = ("+xgroup|createconsumer", "+xgroup|destroy", "+xgroup|setid")
            rights = ("on", ">pw", "~*", "+@all", "-xgroup", *allowed)
        client.execute_command("ACL", "SETUSER", "worker", *rights)
        url = own_server.url.replace("redis://", "redis://worker:pw@")
        with closing(make_connection(url)) as connection:
            yield connection, client


def test_without_the_right_to_remove_consumers_their_names_stay_and_all_else_goes_on(
    restricted: tuple[Connection, redis.Redis],
) -> None:
    connection, client = restricted
    client.xgroup_create("jobs", "workers", id="0", mkstream=True)
    worker, other, admin = Worker(connection, "w1"), Worker(connection, "w2"), GroupAdmin(client)
    other.publish([b"n", b"1"])
    assert len(other.read()) == 1
    other.leave()
    reply = parse_heartbeat(connection.call(*worker.commands.heartbeat()))
    assert reply.refusal is None
    Worker(connection, "w3")
    admin.end_lease("w3")
    reply = parse_heartbeat(connection.call(*worker.commands.heartbeat()))
    assert isinstance(reply.refusal, RedisAccessDenied)
    assert worker.heartbeat() == QueueMetrics(backlog=1, pending=1, parked=1, dead=0)
    assert worker.recover().entry is not None
    assert "w3" not in admin.presence()


def test_without_the_right_to_create_groups_the_group_must_exist(
    restricted: tuple[Connection, redis.Redis],
) -> None:
    connection, client = restricted
    commands = GroupCommands(KEYS, "w1", LEASE_MS)
    with pytest.raises(RedisAccessDenied):
        groups.ensure_group(connection, commands)
    client.xgroup_create("jobs", "workers", id="0", mkstream=True)
    assert groups.ensure_group(connection, commands) is Ensured.MAY_NOT_CREATE
