"""A pool lends each thread a connection of its own, and none that broke or belongs to a parent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial

import pytest
import redis
from helpers import eventually, in_a_fork

from shared_sync.connection import discovery
from shared_sync.connection.connection import Connection
from shared_sync.connection.pool import ConnectionPool
from shared_sync.errors import (
    ConfigurationError,
    RedisAccessDenied,
    RedisRefused,
    RedisUnavailable,
    SharedSyncError,
)


@pytest.fixture
def pool(redis_url: str) -> Iterator[ConnectionPool]:
    made = ConnectionPool(
        partial(discovery.connector, redis_url, key=None, reply_timeout_seconds=5)
    )
    yield made
    made.close()


def number_of(connection: Connection) -> int:
    """The number that the server gave the connection."""
    number: int = connection.call("CLIENT", "ID")
    return number


def lent_number(pool: ConnectionPool) -> int:
    with pool.connection() as connection:
        return number_of(connection)


def number_of_the_one_used_until(pool: ConnectionPool, error: BaseException) -> int:
    """Use a connection until the error is raised; its number."""
    numbers: list[int] = []

    def use() -> None:
        with pool.connection() as connection:
            numbers.append(number_of(connection))
            raise error

    with pytest.raises(type(error)):
        use()
    return numbers[0]


def test_a_url_that_cannot_be_used_is_refused_before_anything_is_lent() -> None:
    with pytest.raises(ConfigurationError):
        ConnectionPool(partial(discovery.connector, "no-url", key=None, reply_timeout_seconds=5))


def test_one_after_the_other_gets_the_same_connection(pool: ConnectionPool) -> None:
    assert lent_number(pool) == lent_number(pool)


def test_eight_threads_at_once_get_eight_connections_which_are_kept(pool: ConnectionPool) -> None:
    together = threading.Barrier(8)
    numbers: list[int] = []

    def use() -> None:
        with pool.connection() as connection:
            together.wait(10)
            numbers.append(number_of(connection))
            together.wait(10)

    for _ in range(2):
        threads = [threading.Thread(target=use) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert len(numbers) == 16
    assert len(set(numbers)) == 8


def test_a_connection_that_the_server_closed_is_opened_anew(
    pool: ConnectionPool, client: redis.Redis
) -> None:
    number = lent_number(pool)
    client.client_kill_filter(_id=str(number))
    assert lent_number(pool) != number


@pytest.mark.parametrize(
    "error",
    [RedisUnavailable("READONLY"), RedisAccessDenied("NOPERM"), KeyboardInterrupt(), KeyError("x")],
)
def test_a_connection_is_closed_if_a_reply_may_be_left_unread_or_the_server_cannot_serve(
    pool: ConnectionPool, error: BaseException
) -> None:
    number = number_of_the_one_used_until(pool, error)
    assert lent_number(pool) != number


def test_a_reply_that_was_left_unread_is_never_read_by_the_next_user(pool: ConnectionPool) -> None:
    def break_off() -> None:
        with pool.connection() as connection:
            connection.send([("ECHO", "the reply to another")])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    with pool.connection() as connection:
        assert connection.call("ECHO", "own") == b"own"


@pytest.mark.parametrize("error", [RedisRefused("OOM", code="OOM"), SharedSyncError("full")])
def test_a_connection_is_kept_after_a_refusal(pool: ConnectionPool, error: SharedSyncError) -> None:
    number = number_of_the_one_used_until(pool, error)
    assert lent_number(pool) == number


def test_closing_closes_idle_connections_and_the_pool_may_be_used_again(
    pool: ConnectionPool, client: redis.Redis
) -> None:
    number = lent_number(pool)
    pool.close()
    eventually(lambda: str(number) not in {each["id"] for each in client.client_list()})
    assert lent_number(pool) != number


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_gets_connections_of_its_own_and_leaves_those_of_its_parent(
    pool: ConnectionPool,
) -> None:
    number = lent_number(pool)
    assert in_a_fork(lambda: lent_number(pool)) != number
    assert in_a_fork(pool.close) is None
    assert lent_number(pool) == number
