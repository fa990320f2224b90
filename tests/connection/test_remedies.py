"""Errors of the server say which key and which right they are about, also inside of scripts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
import redis
from consumers import GROUP, STREAM, Make
from helpers import eventually
from protocol_client import KEYS, LEASE_MS, Worker, make_connection

from shared_sync import RedisStreamProducer
from shared_sync.connection import remedies, scripts
from shared_sync.connection.connection import Connection
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import (
    ConfigurationError,
    RedisAccessDenied,
    RedisRefused,
    SharedSyncError,
)
from shared_sync.protocol.commands import GroupCommands

# --- keys of another type -------------------------------------------------------------------------


def test_the_key_of_a_command_is_named(connection: Connection, client: redis.Redis) -> None:
    client.set("jobs", "text")
    with pytest.raises(RedisRefused, match=r"WRONGTYPE.*\(the key 'jobs'\)") as caught:
        connection.call("XADD", "jobs", "*", "n", "1")
    assert caught.value.code == "WRONGTYPE"
    with pytest.raises(RedisRefused, match="the key 'jobs'"):
        connection.call("XREADGROUP", "GROUP", "g", "c", "STREAMS", "jobs", ">")
    with pytest.raises(RedisRefused, match="the key 'jobs'"):
        connection.call("XINFO", "GROUPS", "jobs")


def test_each_refusal_names_the_key_of_its_own_command(
    connection: Connection, client: redis.Redis
) -> None:
    client.set("a", "text")
    client.set("b", "text")
    ok, a, b = connection.call_all(("PING",), ("XLEN", "a"), ("XLEN", "b"))
    assert ok == b"PONG"
    assert "'a'" in str(a)
    assert "'b'" in str(b)


@pytest.mark.parametrize("limit", [None, 10])
def test_a_producer_names_its_stream(
    redis_url: str, client: redis.Redis, limit: int | None
) -> None:
    client.set(STREAM, "text")
    with RedisStreamProducer(redis_url, STREAM, max_queue_depth=limit) as producer:
        with pytest.raises(RedisRefused, match=f"the key '{STREAM}'"):
            producer.publish({"n": 1})
        with pytest.raises(RedisRefused, match=f"the key '{STREAM}'"):
            producer.publish_many([{"n": 1}])


def test_a_script_that_fails_names_all_of_its_keys(worker: Worker, client: redis.Redis) -> None:
    client.set(KEYS.presence, "text")
    with pytest.raises(RedisRefused, match=f"one of the keys .*'{KEYS.presence}'"):
        worker.connection.call(*worker.commands.heartbeat())


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (KEYS.presence, "sorted set"),
        (KEYS.holders, "hash"),
        (KEYS.due, "sorted set"),
        (KEYS.history, "hash"),
        (KEYS.dead, "stream"),
        (KEYS.outage, "sorted set"),
        (KEYS.kept, "hash"),
    ],
)
def test_a_consumer_names_the_key_that_holds_something_else(
    make: Make, client: redis.Redis, caplog: pytest.LogCaptureFixture, key: str, kind: str
) -> None:
    client.set(key, "text")
    with pytest.raises(ConfigurationError, match=f"'{key}' holds .* not a {kind}"):
        make(lambda *_: None).connect()
    client.delete(key)
    consumer = make(lambda *_: None)
    consumer.start()
    eventually(lambda: consumer.ready)
    client.delete(KEYS.presence)
    client.set(KEYS.presence, "text")
    eventually(lambda: f"'{KEYS.presence}' holds something that is not a sorted set" in caplog.text)
    client.delete(KEYS.presence)
    eventually(lambda: consumer.ready)


# --- rights ---------------------------------------------------------------------------------------


@pytest.fixture
def admin(own_server: EmbeddedRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(own_server.url, protocol=2) as made:
        made.xgroup_create(STREAM, GROUP, mkstream=True)
        yield made


def denied(
    server: EmbeddedRedis, admin: redis.Redis, lacking: str, *command: object
) -> SharedSyncError:
    """What a user meets who has all rights but one."""
    admin.execute_command("ACL", "SETUSER", "worker", "reset", "on", ">pw", "~*", "+@all", lacking)
    url = server.url.replace("redis://", "redis://worker:pw@")
    with closing(make_connection(url)) as connection, pytest.raises(RedisAccessDenied) as caught:
        connection.call(*command)
    return caught.value


def test_a_right_that_is_missing_is_named(own_server: EmbeddedRedis, admin: redis.Redis) -> None:
    error = denied(own_server, admin, "-xadd", "XADD", STREAM, "*", "n", "1")
    assert "grant this user +xadd; docs/redis.md" in str(error)


@pytest.mark.parametrize("command", ["zadd", "time", "zrem"])
def test_a_right_that_is_missing_in_a_script_is_named(
    own_server: EmbeddedRedis, admin: redis.Redis, command: str
) -> None:
    with closing(make_connection(own_server.url)) as connection:
        heartbeat = Worker(connection, "w1").commands.heartbeat()
    error = denied(own_server, admin, f"-{command}", *heartbeat)
    assert f"grant this user +{command}; docs/redis.md" in str(error)


def test_a_key_that_is_not_granted_is_named(own_server: EmbeddedRedis, admin: redis.Redis) -> None:
    admin.execute_command("ACL", "SETUSER", "worker", "on", ">pw", "~other", "+@all")
    url = own_server.url.replace("redis://", "redis://worker:pw@")
    with closing(make_connection(url)) as connection:
        with pytest.raises(RedisAccessDenied, match="grant this user the key 'jobs' with ~"):
            connection.call("XLEN", "jobs")
        heartbeat = GroupCommands(KEYS, "w1", LEASE_MS).heartbeat()
        with pytest.raises(RedisAccessDenied, match=f"one of the keys .*{KEYS.presence}"):
            connection.call(*heartbeat)


OLD = "ERR Error running script (call to f_1): @user_script:{0}: @user_script: {0}: The user executing the script can't run this command or subcommand"  # noqa: E501
SINCE_7_0 = "ERR The user executing the script can't run this command or subcommand script: 1, on @user_script:{0}."  # noqa: E501


@pytest.mark.parametrize("text", [OLD, SINCE_7_0])
@pytest.mark.parametrize("name", [*scripts.scripts()])
def test_every_call_of_every_script_is_found_by_its_line(name: str, text: str) -> None:
    script = scripts.scripts()[name]
    called = 0
    for number, line in enumerate(script.text.splitlines(), 1):
        if "call('" not in line or line.lstrip().startswith("--"):
            continue
        called += 1
        error = RedisAccessDenied(text.format(number))
        explained = str(remedies.explain(error, ("EVALSHA", script.digest, 1, "jobs")))
        command = line.split("call('")[1].split("'")[0].lower()
        assert f"grant this user +{command}" in explained
    assert called


def test_a_refusal_that_says_nothing_leads_to_the_page_with_the_rights() -> None:
    error = RedisAccessDenied("NOPERM The user executing the script can't run this command")
    assert "docs/redis.md" in str(remedies.explain(error, ()))


def test_other_errors_stay_as_they_are() -> None:
    error = RedisRefused("OOM", code="OOM")
    assert remedies.explain(error, ("XADD", "jobs")) is error
