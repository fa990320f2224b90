"""What tests of whole consumers share: the names they use, and what they look at in Redis."""

from __future__ import annotations

import logging
from collections.abc import Callable

import redis

from shared_sync import RedisStreamConsumer

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
