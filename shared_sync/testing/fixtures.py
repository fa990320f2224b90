"""Fixtures for pytest: a private Redis, and faults in front of it.

Ask for them in your `conftest.py`:

    pytest_plugins = ["shared_sync.testing.fixtures"]
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing

import pytest

from shared_sync.connection import discovery
from shared_sync.connection.connection import Connection
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import EmbeddedRedisError
from shared_sync.testing.faults import Faults


@pytest.fixture(scope="session")
def private_redis() -> Iterator[EmbeddedRedis]:
    """A Redis of this run of pytest, on a free port of 127.0.0.1, with nothing in it.

    It is the `redis-server` or `valkey-server` of this machine, or that of the extra `embedded`.
    Without any, the test is skipped; it fails where the variable CI is set, so that a build cannot
    pass with its tests left out.
    """
    try:
        server = EmbeddedRedis()
    except EmbeddedRedisError as error:
        if os.environ.get("CI"):
            pytest.fail(f"{error} (an error, not skipped, as CI is set)", pytrace=False)
        pytest.skip(str(error))
    with server:
        yield server


@pytest.fixture
def private_redis_url(private_redis: EmbeddedRedis) -> str:
    """The address of the private Redis, which is emptied for each test."""
    connect = discovery.connector_of_process(
        private_redis.url, role="testing", key=None, reply_timeout_seconds=10.0
    )
    with closing(Connection(connect)) as connection:
        connection.call("FLUSHALL")
    return private_redis.url


@pytest.fixture
def faults(private_redis_url: str) -> Iterator[Faults]:
    """Faults in front of the private Redis, for workers that are given `faults.url`."""
    with Faults(private_redis_url) as made:
        yield made
