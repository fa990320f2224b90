"""CLIENT LIST shows whose a connection is."""

from __future__ import annotations

import os
import socket
from contextlib import closing

import pytest
import redis
from consumers import GROUP, LOGGER, STREAM
from helpers import eventually, in_a_fork
from protocol_client import make_connection

from shared_sync import DeadLetters, RedisStreamConsumer, RedisStreamProducer, checks
from shared_sync.connection import client_names, discovery
from shared_sync.connection.connection import Connection
from shared_sync.connection.embedded import EmbeddedRedis


def names(client: redis.Redis) -> set[str]:
    """Those that there are. The test's own connections have none; others may have left some."""
    return {each["name"] for each in client.client_list()} - {""}


def test_a_consumer_is_known_by_its_id(redis_url: str, client: redis.Redis) -> None:
    before = names(client)
    with RedisStreamConsumer(redis_url, STREAM, GROUP, "stt 1\n", LOGGER, lambda *_: None):
        eventually(lambda: names(client) - before == {"shared_sync:stt_1_"})


def test_producers_dead_letters_and_checks_are_known_by_role_host_and_process(
    redis_url: str, client: redis.Redis
) -> None:
    check, before = checks.redis(redis_url), names(client)
    with (
        RedisStreamProducer(redis_url, STREAM) as producer,
        DeadLetters(redis_url, STREAM, GROUP) as letters,
    ):
        producer.publish({"n": 1})
        assert len(letters) == 0
        assert "status" not in check()
        process = f"{socket.gethostname()}:{os.getpid()}"
        assert names(client) - before == {
            f"shared_sync:{role}:{process}" for role in ("producer", "dead-letters", "check")
        }


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_has_a_name_of_its_own(redis_url: str, client: redis.Redis) -> None:
    with RedisStreamProducer(redis_url, STREAM) as producer:

        def publish_and_look() -> bool:
            producer.publish({"n": 1})
            with redis.Redis.from_url(redis_url, protocol=2) as other:
                return any(name.endswith(f":{os.getpid()}") for name in names(other))

        assert in_a_fork(publish_and_look)


def test_a_name_in_the_url_is_used_instead(redis_url: str, client: redis.Redis) -> None:
    with closing(make_connection(f"{redis_url}?client_name=mine")) as connection:
        assert connection.call("CLIENT", "GETNAME") == b"mine"


@pytest.mark.parametrize("option", ["", "?client_name=mine"])
def test_a_user_who_may_not_name_connections_tries_once_and_works_without(
    own_server: EmbeddedRedis, option: str
) -> None:
    with redis.Redis.from_url(own_server.url, protocol=2) as admin:
        rights = ("~*", "+@all", "-client")
        admin.execute_command("ACL", "SETUSER", "worker", "on", ">pw", *rights)
        url = own_server.url.replace("redis://", "redis://worker:pw@") + option
        connect = discovery.connector(url, key=None, reply_timeout_seconds=5)
        for _ in range(3):
            with closing(Connection(connect)) as connection:
                assert connection.call("PING") == b"PONG"
        # Equal refusals are counted in one row.
        refused = [row["count"] for row in admin.acl_log() if "client" in row["object"]]
        # Where the server knows what the driver sends at each connect, these are refused as well.
        assert sum(refused) in (1, 1 + 2 * 3)


def test_a_name_has_no_characters_that_the_server_refuses(client: redis.Redis) -> None:
    name = client_names.of_consumer("Bücher\t1 " + "x" * 500)
    assert client.client_setname(name)
