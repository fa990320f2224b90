"""The proxy itself: a fault that does not strike would prove nothing."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest
import redis
from faults.proxy import HOST, Proxy

from shared_sync.connection.scripts import scripts

FINISH = scripts()["finish"].digest


def connect(proxy: Proxy) -> socket.socket:
    connection = socket.create_connection((HOST, proxy.port), timeout=5)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def packed(*words: str) -> bytes:
    items = "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
    return f"*{len(words)}\r\n{items}".encode()


def test_what_nothing_strikes_passes_in_both_directions(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        connection.sendall(packed("ECHO", "x" * 100_000) + packed("LRANGE", "none", "0", "1"))
        with connection.makefile("rb") as replies:
            expected = b"$100000\r\n" + b"x" * 100_000 + b"\r\n*0\r\n"
            assert replies.read(len(expected)) == expected


def test_a_request_is_struck_also_when_it_travels_in_pieces(proxy: Proxy) -> None:
    fault = proxy.cut_before("finish")
    with connect(proxy) as connection:
        for byte in packed("ECHO", "before") + packed("EVALSHA", FINISH, "0"):
            connection.sendall(bytes((byte,)))
        with connection.makefile("rb") as replies:
            assert replies.read() in (b"$6\r\nbefore\r\n", b"")
    assert fault.happened.wait(5)


def test_a_lost_reply_is_that_of_a_request_which_was_carried_out(
    proxy: Proxy, client: redis.Redis
) -> None:
    fault = proxy.lose_reply("", times=2, carrying=b":2")
    with connect(proxy) as connection, connection.makefile("rb") as replies:
        connection.sendall(packed("INCR", "n") + packed("INCR", "n"))
        assert replies.read() == b":1\r\n"
    assert client.get("n") == b"2"
    assert not fault.happened.is_set()
    with connect(proxy) as connection, connection.makefile("rb") as replies:
        connection.sendall(packed("GET", "n") + packed("INCRBY", "n", "18"))
        assert replies.read() == b"$1\r\n2\r\n"
    assert client.get("n") == b"20"
    assert fault.happened.wait(5)


def test_a_refused_connection_is_refused_and_a_black_hole_says_nothing(proxy: Proxy) -> None:
    with proxy.refusal(), pytest.raises(ConnectionRefusedError):
        connect(proxy)
    with closing(connect(proxy)) as connection:
        connection.settimeout(0.2)
        with proxy.black_hole():
            connection.sendall(packed("PING"))
            with pytest.raises(TimeoutError):
                connection.recv(10)
        connection.settimeout(5)
        assert connection.recv(10) == b"+PONG\r\n"


def test_one_byte_at_a_time_is_the_same_in_the_end(proxy: Proxy) -> None:
    proxy.drips = True
    with connect(proxy) as connection:
        connection.sendall(packed("ECHO", "slow"))
        with connection.makefile("rb") as replies:
            assert replies.read(10) == b"$4\r\nslow\r\n"
