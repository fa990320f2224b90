"""A pool lends each thread a connection of its own, and none that broke or belongs to a parent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import pytest
import redis
from faults.proxy import Proxy
from helpers import Clock, eventually, in_a_fork

from shared_sync.connection import discovery
from shared_sync.connection.connection import Connection
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.connection.pool import KEEP_SECONDS, TRUST_SECONDS, ConnectionPool
from shared_sync.errors import (
    ConfigurationError,
    RedisAccessDenied,
    RedisRefused,
    RedisUnavailable,
    SharedSyncError,
)


def make_pool(url: str, **options: Any) -> ConnectionPool:
    return ConnectionPool(
        partial(discovery.connector, url, key=None, reply_timeout_seconds=5), **options
    )


@pytest.fixture
def pool(redis_url: str, clock: Clock) -> Iterator[ConnectionPool]:
    made = make_pool(redis_url, most=8, clock=clock)
    yield made
    made.close()


def rush(pool: ConnectionPool, count: int) -> set[int]:
    """Use so many connections at the same moment; their numbers."""
    together = threading.Barrier(count)

    def use(_: int) -> int:
        with pool.connection() as connection:
            together.wait(10)
            return number_of(connection)

    with ThreadPoolExecutor(count) as threads:
        return set(threads.map(use, range(count)))


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
    numbers = rush(pool, 8)
    assert len(numbers) == 8
    assert rush(pool, 8) == numbers


def test_who_needs_one_more_waits_until_one_is_free(pool: ConnectionPool) -> None:
    with ExitStack() as lent, ThreadPoolExecutor(1) as threads:
        numbers = {number_of(lent.enter_context(pool.connection())) for _ in range(8)}
        waiting = threads.submit(lent_number, pool)
        with pytest.raises(TimeoutError):
            waiting.result(0.2)
        lent.close()
        assert waiting.result(10) in numbers


def test_who_waits_too_long_is_told_how_many_there_are(redis_url: str) -> None:
    pool = make_pool(redis_url, most=2, wait_seconds=0.05)
    with (
        pool.connection(),
        pool.connection(),
        pytest.raises(RedisUnavailable, match=r"all 2 connections .* 0\.05 s; nothing was"),
    ):
        pool.call("PING")
    assert pool.call("PING") == b"PONG"
    pool.close()


def test_a_connection_that_was_idle_for_long_is_not_trusted(
    pool: ConnectionPool, clock: Clock
) -> None:
    number = lent_number(pool)
    clock.now += KEEP_SECONDS
    assert lent_number(pool) == number
    clock.now += KEEP_SECONDS + 1
    assert lent_number(pool) != number


def test_a_connection_that_was_idle_for_a_moment_is_used_once_the_server_has_answered(
    pool: ConnectionPool, clock: Clock, client: redis.Redis
) -> None:
    number = lent_number(pool)
    client.config_resetstat()
    assert lent_number(pool) == number
    assert "cmdstat_ping" not in client.info("commandstats")
    for _ in range(2):
        clock.now += TRUST_SECONDS + 1
        assert lent_number(pool) == number
    assert client.info("commandstats")["cmdstat_ping"]["calls"] == 2


def test_a_connection_that_swallows_commands_is_replaced_long_before_the_timeout(
    redis_server: EmbeddedRedis, clock: Clock, client: redis.Redis
) -> None:
    with closing(Proxy(redis_server.port)) as proxy:
        pool = make_pool(proxy.url, clock=clock, wait_seconds=0.1)
        number = lent_number(pool)
        proxy.drop_links()
        clock.now += TRUST_SECONDS + 1
        assert lent_number(pool) != number
        pool.close()


@pytest.mark.parametrize(("rights", "different"), [(["+client"], 3), (["+client", "+time"], 1)])
def test_without_the_right_to_ping_time_is_sent_or_an_idle_connection_replaced(
    own_server: EmbeddedRedis, clock: Clock, rights: list[str], different: int
) -> None:
    with redis.Redis.from_url(own_server.url, protocol=2) as admin:
        admin.execute_command("ACL", "SETUSER", "gateway", "on", ">pw", *rights)
        pool = make_pool(own_server.url.replace("redis://", "redis://gateway:pw@"), clock=clock)
        numbers = [lent_number(pool)]
        for _ in range(4):
            clock.now += TRUST_SECONDS + 1
            numbers.append(lent_number(pool))
        assert numbers[1] == numbers[0], "a refusal is an answer"
        assert len({*numbers}) == different
        (row,) = [one for one in admin.acl_log() if one["object"] == "ping"]
        assert row["count"] == 1
        pool.close()


def test_after_a_rush_the_connections_that_nobody_needs_are_closed(
    pool: ConnectionPool, clock: Clock, client: redis.Redis
) -> None:
    rush(pool, 8)
    for _ in range(3):
        clock.now += KEEP_SECONDS / 2
        last = lent_number(pool)
    eventually(lambda: [one["id"] for one in client.client_list() if one["name"]] == [str(last)])


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
