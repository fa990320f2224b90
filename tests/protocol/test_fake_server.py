"""The same commands in fakeredis, so that users can test without a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing

import fakeredis
import pytest
import redis
from protocol_client import GroupAdmin, Worker, publish, result

from shared_sync.connection.connection import Connection
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.replies import QueueMetrics


@pytest.fixture
def fake() -> Iterator[tuple[Connection, redis.Redis]]:
    with (
        fakeredis.FakeRedis(protocol=2) as client,
        closing(Connection(client.connection_pool.make_connection)) as connection,
    ):
        yield connection, client


def test_a_message_passes_through_all_commands(
    fake: tuple[Connection, redis.Redis],
) -> None:
    connection, client = fake
    worker, admin = Worker(connection, "w1"), GroupAdmin(client)
    ids = worker.publish(*([b"n", b"%d" % number] for number in range(4)))
    assert [entry.id for entry in worker.read(10)] == ids
    assert worker.finish(ids[0], result("A")) == 1
    assert worker.finish(ids[0], result("A")) == 0
    assert worker.park(ids[1], delay_ms=0) == 1
    assert worker.park(ids[1], delay_ms=0) == 0
    assert worker.bury(ids[2]) == 1
    assert worker.bury(ids[2]) == 0
    assert worker.hand_back(ids[3]) == [1, 0]
    assert worker.heartbeat() == QueueMetrics(backlog=2, pending=2, parked=2, dead=1)
    first, second = worker.recover().entry, worker.recover().entry
    assert first is not None
    assert second is not None
    assert {first.id: first.deliveries, second.id: second.deliveries} == {ids[1]: 2, ids[3]: 1}
    assert worker.leave() == [2, 0]
    assert admin.results() == [{b"text": b"A"}]
    assert json.loads(admin.dead()[0][b"dead.history"]) == {"n": 9}


def test_the_limit_of_the_queue_is_exact(
    fake: tuple[Connection, redis.Redis],
) -> None:
    connection, client = fake
    assert len(publish(connection, 5, 3)[0]) == 3
    assert client.xlen("jobs") == 3


def test_an_entry_is_kept_for_another_group(
    fake: tuple[Connection, redis.Redis],
) -> None:
    connection, client = fake
    worker = Worker(connection, "w1")
    second = Worker(connection, "x1", keys=Keys.of("jobs", "second"))
    (only,) = worker.publish([b"a", b"1"])
    worker.read(1)
    worker.finish(only)
    assert client.xlen("jobs") == 1
    second.read(1)
    second.finish(only)
    assert client.xlen("jobs") == 0
