"""A connection sends, receives and loads scripts, and after a break it connects anew."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import redis
from helpers import eventually, in_a_fork
from protocol_client import KEYS, Worker, interrupted_wait, make_connection

from shared_sync.connection import discovery, scripts
from shared_sync.connection.connection import Connection
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.connection.scripts import Command
from shared_sync.errors import RedisAccessDenied, RedisRefused, RedisUnavailable
from shared_sync.protocol import publishing

SECRET = "s3cr3t"


# --- connections ------------------------------------------------------------------------------


def test_a_connection_connects_when_first_used_and_once(connection: Connection) -> None:
    assert connection.connects == 0
    assert connection.call("PING") == b"PONG"
    assert connection.call("PING") == b"PONG"
    assert connection.connects == 1


def test_a_refusal_leaves_the_connection_in_step(connection: Connection) -> None:
    connection.send([("PING",), ("NO-SUCH-COMMAND",), ("ECHO", "after")])
    assert connection.receive() == b"PONG"
    with pytest.raises(RedisRefused):
        connection.receive()
    assert connection.receive() == b"after"
    assert connection.connects == 1


@pytest.mark.parametrize("read", [0, 1])
def test_a_reply_that_was_not_read_is_not_taken_for_that_to_the_next_command(
    connection: Connection, read: int
) -> None:
    """As when an error is thrown into the thread between sending and receiving."""
    connection.send([("ECHO", "first"), ("ECHO", "second")])
    for _ in range(read):
        assert connection.receive() == b"first"
    assert connection.call("ECHO", "third") == b"third"
    assert connection.connects == 2


def test_a_second_command_goes_along_and_only_the_first_one_may_fail(
    connection: Connection, client: redis.Redis
) -> None:
    ask, wrong = ("ECHO", "a"), ("NO-SUCH-COMMAND",)
    assert connection.call_with(ask, ask) == (b"a", b"a")
    reply, error = connection.call_with(ask, wrong)
    assert (reply, type(error)) == (b"a", RedisRefused)
    with pytest.raises(RedisRefused):
        connection.call_with(wrong, ask)
    assert connection.call(*ask) == b"a"
    script = scripts.call("first_id", [KEYS.stream], "0")
    assert connection.call_with(script, script) == (b"", b"")
    client.script_flush()
    assert connection.call_with(script, script) == (b"", b"")
    assert connection.connects == 2


def test_a_broken_connection_raises_once_and_then_connects_anew(
    connection: Connection, client: redis.Redis
) -> None:
    number = connection.call("CLIENT", "ID")
    client.client_kill_filter(_id=number)
    with pytest.raises(RedisUnavailable):
        connection.call("PING")
    assert connection.call("PING") == b"PONG"
    assert connection.connects == 2


def test_a_connection_notices_without_asking_that_the_server_has_closed_it(
    connection: Connection, client: redis.Redis
) -> None:
    assert not connection.is_stale()
    number = connection.call("CLIENT", "ID")
    assert not connection.is_stale()
    connection.close_if_stale()
    assert connection.call("CLIENT", "ID") == number
    client.client_kill_filter(_id=number)
    eventually(connection.is_stale)
    connection.close_if_stale()
    assert not connection.is_stale()


def test_idle_links_are_kept_alive_by_the_system(redis_url: str) -> None:
    raw: Any = discovery.connector(redis_url, key=None, reply_timeout_seconds=5)()
    raw.connect()
    try:
        link = raw._sock
        assert link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_KEEPIDLE"):
            assert link.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
    finally:
        raw.disconnect()


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    connection = make_connection(f"redis://127.0.0.1:{port}/0")
    with pytest.raises(RedisUnavailable):
        connection.open()
    assert connection.connects == 0


def test_a_db_that_the_server_does_not_have_is_named_as_such(redis_url: str) -> None:
    url = redis_url.removesuffix("/0")
    with pytest.raises(RedisRefused, match="redis_url names a db that the server does not have"):
        make_connection(f"{url}/4711").open()


def test_whatever_breaks_a_connection_the_error_names_the_server(
    own_server: EmbeddedRedis,
) -> None:
    with closing(make_connection(own_server.url)) as connection:
        connection.open()
        own_server.kill()
        for _ in range(2):
            with pytest.raises(RedisUnavailable, match=f"127.0.0.1:{own_server.port}"):
                connection.call("PING")
        own_server.start()
        with redis.Redis.from_url(own_server.url) as admin:
            admin.config_set("requirepass", "right")
        with pytest.raises(RedisAccessDenied, match=f"{own_server.port}.*write redis://user:"):
            connection.call("PING")


def test_a_wrong_password_is_denied_and_not_shown(redis_server: EmbeddedRedis) -> None:
    with EmbeddedRedis(redis_server.binary) as server:
        with redis.Redis.from_url(server.url) as admin:
            admin.config_set("requirepass", "right")
        url = server.url.replace("redis://", f"redis://:{SECRET}@")
        for address in (url, server.url):
            with pytest.raises(RedisAccessDenied) as caught:
                make_connection(address).call("PING")
            assert SECRET not in str(caught.value)


def test_a_blocked_wait_is_ended_from_another_thread(
    connection: Connection, client: redis.Redis
) -> None:
    assert interrupted_wait(connection, client) is None


def test_an_interrupt_that_comes_before_the_wait_ends_it_too(connection: Connection) -> None:
    worker = Worker(connection, "w1")
    connection.interrupt()
    connection.send([worker.commands.read(1, 9000)])
    assert connection.receive_blocked() is None
    assert connection.call("PING") == b"PONG"


# --- scripts ----------------------------------------------------------------------------------


class Written:
    """A driver's connection that counts its writes."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.writes = 0

    def send_packed_command(self, command: Any, check_health: bool) -> None:
        self.writes += 1
        self._connection.send_packed_command(command, check_health=check_health)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def calls_of(client: redis.Redis, command: str) -> int:
    """How often the server was sent `command`, since its statistics were reset."""
    stats = client.info("commandstats")
    # Before 7.0 the parts of a command are counted as one.
    counted = stats.get(f"cmdstat_{command}") or stats.get(f"cmdstat_{command.partition('|')[0]}")
    return int(counted["calls"]) if counted else 0


