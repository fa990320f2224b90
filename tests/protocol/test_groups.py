"""Creating a group, and commands to a group that does not exist."""

from __future__ import annotations

import pytest
import redis
from protocol_client import KEYS, LEASE_MS, Worker

from shared_sync.connection.connection import Connection
from shared_sync.errors import ConfigurationError, GroupMissing
from shared_sync.protocol import groups
from shared_sync.protocol.commands import GroupCommands
from shared_sync.protocol.groups import Ensured
from shared_sync.protocol.messages import parse_read


def test_a_new_group_begins_with_what_was_published_before_it(
    connection: Connection, client: redis.Redis
) -> None:
    client.xadd("jobs", {"text": "early"})
    commands = GroupCommands(KEYS, "w1", LEASE_MS)
    assert groups.ensure_group(connection, commands) is Ensured.CREATED
    assert groups.ensure_group(connection, commands) is Ensured.EXISTED
    (entry,) = parse_read(connection.call(*commands.read(10, 1)))
    assert entry.items == [b"text", b"early"]


def test_a_key_that_is_not_a_stream_is_a_configuration_error(
    connection: Connection, client: redis.Redis
) -> None:
    client.set("jobs", "a string")
    with pytest.raises(ConfigurationError, match="'jobs'"):
        groups.ensure_group(connection, GroupCommands(KEYS, "w1", LEASE_MS))


def test_a_read_without_messages_is_an_empty_list(worker: Worker) -> None:
    assert worker.read() == []


@pytest.mark.parametrize("act", ["heartbeat", "leave", "recover", "read"])
def test_every_command_reports_a_missing_group(
    worker: Worker, client: redis.Redis, act: str
) -> None:
    client.delete("jobs")
    with pytest.raises(GroupMissing):
        getattr(worker, act)()
