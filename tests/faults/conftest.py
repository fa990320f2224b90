"""What the faults share: books on every message, and a pool that is disturbed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from faults.crew import Crew, ProcessLedger
from faults.durations import (
    BLOCK_SECONDS,
    LEASE_SECONDS,
    RECOVERY_SECONDS,
    REPLY_MARGIN_SECONDS,
)
from faults.ledger import KEYS, RESULTS, Ledger, MakePool
from faults.nursery import Nursery
from faults.proxy import Proxy
from faults.table import FaultTable

from shared_sync import RedisStreamConsumer
from shared_sync.connection import connection
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.redis_consumer import recovery


@pytest.fixture
def fault_table(request: pytest.FixtureRequest) -> FaultTable:
    """Each test of a fault adds a row; all of them are printed at the end."""
    return FaultTable(request.node)


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up on a reply and look for what was lost after a moment; users wait longer."""
    monkeypatch.setattr(connection, "REPLY_MARGIN_SECONDS", REPLY_MARGIN_SECONDS)
    monkeypatch.setattr(recovery, "INTERVAL_SECONDS", RECOVERY_SECONDS)


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    """The books on an empty Redis that other tests use too."""
    with closing(Ledger(redis_url)) as kept:
        yield kept


@pytest.fixture
def proxy(redis_server: EmbeddedRedis) -> Iterator[Proxy]:
    """A way to the same Redis that can be disturbed."""
    with closing(Proxy(redis_server.port)) as made:
        yield made


@pytest.fixture
def books(redis_url: str, client: redis.Redis) -> Iterator[ProcessLedger]:
    """Books on messages that workers in processes of their own run."""
    with closing(ProcessLedger(redis_url, client)) as kept:
        yield kept


@pytest.fixture
def isolation() -> str:
    """Where the workers run their processors; tests that are marked with BOTH replace it."""
    return "thread"


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Starts the processes of workers."""
    with closing(Nursery()) as made:
        yield made


@pytest.fixture
def crew(redis_url: str, tmp_path: Path, isolation: str, nursery: Nursery) -> Iterator[Crew]:
    """Workers in processes of their own, on a Redis that nothing disturbs."""
    with closing(Crew(nursery, redis_url, redis_url, tmp_path, isolation)) as made:
        yield made


@pytest.fixture
def make_pool() -> Iterator[MakePool]:
    """Makes consumers of small leases and short waits, which are stopped at the end of the test."""
    made: list[RedisStreamConsumer] = []

    def make_one(url: str, processor: Callable[..., object], **options: Any) -> RedisStreamConsumer:
        defaults = {
            "threads": 3,
            "lease_seconds": LEASE_SECONDS,
            "block_seconds": BLOCK_SECONDS,
            "result_stream": RESULTS,
        }
        consumer = RedisStreamConsumer(
            url,
            KEYS.stream,
            KEYS.group,
            options.pop("consumer_id", f"pool-{len(made) + 1}"),
            logging.getLogger("faults"),
            processor,
            **defaults | options,
        )
        made.append(consumer)
        return consumer

    yield make_one
    for consumer in made:
        consumer.stop(timeout=0)