SURVEY = scripts.call("survey", [KEYS.stream], KEYS.group)
"""Another script; the second item of its reply is the length of the stream."""


def publish() -> Command:
    return publishing.publish("jobs", [[b"a", b"1"]], None)


def test_a_script_is_loaded_with_its_first_call_in_the_same_write(
    redis_url: str, client: redis.Redis
) -> None:
    client.script_flush()
    made: list[Written] = []

    def connect() -> Written:
        made.append(Written(discovery.connector(redis_url, key=None, reply_timeout_seconds=5)()))
        return made[0]

    with closing(Connection(connect)) as connection:
        connection.open()
        made[0].writes = 0
        client.config_resetstat()
        for number in range(1, 4):
            connection.call(*publish())
            assert made[0].writes == number
    assert calls_of(client, "script|load") == 1
    assert client.info("memory")["number_of_cached_scripts"] == 1


def test_opening_and_plain_commands_load_no_scripts(
    connection: Connection, client: redis.Redis
) -> None:
    client.script_flush()
    connection.open()
    connection.call_all(("PING",), ("TIME",))
    assert client.info("memory")["number_of_cached_scripts"] == 0


def test_replies_are_those_to_the_commands_also_where_scripts_were_loaded_before_them(
    connection: Connection,
) -> None:
    connection.send([("ECHO", "1"), publish(), SURVEY, ("ECHO", "2"), publish()])
    assert connection.receive() == b"1"
    assert len(connection.receive()[0]) == 1
    assert connection.receive()[1] == 1
    assert connection.receive() == b"2"
    assert len(connection.receive()[0]) == 1
    replies = connection.call_all(SURVEY, ("NO-SUCH-COMMAND",), publish())
    assert replies[0][1] == 2
    assert isinstance(replies[1], RedisRefused)
    assert len(replies[2][0]) == 1


