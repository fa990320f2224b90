"""The ready-made check of Redis, on a real Redis that comes and goes."""

from __future__ import annotations

import gc
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis
from helpers import eventually, in_a_fork

from shared_sync import checks
from shared_sync.connection.embedded import EmbeddedRedis


def connections_made(client: redis.Redis) -> int:
    return int(client.info("stats")["total_connections_received"])


def test_a_redis_that_answers_is_healthy_and_shows_how_fast(
    redis_url: str, client: redis.Redis
) -> None:
    check = checks.redis(redis_url)
    seen = check()
    assert "status" not in seen
    assert 0 < seen["round_trip_ms"] < 1500
    assert seen["details"] == {"address": redis_url}


def test_one_connection_is_kept_and_loads_no_scripts(redis_url: str, client: redis.Redis) -> None:
    client.script_flush()
    check = checks.redis(redis_url)
    before = connections_made(client)
    for _ in range(3):
        check()
    assert connections_made(client) == before + 1
    assert client.info("memory")["number_of_cached_scripts"] == 0


def test_it_notices_redis_go_and_come_back(own_server: EmbeddedRedis) -> None:
    check = checks.redis(own_server.url)
    assert "status" not in check()
    own_server.kill()
    for _ in range(2):
        seen = check()
        assert seen["status"] == "unhealthy"
        assert seen["reasons"] == ["Redis has not answered"]
        assert seen["round_trip_ms"] is None
        assert seen["details"]["address"] == own_server.url
        assert str(own_server.port) in seen["details"]["error"]
    own_server.start()
    assert "status" not in check()


def test_a_restart_between_two_calls_is_no_failure(own_server: EmbeddedRedis) -> None:
    check = checks.redis(own_server.url)
    check()
    own_server.kill()
    own_server.start()
    assert "status" not in check()


def test_a_connection_that_redis_closed_for_idling_is_no_failure(
    redis_url: str, client: redis.Redis
) -> None:
    check = checks.redis(redis_url)
    check()
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert "status" not in check()


def test_a_redis_that_hangs_is_unhealthy_after_the_time_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        seen = checks.redis(f"redis://127.0.0.1:{port}/0", timeout_seconds=0.1)()
    assert seen["reasons"] == ["Redis has not answered"]
    assert "Timeout" in seen["details"]["error"]


@contextmanager
def answering(reply: bytes) -> Iterator[int]:
    """A port where whatever is asked gets this reply."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                while asked := connection.recv(4096):
                    connection.sendall(reply * asked.count(b"*"))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    "reply",
    [
        b"-LOADING Redis is loading the dataset in memory\r\n",
        b"-ERR no\r\n",
        b"HTTP/1.1 400 no\r\n",
    ],
)
def test_an_error_is_no_answer_and_ends_the_connection(reply: bytes) -> None:
    with answering(reply) as port:
        seen = checks.redis(f"redis://127.0.0.1:{port}/0")()
    assert seen["reasons"] == ["Redis has not answered"]
    assert seen["details"]["error"]


def user(server: EmbeddedRedis, *rights: str) -> str:
    """Make a user with these rights; an address for it."""
    with redis.Redis.from_url(server.url, protocol=2) as admin:
        admin.execute_command("ACL", "SETUSER", "worker", "reset", "on", ">pw", *rights)
    return server.url.replace("redis://", "redis://worker:pw@")


def test_a_worker_without_the_right_to_ping_is_asked_for_the_time(
    own_server: EmbeddedRedis,
) -> None:
    check = checks.redis(user(own_server, "+time"))
    for _ in range(2):
        assert "status" not in check()
    with redis.Redis.from_url(own_server.url, protocol=2) as admin:
        # It does not fill the server's log with refusals.
        (refusal,) = [entry for entry in admin.acl_log() if entry["object"] == "ping"]
    assert int(refusal["count"]) == 1


def test_a_user_who_may_neither_ping_nor_ask_the_time_has_a_reason_of_its_own(
    own_server: EmbeddedRedis,
) -> None:
    seen = checks.redis(user(own_server, "+get"))()
    assert seen["reasons"] == ["Redis refuses this user"]
    assert "NOPERM" in seen["details"]["error"]
    wrong = user(own_server, "+ping").replace(":pw@", ":wr0ng@")
    seen = checks.redis(wrong)()
    assert seen["reasons"] == ["Redis refuses this user"]
    assert "wr0ng" not in str(seen)


def test_a_fork_has_a_connection_of_its_own(redis_url: str, client: redis.Redis) -> None:
    check = checks.redis(redis_url)
    check()
    before = connections_made(client)
    assert "status" not in in_a_fork(check)
    assert connections_made(client) == before + 1
    assert "status" not in check()
    assert connections_made(client) == before + 1


def test_who_forgets_the_check_leaves_no_connection(redis_url: str, client: redis.Redis) -> None:
    def ids() -> set[str]:
        return {each["id"] for each in client.client_list()}

    before = ids()
    check = checks.redis(redis_url)
    check()
    (ours,) = ids() - before
    del check
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # of what others left behind
        gc.collect()  # errors that the driver has caught may still hold on to its frames
    eventually(lambda: ours not in ids())


def test_nothing_is_connected_before_the_first_call(redis_url: str, client: redis.Redis) -> None:
    before = connections_made(client)
    checks.redis(redis_url)
    assert connections_made(client) == before
