"""A Redis without room: workers make room, and results that need more than that wait for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import redis
from helpers import eventually

from shared_sync import RedisStreamConsumer, RedisStreamProducer
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import RedisRefused
from shared_sync.redis_consumer.health import REDIS_IS_FULL

ROOM = 2 * 1024 * 1024
"""How many bytes the messages may fill."""

TOLERANCE = 3 * 1024 * 1024
"""A megabyte of results, and what connections and scripts take up beside."""


@pytest.fixture
def client(own_server: EmbeddedRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(own_server.url, protocol=2) as plain:
        yield plain


def used(client: redis.Redis) -> int:
    return int(client.info("memory")["used_memory"])


def fill(server: EmbeddedRedis, client: redis.Redis, size: int) -> int:
    """Publish messages of this size until Redis is full; return how many it has taken."""
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", used(client) + ROOM)
    client.xgroup_create("jobs", "workers", id="0", mkstream=True)
    with RedisStreamProducer(server.url, "jobs") as producer:
        for published in range(100_000):
            try:
                producer.publish({"text": "x" * size})
            except RedisRefused:
                return published
    raise AssertionError("Redis has taken everything")


def consumer(server: EmbeddedRedis, result_bytes: int) -> RedisStreamConsumer:
    return RedisStreamConsumer(
        server.url,
        "jobs",
        "workers",
        "w1",
        logging.getLogger("test"),
        lambda *_: {"text": "y" * result_bytes},
        result_stream="results",
        block_seconds=0.1,
    )


def test_results_that_nobody_reads_do_not_grow_beyond_the_limit_and_none_is_lost(
    own_server: EmbeddedRedis, client: redis.Redis
) -> None:
    published = fill(own_server, client, size=4000)
    limit = int(client.config_get("maxmemory")["maxmemory"])
    received: set[bytes] = set()
    with consumer(own_server, result_bytes=20_000) as worker:
        eventually(lambda: worker.get_health_data().get("reasons") == [REDIS_IS_FULL])
        assert worker.live
        assert not worker.ready
        assert 0 < client.xlen("results") < published
        assert used(client) < limit + TOLERANCE

        def make_room() -> bool:
            for entry_id, fields in client.xrange("results", count=100):
                assert fields[b"message_id"] not in received
                received.add(fields[b"message_id"])
                client.xdel("results", entry_id)
            return len(received) == published

        eventually(make_room, within=60)
        assert used(client) < limit + TOLERANCE
        eventually(lambda: worker.ready)
        assert client.xlen("jobs") == client.xlen("results") == 0


def test_results_that_are_no_larger_than_their_messages_go_out(
    own_server: EmbeddedRedis, client: redis.Redis
) -> None:
    published = fill(own_server, client, size=2000)
    limit = int(client.config_get("maxmemory")["maxmemory"])
    with consumer(own_server, result_bytes=1500):
        eventually(lambda: client.xlen("results") == published, within=60)
        assert used(client) < limit + TOLERANCE
        assert client.xlen("jobs") == 0


def test_a_message_that_fails_does_not_stop_the_workers_that_make_room(
    own_server: EmbeddedRedis, client: redis.Redis
) -> None:
    fill(own_server, client, size=1000)
    first = client.xrange("jobs", count=1)[0][0].decode()

    def processor(message_id: str, _: object) -> None:
        if message_id == first:
            raise ValueError("this one always fails")

    worker = RedisStreamConsumer(
        own_server.url, "jobs", "workers", "w1", None, processor, block_seconds=0.1
    )
    with worker:
        eventually(lambda: client.xlen("jobs") == 1, within=60)