def test_a_new_connection_loads_the_scripts_again(own_server: EmbeddedRedis) -> None:
    with closing(make_connection(own_server.url)) as connection:
        connection.call(*publish())
        own_server.kill()
        with pytest.raises(RedisUnavailable):
            connection.call(*publish())
        own_server.start()
        assert len(connection.call(*publish())[0]) == 1
        assert connection.connects == 2


def test_scripts_that_the_server_forgot_are_loaded_again_by_themselves(
    connection: Connection, client: redis.Redis
) -> None:
    connection.call(*publish())
    client.script_flush()
    assert len(connection.call(*publish())[0]) == 1
    assert client.xlen("jobs") == 2


def test_commands_that_are_sent_together_are_not_repeated_when_the_server_forgot_a_script(
    connection: Connection, client: redis.Redis
) -> None:
    connection.call(*publish())
    client.script_flush()
    connection.send([publish(), ("ECHO", "after")])
    with pytest.raises(RedisUnavailable, match="NOSCRIPT"):
        connection.receive()
    assert client.xlen("jobs") == 1
    connection.send([publish(), ("ECHO", "after")])
    assert len(connection.receive()[0]) == 1
    assert connection.receive() == b"after"


def test_a_wait_that_is_broken_off_leaves_no_reply_to_a_script_behind(redis_url: str) -> None:
    class BrokenOff(Written):
        breaks = True

        def read_response(self) -> Any:
            if self.breaks:
                self.breaks = False
                raise KeyboardInterrupt
            return self._connection.read_response()

    connect = discovery.connector(redis_url, key=None, reply_timeout_seconds=5)
    with closing(Connection(lambda: BrokenOff(connect()))) as connection:
        with pytest.raises(KeyboardInterrupt):
            connection.call(*publish())
        assert connection.call("ECHO", "next") == b"next"
        assert connection.call(*SURVEY)[1] >= 0
        assert connection.connects == 2


@pytest.fixture
def unable_to_load(own_server: EmbeddedRedis) -> Iterator[Connection]:
    """A connection of a user who may call scripts and not load them."""
    with redis.Redis.from_url(own_server.url, protocol=2) as admin:
        admin.execute_command("ACL", "SETUSER", "worker", "on", ">pw", "~*", "+@all", "-script")
    url = own_server.url.replace("redis://", "redis://worker:pw@")
    with closing(make_connection(url)) as connection:
        yield connection


def test_a_user_who_may_not_load_scripts_is_denied_access(unable_to_load: Connection) -> None:
    for _ in range(2):
        with pytest.raises(RedisAccessDenied, match="script"):
            unable_to_load.call(*publish())
    unable_to_load.send([("ECHO", "before"), publish(), ("ECHO", "after")])
    assert unable_to_load.receive() == b"before"
    with pytest.raises(RedisAccessDenied, match="script"):
        unable_to_load.receive()
    assert unable_to_load.call("ECHO", "still used") == b"still used"


def test_a_user_who_may_not_load_scripts_may_call_those_that_the_server_has(
    unable_to_load: Connection, own_server: EmbeddedRedis
) -> None:
    with closing(make_connection(own_server.url)) as connection:
        connection.call(*publish())
    assert len(unable_to_load.call(*publish())[0]) == 1
    assert len(unable_to_load.call(*publish())[0]) == 1


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_wait_can_be_interrupted_in_a_process_that_was_forked_before_it_connected(
    connection: Connection,
) -> None:
    def wait() -> bool:
        connection.send([("BLPOP", "nothing", 5)])
        waiter = threading.Thread(target=connection.receive_blocked)
        waiter.start()
        eventually(lambda: connection._blocked)
        connection.interrupt()
        waiter.join(2.5)
        return waiter.is_alive()

    assert in_a_fork(wait) is False
