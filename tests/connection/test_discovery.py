"""Sentinels and clusters: finding the right server, and everything that works over it."""

from __future__ import annotations

import logging
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import redis
from helpers import ask, eventually, health_command
from protocol_client import interrupted_wait, make_connection
from redis.crc import key_slot
from servers import MASTER, Cluster, Sentinels, Servers, sentinel

from shared_sync import (
    DeadLetters,
    Job,
    RedisStreamConsumer,
    RedisStreamProducer,
    Reject,
    current_message,
)
from shared_sync.connection import discovery
from shared_sync.connection.connection import Connection
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import ConfigurationError, RedisAccessDenied, RedisUnavailable
from shared_sync.protocol.keys import StreamKeys

STREAM, GROUP = "jobs", "workers"
RESULTS = "{jobs}:results"
SECRET = "s3cr3t"
LOGGER = logging.getLogger("tests.servers")


@pytest.fixture(params=["sentinels", "cluster"])
def servers(request: pytest.FixtureRequest, sentinels: Sentinels, cluster: Cluster) -> Servers:
    """Each kind, with nothing in it."""
    found = sentinels if request.param == "sentinels" else cluster
    found.admin(found.master()).flushall()
    return found


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["max_connections=50", "timeout=20"])
def test_options_that_are_for_the_drivers_pool_do_no_harm(redis_url: str, option: str) -> None:
    with closing(make_connection(f"{redis_url}?{option}")) as connection:
        assert connection.call("PING") == b"PONG"


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost/0?colour=blue",
        "redis+sentinel://localhost/main?colour=blue",
        "redis+cluster://localhost?colour=blue",
        "redis+cluster://localhost?sentinel_password=x",
        "redis://localhost?sentinel_password=x",
    ],
)
def test_an_unknown_option_in_the_url_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError, match="option"):
        make_connection(url)


@pytest.mark.parametrize(
    "address",
    ["redis://localhost/0", "redis+sentinel://localhost/main", "redis+cluster://localhost"],
)
def test_nothing_in_a_url_can_make_the_connection_retry_or_decode(address: str) -> None:
    url = f"{address}?retry_on_timeout=yes&health_check_interval=1&decode_responses=True"
    url += "&socket_timeout=0.001&protocol=3"
    connection: Any = discovery.connector(url, key=STREAM, reply_timeout_seconds=7)()
    assert connection.socket_timeout == 7
    assert connection.health_check_interval == 0
    assert connection.protocol == 2
    assert not connection.encoder.decode_responses
    tries: list[int] = []

    def fail() -> None:
        tries.append(1)
        raise redis.ConnectionError

    with pytest.raises(redis.ConnectionError):
        connection.retry.call_with_retry(fail, lambda _error: None)
    assert tries == [1]


# --- everything works over it ---------------------------------------------------------------------


def test_producer_consumer_and_dead_letters_work(servers: Servers) -> None:
    def processor(_: str, job: dict[str, str]) -> dict[str, str]:
        if job["n"] == "3":
            raise Reject("an odd one")
        if job["n"] == "11":
            current_message().emit("{jobs}:next", job)
        return job

    caller = StreamKeys.of(STREAM).reply("ab12")
    with RedisStreamProducer(servers.url, STREAM) as producer:
        ids = producer.publish_many({"n": n} for n in range(10))
        later = Job({"n": 10}, delay_seconds=0.01, deduplicate_key="{a} tag")
        ids += producer.publish_many([later])
        assert producer.publish_many([later]) == ids[-1:]
        client = servers.admin(servers.master())
        client.xgroup_create(caller, "unused", mkstream=True)
        asked = producer.publish({"n": 11}, reply_to=caller)
    pool = RedisStreamConsumer(
        servers.url, STREAM, GROUP, "c1", LOGGER, processor, threads=2, result_stream=RESULTS
    )
    with pool, DeadLetters(servers.url, STREAM, GROUP) as letters:
        eventually(lambda: client.xlen(RESULTS) == len(ids))
        eventually(lambda: client.xlen(STREAM) == 0)
        answered = {fields[b"message_id"].decode() for _, fields in client.xrange(RESULTS)}
        assert answered == set(ids)
        ((_, reply),) = client.xrange(caller)
        assert reply[b"message_id"].decode() == asked
        assert client.xlen("{jobs}:next") == 1
        (letter,) = letters
        assert letter.message_id == ids[3]
        letters.replay([letter.id])
        eventually(lambda: letters.list() and letters.list()[0].id != letter.id)
        assert letters.purge([letters.list()[0].id]) == 1
    assert client.xlen("{jobs}:workers:dead") == 0


