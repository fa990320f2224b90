"""Every error of the driver becomes one of ours: unavailable, denied, missing or refused."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import pytest
import redis

from shared_sync.connection import discovery, driver_errors
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import (
    GroupMissing,
    RedisAccessDenied,
    RedisRefused,
    RedisUnavailable,
)


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
    translated = driver_errors.translate(driver_error(line))
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
    assert isinstance(driver_errors.translate(driver_error(line)), RedisAccessDenied)


@pytest.mark.parametrize(
    "line",
    [
        "NOGROUP No such key 'jobs' or consumer group 'workers' in XREADGROUP",
        "UNBLOCKED the stream key no longer exists",
        "ERR Error running script (call to f_1): @user_script:9: -NOGROUP No such key 'jobs'",
    ],
)
def test_a_group_that_is_gone_is_missing(line: str) -> None:
    assert isinstance(driver_errors.translate(driver_error(line)), GroupMissing)


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
    translated = driver_errors.translate(driver_error(line))
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
    translated = driver_errors.translate(error)
    assert isinstance(translated, RedisUnavailable | RedisRefused)
    assert str(translated)
    if not isinstance(error, redis.exceptions.InvalidResponse):
        assert type(translated) is RedisUnavailable
        assert translated.connection_broke


def raised_in(context: BaseException, error: Exception) -> Exception:
    """The error as the driver raises it while it handles another one."""
    error.__context__ = context
    return error


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (redis.ConnectionError("Connection closed by server."), "no connection"),
        (redis.TimeoutError("Timeout reading from socket"), "no connection"),
        (driver_error("LOADING Redis is loading the dataset in memory"), "LOADING"),
        (driver_error("MOVED 3999 127.0.0.1:6381"), "MOVED"),
        (driver_error("WRONGPASS invalid username-password pair"), "WRONGPASS"),
        (driver_error("ERR max number of clients reached"), "too many clients"),
        (raised_in(socket.gaierror("no such host"), redis.ConnectionError("x")), "unknown host"),
        (raised_in(ssl.SSLError("verify failed"), redis.ConnectionError("x")), "TLS"),
    ],
    ids=repr,
)
def test_errors_of_one_kind_have_the_same_cause(error: Exception, cause: str) -> None:
    translated = driver_errors.translate(error, "somewhere:6379")
    assert isinstance(translated, RedisUnavailable)
    assert translated.cause == cause


def test_an_error_names_the_server_once() -> None:
    closed = redis.ConnectionError("Connection closed by server.")
    assert str(driver_errors.translate(closed, "h:1")) == "h:1: Connection closed by server."
    named = redis.ConnectionError("Error 111 connecting to h:1. Connection refused.")
    assert str(driver_errors.translate(named, "h:1")) == str(named)
    assert "h:1" in str(driver_errors.translate(AttributeError("recv"), "h:1"))
    for line in ("OOM command not allowed", "NOGROUP No such key", "NOPERM no permissions"):
        assert str(driver_errors.translate(driver_error(line), "h:1")).startswith("h:1: ")


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
    assert isinstance(driver_errors.translate(refused.value), RedisAccessDenied)
