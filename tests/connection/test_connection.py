"""Errors and connections, against a real server."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import redis
from helpers import eventually
from protocol_client import Worker, interrupted_wait, make_link

from shared_sync.connection import connection as redis_connection
from shared_sync.connection import discovery
from shared_sync.connection.connection import Link
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import (
    GroupMissing,
    RedisAccessDenied,
    RedisRefused,
    RedisUnavailable,
)
from shared_sync.protocol import commands as stream_commands

# --- errors -----------------------------------------------------------------------------------


def driver_error(line: str) -> Exception:
    """What the driver makes of an error line; it strips the code when it has a class for it."""
    parser = pytest.importorskip("redis._parsers.base")
    error: Exception = parser.BaseParser.parse_error(line)
    return error


@pytest.mark.parametrize(
    "line",
    [
        "READONLY You can't write against a read only replica.",
        "LOADING Redis is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "CLUSTERDOWN The cluster is down",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "MOVED 3999 127.0.0.1:6381",
        "ASK 3999 127.0.0.1:6381",
        "NOREPLICAS Not enough good replicas to write.",
        "NOSCRIPT No matching script. Please use EVAL.",
        "ERR max number of clients reached",
        "ERR Error running script (call to f_1): @user_script:9: -READONLY You can't write "
        "against a read only replica.",
    ],
)
def test_a_server_that_cannot_serve_now_counts_as_unavailable(line: str) -> None:
    translated = redis_connection.translate(driver_error(line))
    assert isinstance(translated, RedisUnavailable)
    assert not isinstance(translated, RedisAccessDenied)


@pytest.mark.parametrize(
    "line",
    [
        "NOAUTH Authentication required.",
        "WRONGPASS invalid username-password pair or user is disabled.",
        "NOPERM this user has no permissions to run the 'xadd' command",
        "ERR invalid password",
        "ERR Client sent AUTH, but no password is set",
        "ERR Error running script: -NOPERM this user has no permissions to access a key",
    ],
)
def test_a_server_that_refuses_the_user_denies_access(line: str) -> None:
    assert isinstance(redis_connection.translate(driver_error(line)), RedisAccessDenied)


@pytest.mark.parametrize(
    "line",
    [
        "NOGROUP No such key 'jobs' or consumer group 'workers' in XREADGROUP",
        "UNBLOCKED the stream key no longer exists",
        "ERR Error running script (call to f_1): @user_script:9: -NOGROUP No such key 'jobs'",
    ],
)
def test_a_group_that_is_gone_is_missing(line: str) -> None:
    assert isinstance(redis_connection.translate(driver_error(line)), GroupMissing)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", "OOM"),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", "WRONGTYPE"),
        ("MISCONF Redis is configured to save RDB snapshots", "MISCONF"),
        ("ERR unknown command 'XADD'", "ERR"),
        ("ERR value is not an integer or out of range", "ERR"),
        ("BUSYGROUP Consumer Group name already exists", "ERR"),
    ],
)
def test_any_other_answer_is_a_refusal_that_keeps_its_code(line: str, code: str) -> None:
    translated = redis_connection.translate(driver_error(line))
    assert type(translated) is RedisRefused
    assert translated.code == code
    assert line.removeprefix("ERR ") in str(translated)


@pytest.mark.parametrize(
    "error",
    [
        redis.ConnectionError("Connection refused"),
        redis.ConnectionError(),
        redis.TimeoutError("Timeout reading from socket"),
        OSError("no route to host"),
        BrokenPipeError(),
        TimeoutError(),
        ValueError("I/O operation on closed file"),
        AttributeError("'NoneType' object has no attribute 'recv'"),
        redis.exceptions.InvalidResponse("Protocol Error: b'x'"),
    ],
    ids=repr,
)
def test_a_broken_connection_is_unavailable_however_the_driver_puts_it(error: Exception) -> None:
    translated = redis_connection.translate(error)
    assert isinstance(translated, RedisUnavailable | RedisRefused)
    assert str(translated)
    if not isinstance(error, redis.exceptions.InvalidResponse):
        assert type(translated) is RedisUnavailable


@pytest.mark.parametrize("act", ["XGROUP DELCONSUMER", "GET"])
def test_what_a_user_may_not_do_inside_a_script_is_denied_too(
    own_server: EmbeddedRedis, act: str
) -> None:
    with redis.Redis.from_url(own_server.url, protocol=2) as admin:
        rights = ("on", ">pw", "~mine", "+eval", "+script|load", "+get")
        admin.execute_command("ACL", "SETUSER", "worker", *rights)
    call = "redis.call('XGROUP', 'DELCONSUMER', KEYS[1], 'g', 'c')"
    if act == "GET":
        call = "redis.call('GET', 'not-' .. KEYS[1])"
    url = own_server.url.replace("redis://", "redis://worker:pw@")
    connection: Any = discovery.connector(url, key=None, reply_timeout_seconds=5)()
    connection.connect()
    connection.send_command("EVAL", f"return {call}", 1, "mine")
    with pytest.raises(redis.ResponseError) as refused:
        connection.read_response()
    assert isinstance(redis_connection.translate(refused.value), RedisAccessDenied)


SECRET = "s3cr3t"


# --- links ------------------------------------------------------------------------------------


def test_a_link_connects_when_first_used_and_once(link: Link) -> None:
    assert link.connects == 0
    assert link.call("PING") == b"PONG"
    assert link.call("PING") == b"PONG"
    assert link.connects == 1


def test_a_refusal_leaves_the_link_in_step(link: Link) -> None:
    link.send([("PING",), ("NO-SUCH-COMMAND",), ("ECHO", "after")])
    assert link.receive() == b"PONG"
    with pytest.raises(RedisRefused):
        link.receive()
    assert link.receive() == b"after"
    assert link.connects == 1


def test_a_broken_link_raises_once_and_then_connects_anew(link: Link, client: redis.Redis) -> None:
    number = link.call("CLIENT", "ID")
    client.client_kill_filter(_id=number)
    with pytest.raises(RedisUnavailable):
        link.call("PING")
    assert link.call("PING") == b"PONG"
    assert link.connects == 2


def test_a_link_notices_without_asking_that_the_server_has_closed_it(
    link: Link, client: redis.Redis
) -> None:
    assert not link.is_stale()
    number = link.call("CLIENT", "ID")
    assert not link.is_stale()
    client.client_kill_filter(_id=number)
    eventually(link.is_stale)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    link = make_link(f"redis://127.0.0.1:{port}/0")
    with pytest.raises(RedisUnavailable):
        link.open()
    assert link.connects == 0


def test_a_wrong_password_is_denied_and_not_shown(redis_server: EmbeddedRedis) -> None:
    with EmbeddedRedis(redis_server.binary) as server:
        with redis.Redis.from_url(server.url) as admin:
            admin.config_set("requirepass", "right")
        url = server.url.replace("redis://", f"redis://:{SECRET}@")
        for address in (url, server.url):
            with pytest.raises(RedisAccessDenied) as caught:
                make_link(address).call("PING")
            assert SECRET not in str(caught.value)


def test_scripts_that_the_server_forgot_are_loaded_again_by_themselves(
    link: Link, client: redis.Redis
) -> None:
    link.open()
    client.script_flush()
    call = stream_commands.publish("jobs", [[b"a", b"1"]], None)
    assert len(stream_commands.parse_published(link.call(*call))[0]) == 1
    assert client.xlen("jobs") == 1


def test_a_blocked_wait_is_ended_from_another_thread(link: Link, client: redis.Redis) -> None:
    assert interrupted_wait(link, client) is None


def test_an_interrupt_that_comes_before_the_wait_ends_it_too(link: Link) -> None:
    worker = Worker(link, "w1")
    link.interrupt()
    link.send([worker.commands.read(1, 9000)])
    assert link.receive_blocked() is None
    assert link.call("PING") == b"PONG"
