"""Publishing messages, up to a limit, and what the server refuses."""

from __future__ import annotations

from contextlib import closing

import pytest
import redis
from protocol_client import GroupAdmin, Worker, make_connection, publish

from shared_sync.connection.connection import Connection
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import RedisRefused, SharedSyncError


def test_messages_are_added_in_order(connection: Connection, admin: GroupAdmin) -> None:
    ids, error = publish(connection, 100, None)
    assert error is None
    assert admin.bodies() == ids
    assert [fields for _, fields in admin.client.xrange("jobs")] == [
        {b"n": b"%d" % number} for number in range(100)
    ]


def test_the_limit_is_exact(connection: Connection, admin: GroupAdmin) -> None:
    assert len(publish(connection, 7, 10)[0]) == 7
    ids, error = publish(connection, 7, 10)
    assert (len(ids), error) == (3, None)
    assert publish(connection, 1, 10) == ([], None)
    assert publish(connection, 1, 5) == ([], None)
    assert admin.client.xlen("jobs") == 10


def test_finished_messages_make_room(
    worker: Worker, connection: Connection, taken: list[str]
) -> None:
    assert publish(connection, 1, 3) == ([], None)
    worker.finish(taken[1])
    assert len(publish(connection, 2, 3)[0]) == 1


def test_publishing_to_a_key_that_is_not_a_stream_is_refused_with_the_reason(
    connection: Connection, client: redis.Redis
) -> None:
    client.set("jobs", "a string")
    ids, error = publish(connection, 2, None)
    assert ids == []
    assert isinstance(error, RedisRefused)
    assert error.code == "WRONGTYPE"
    with pytest.raises(RedisRefused):
        publish(connection, 2, 10)


def test_a_server_without_memory_accepts_what_fits_and_reports_why_it_stopped(
    redis_server: EmbeddedRedis,
) -> None:
    with (
        EmbeddedRedis(redis_server.binary) as server,
        redis.Redis.from_url(server.url) as client,
        closing(make_connection(server.url)) as connection,
    ):
        connection.open()
        client.config_set("maxmemory", 1)
        try:
            error: SharedSyncError | None = publish(connection, 1, None)[1]
        except SharedSyncError as raised:
            error = raised
        assert isinstance(error, RedisRefused)
        assert error.code == "OOM"
        client.config_set("maxmemory", 0)
        assert publish(connection, 1, None)[1] is None
