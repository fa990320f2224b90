"""What tests of whole consumers share: the names they use, and what they look at in Redis."""

from __future__ import annotations

import logging
from collections.abc import Callable

import redis
from helpers import eventually

from shared_sync import RedisStreamConsumer, RedisStreamProducer, Reject, RetryPolicy

STREAM, GROUP = "jobs", "workers"
DEAD = "{jobs}:workers:dead"
LOGGER = logging.getLogger("test")

Make = Callable[..., RedisStreamConsumer]


def pending(client: redis.Redis) -> int:
    return int(client.xpending(STREAM, GROUP)["pending"])


def owners(client: redis.Redis) -> dict[str, int]:
    rows = client.xpending(STREAM, GROUP)["consumers"]
    return {row["name"].decode(): row["pending"] for row in rows}


def dead_letters(client: redis.Redis) -> list[dict[str, str]]:
    return [
        {name.decode(): value.decode(errors="replace") for name, value in fields.items()}
        for _, fields in client.xrange(DEAD)
    ]


def results(client: redis.Redis, stream: str = "results") -> list[dict[str, str]]:
    return [
        {name.decode(): value.decode() for name, value in fields.items()}
        for _, fields in client.xrange(stream)
    ]


def bury(redis_url: str, *messages: dict[str, object], error: Exception | None = None) -> list[str]:
    """Have messages given up on; returns their ids in the stream."""

    def processor(*_: object) -> None:
        raise error or Reject("no use")

    with RedisStreamProducer(redis_url, STREAM) as producer:
        ids = producer.publish_many(messages)
    consumer = RedisStreamConsumer(
        redis_url,
        STREAM,
        GROUP,
        "c1",
        None,
        processor,
        binary_fields=("audio",),
        retry=RetryPolicy(max_attempts=2, base_seconds=0.01),
    )
    with consumer, redis.Redis.from_url(redis_url) as client:
        eventually(lambda: client.xlen(STREAM) == 0)
    return ids
