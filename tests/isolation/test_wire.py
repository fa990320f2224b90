"""Frames come out of a channel as they went in, whatever their size; a closed end is an error."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from shared_sync.isolation.wire import LARGE_BYTES, Channel, ChannelClosed, Frame, encode

BIG = bytes(range(256)) * 40_000


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    one, other = socket.socketpair()
    with one, other:
        yield Channel(one), Channel(other)


def sent(ends: tuple[Channel, Channel], kind: int, header: object, parts: list[bytes]) -> Frame:
    """Send a frame in a thread of its own: a large one waits for its receiver."""
    sender = threading.Thread(target=ends[0].send, args=(kind, header, parts))
    sender.start()
    frame = ends[1].receive()
    sender.join()
    return frame


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b""],
        [b"name", b"value"],
        [b"a" * (LARGE_BYTES - 1), b"b" * LARGE_BYTES, b"", b"c"],
        [b"x", BIG, b"y", BIG],
        [b"x" * LARGE_BYTES] * 1500,
    ],
    ids=["none", "empty", "small", "at the limit", "large", "many large"],
)
def test_a_frame_arrives_as_it_was_sent(ends: tuple[Channel, Channel], parts: list[bytes]) -> None:
    header = {"id": "1-0", "text": "ü \ud800 \n", "n": [1, 2.5, None]}
    frame = sent(ends, 7, header, parts)
    assert frame.kind == 7
    assert frame.header == header
    assert list(frame.parts) == parts
    assert all(type(part) is bytes for part in frame.parts)


def test_frames_arrive_in_their_order(ends: tuple[Channel, Channel]) -> None:
    for number in range(20):
        ends[0].send(number, number, [b"%d" % number])
    for number in range(20):
        assert ends[1].receive() == (number, number, [b"%d" % number])


def test_a_frame_without_parts_is_the_same_bytes(ends: tuple[Channel, Channel]) -> None:
    ends[0].socket.sendall(encode(3, {"n": 1}))
    assert ends[1].receive() == (3, {"n": 1}, ())


@pytest.mark.parametrize("cut", [0, 5, 18, 30])
def test_an_end_that_is_closed_in_the_middle_of_a_frame_is_an_error(
    ends: tuple[Channel, Channel], cut: int
) -> None:
    ends[0].socket.sendall(encode(3, {"text": "x" * 100})[:cut])
    ends[0].close()
    with pytest.raises(ChannelClosed):
        ends[1].receive()


def test_sending_to_a_closed_end_is_an_error(ends: tuple[Channel, Channel]) -> None:
    ends[1].close()
    with pytest.raises(ChannelClosed):
        ends[0].send(1, None, [BIG])


def test_a_wait_that_lasts_too_long_can_be_given_up(ends: tuple[Channel, Channel]) -> None:
    waits = []

    def give_up() -> None:
        waits.append(1)
        if len(waits) == 3:
            raise TimeoutError

    for channel in (Channel(ends[1].socket, give_up), Channel(ends[0].socket, give_up)):
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            channel.socket.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", 0, 5_000))
        waits.clear()
        with pytest.raises(TimeoutError):
            channel.receive()
    waits.clear()
    with pytest.raises(TimeoutError):
        channel.send(1, None, [BIG])  # nobody receives


def test_a_slow_sender_is_waited_for(ends: tuple[Channel, Channel]) -> None:
    waits = []
    receiver = Channel(ends[1].socket, lambda: waits.append(1))
    receiver.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 2_000))
    whole = encode(3, {"text": "x" * 100})
    ends[0].socket.sendall(whole[:25])

    def send_the_rest() -> None:
        while len(waits) < 3:
            pass
        ends[0].socket.sendall(whole[25:])

    sender = threading.Thread(target=send_the_rest)
    sender.start()
    assert receiver.receive().header == {"text": "x" * 100}
    sender.join()