def test_the_health_command_reports_the_queue(servers: Servers) -> None:
    with RedisStreamProducer(servers.url, STREAM) as producer:
        producer.publish_many({"n": n} for n in range(5))
    options = ("--port", "0", "--redis-url", servers.url)
    with health_command(*options, "--stream", STREAM, "--group", GROUP) as page:
        _, health = ask(f"{page}/health")
        assert health["redis_connected"]
        assert health["queue_depth"] == 5
    with health_command(*options) as page:
        assert ask(f"{page}/health")[0] == 200


def test_the_command_for_dead_letters_finds_them(servers: Servers) -> None:
    servers.admin(servers.master()).xadd("{jobs}:workers:dead", {"dead.reason": "no use"})
    where = ("--redis-url", servers.url, "--stream", STREAM, "--group", GROUP)
    done = subprocess.run(
        [sys.executable, "-m", "shared_sync", "dead-letters", *where, "list"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "no use" in done.stdout


def test_a_blocked_wait_is_ended_from_another_thread(servers: Servers) -> None:
    with closing(make_connection(servers.url)) as connection:
        assert interrupted_wait(connection, servers.admin(servers.master())) is None


def test_a_broken_connection_finds_its_server_again(servers: Servers) -> None:
    with closing(make_connection(servers.url)) as connection:
        number = connection.call("CLIENT", "ID")
        servers.admin(servers.master()).client_kill_filter(_id=number)
        with pytest.raises(RedisUnavailable):
            connection.call("XLEN", STREAM)
        assert connection.call("XLEN", STREAM) == 0
        assert connection.connects == 2


def test_servers_that_do_not_answer_are_passed_over(servers: Servers) -> None:
    """Ten connections, because each search begins with another of the four nodes."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    url = servers.url.replace("://", f"://127.0.0.1:{port},")
    connect = discovery.connector(url, key=STREAM, reply_timeout_seconds=5)
    for _ in range(10):
        with closing(Connection(connect)) as connection:
            assert connection.call("XLEN", STREAM) == 0


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "sought"),
    [
        ("redis+sentinel://u:{s}@127.0.0.1:1,127.0.0.1:2/main?sentinel_password={s}", "'main'"),
        ("redis+cluster://u:{s}@127.0.0.1:1,127.0.0.1:2", "'jobs' (slot 9631)"),
    ],
)
def test_if_nobody_answers_the_error_names_all_that_were_asked_and_no_password(
    form: str, sought: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = form.format(s=SECRET)
    pool = RedisStreamConsumer(url, STREAM, GROUP, "c1", LOGGER, lambda *_: None)
    with pytest.raises(RedisUnavailable) as caught:
        pool.connect()
    with RedisStreamProducer(url, STREAM) as producer, pytest.raises(RedisUnavailable):
        producer.publish({"n": 1})
    for text in (sought, "127.0.0.1:1", "127.0.0.1:2", "refused"):
        assert text in str(caught.value)
    assert SECRET not in str(caught.value) + caplog.text


def test_a_master_that_no_sentinel_knows_is_named_with_the_remedy(sentinels: Sentinels) -> None:
    connection = make_connection(f"redis+sentinel://u:{SECRET}@{sentinels.hosts}/other/0")
    with pytest.raises(RedisUnavailable) as caught:
        connection.open()
    text = str(caught.value)
    assert "the master 'other' was not found" in text
    assert text.count("does not know it") == 3
    assert "the name that 'sentinel monitor' gives" in text
    assert SECRET not in text


def test_a_server_that_is_no_cluster_says_so(redis_url: str) -> None:
    with pytest.raises(RedisUnavailable, match="cluster support disabled"):
        make_connection(redis_url.replace("redis://", "redis+cluster://")).open()


def test_a_server_that_is_no_sentinel_says_so(redis_url: str) -> None:
    hosts = redis_url.removeprefix("redis://").removesuffix("/0")
    with pytest.raises(RedisUnavailable, match=r"(?i)unknown command .?sentinel"):
        make_connection(f"redis+sentinel://{hosts}/main").open()


@pytest.mark.parametrize("stream", ["jobs", "jobs:{eu}"])
def test_a_result_stream_in_another_slot_is_refused_in_a_cluster_with_the_remedy(
    stream: str,
) -> None:
    def make(url: str, results: str) -> RedisStreamConsumer:
        return RedisStreamConsumer(
            url, stream, GROUP, "c1", LOGGER, lambda *_: None, result_stream=results
        )

    with pytest.raises(ConfigurationError, match="hash tag") as caught:
        make("redis+cluster://localhost", "results")
    advised = str(caught.value).split("'")[-2]
    assert key_slot(advised.encode()) == key_slot(stream.encode())
    make("redis+cluster://localhost", advised)
    make("redis://localhost", "results")
    make("redis+sentinel://localhost/main", "results")


# --- rights -----------------------------------------------------------------------------------


@pytest.fixture
def guarded(redis_server: EmbeddedRedis, tmp_path: Path, stack: ExitStack) -> EmbeddedRedis:
    """A Sentinel that asks for a user and a password, above a master that does too."""
    master = stack.enter_context(EmbeddedRedis(redis_server.binary))
    found = stack.enter_context(
        EmbeddedRedis(sentinel(redis_server.binary, tmp_path / "sentinel", master.port, quorum=1))
    )
    for server, name, rights in (
        (master, "worker", ("~*", "+@all")),
        (found, "asker", ("+sentinel|get-master-addr-by-name",)),
    ):
        with redis.Redis(port=server.port, protocol=2) as client:
            client.execute_command("ACL", "SETUSER", name, "on", f">{SECRET}", *rights)
            client.execute_command("ACL", "SETUSER", "default", "off")
    return found


def test_sentinels_and_master_may_each_have_a_user_of_their_own(guarded: EmbeddedRedis) -> None:
    """That of the Sentinels needs one right."""
    address = f"redis+sentinel://worker:{SECRET}@127.0.0.1:{guarded.port}/{MASTER}"
    url = f"{address}?sentinel_username=asker&sentinel_password={SECRET}"
    with closing(make_connection(url)) as connection:
        assert connection.call("ACL", "WHOAMI") == b"worker"


@pytest.mark.parametrize(
    "options",
    ["", "?sentinel_username=asker&sentinel_password=other", "?sentinel_password=other"],
)
def test_sentinels_that_refuse_the_user_deny_access(guarded: EmbeddedRedis, options: str) -> None:
    address = f"redis+sentinel://worker:{SECRET}@127.0.0.1:{guarded.port}/{MASTER}"
    with pytest.raises(RedisAccessDenied) as caught:
        make_connection(address + options).open()
    assert SECRET not in str(caught.value)
    assert "other" not in str(caught.value)


def test_the_documented_least_rights_are_enough_in_a_cluster(cluster: Cluster) -> None:
    redis_page = (Path(__file__).parents[2] / "docs" / "redis.md").read_text()
    (line,) = re.findall(r"^    (~audio:jobs .+)$", redis_page, re.MULTILINE)
    worker = (*line.replace("audio:jobs", STREAM).split(), "+xgroup|create")
    rights = [*worker, f"~{RESULTS}", "+cluster|slots"]
    assert "`+cluster|slots`" in redis_page
    clients = [cluster.admin(server) for server in cluster.servers]
    for client in clients:
        client.execute_command("ACL", "SETUSER", "worker", "on", f">{SECRET}", *rights)
    url = cluster.url.replace("://", f"://worker:{SECRET}@")
    with RedisStreamProducer(url, STREAM) as producer:
        producer.publish_many({"n": n} for n in range(10))
    owner = cluster.admin(cluster.master())
    with RedisStreamConsumer(
        url, STREAM, GROUP, "c1", LOGGER, lambda _, job: job, result_stream=RESULTS
    ):
        eventually(lambda: owner.xlen(STREAM) == 0)
    for client in clients:
        client.execute_command("ACL", "DELUSER", "worker")
