"""Frames between a process and its child: a kind, a header of JSON, and parts of raw bytes.

    prefix    kind, length of the header, number of parts, length of the front
    front     the header, the length of each part, and the small parts one after the other
    the rest  the large parts, which are sent from, and received into, memory of their own

Nothing in here is pickled: what came from Redis is bytes on both sides.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Sequence
from struct import Struct
from typing import Any, Final, NamedTuple

_PREFIX: Final = Struct("!BIIQ")
LARGE_BYTES: Final = 16 * 1024
"""A part of this size or more is not copied into the front."""

_MOST_BUFFERS: Final = 512
"""Buffers of one system call; systems allow 1,024."""

_NO_SIGNAL: Final = getattr(socket, "MSG_NOSIGNAL", 0)
"""Else a program in which SIGPIPE has its default would end with its child."""

_to_json = json.JSONEncoder(separators=(",", ":")).encode  # in ASCII, also what is no valid Unicode
_from_json = json.JSONDecoder().decode


class ChannelClosed(Exception):
    """The process at the other end has ended, or has closed its end."""


class Frame(NamedTuple):
    """One message between the two processes."""

    kind: int
    header: Any
    parts: Sequence[bytes]


def _never() -> None:
    """Wait on."""


def encode(kind: int, header: object) -> bytes:
    """Return a frame without parts as it is sent."""
    return _front(kind, header, 0)


def complete_frames(data: bytes) -> Iterator[tuple[Frame, int]]:
    """Yield the frames without parts that lie complete at the beginning of some bytes.

    With each comes the place at which it ends.
    """
    start = 0
    while len(data) - start >= _PREFIX.size:
        kind, text_length, _, front_length = _PREFIX.unpack_from(data, start)
        text_at = start + _PREFIX.size
        start = text_at + front_length
        if start > len(data):
            return
        yield Frame(kind, _from_json(data[text_at : text_at + text_length].decode()), ()), start


def _front(kind: int, header: object, count: int, *pieces: bytes) -> bytes:
    text = _to_json(header).encode()
    length = len(text) + sum(map(len, pieces))
    return b"".join((_PREFIX.pack(kind, len(text), count, length), text, *pieces))


class Channel:
    """Sends and receives frames over one end of a socket pair. One thread at a time sends, one
    receives.

    If the socket has a time limit (SO_RCVTIMEO, SO_SNDTIMEO), `on_wait` is called each time that it
    passes, and may raise to give up. The channel is of no use then: a frame may be half sent.
    """

    def __init__(self, end: socket.socket, on_wait: Callable[[], None] = _never) -> None:
        # Fixed after construction.
        self.socket = end
        self._on_wait = on_wait

    def send(self, kind: int, header: object, parts: Sequence[bytes] = ()) -> None:
        """Send a frame; blocks until the other process has room for it.

        Raises `ChannelClosed`, and what `on_wait` raises.
        """
        large = [part for part in parts if len(part) >= LARGE_BYTES]
        small = [part for part in parts if len(part) < LARGE_BYTES] if large else parts
        lengths = b"".join([len(part).to_bytes(8, "big") for part in parts])
        self._send((_front(kind, header, len(parts), lengths, *small), *large))

    def receive(self) -> Frame:
        """Return the next frame; blocks until all of it has come.

        Raises `ChannelClosed`, and what `on_wait` raises.
        """
        kind, text_length, count, front_length = _PREFIX.unpack(self._receive(_PREFIX.size))
        front = self._receive(front_length)
        header = _from_json(front[:text_length].decode())
        if not count:
            return Frame(kind, header, ())
        parts: list[bytes] = []
        at = text_length + 8 * count
        for place in range(text_length, at, 8):
            length = int.from_bytes(front[place : place + 8], "big")
            if length >= LARGE_BYTES:
                parts.append(self._receive(length))
            else:
                parts.append(front[at : at + length])
                at += length
        return Frame(kind, header, parts)

    def send_at_once(self, kind: int, header: object) -> bool:
        """Send a short frame without parts; return False if there is no room for it just now.

        Never blocks. Raises `ChannelClosed`.
        """
        try:
            self.socket.sendmsg((encode(kind, header),), (), _NO_SIGNAL | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError as error:
            raise ChannelClosed(str(error)) from None
        return True

    def close(self) -> None:
        """Close this end."""
        self.socket.close()

    def _receive(self, length: int) -> bytes:
        # The socket gives bytes of just this length, without another copy of them.
        found = self._receive_some(length)
        if len(found) == length:
            return found
        pieces, missing = [found], length - len(found)
        while missing:
            pieces.append(self._receive_some(missing))
            missing -= len(pieces[-1])
        return b"".join(pieces)

    def _receive_some(self, most: int) -> bytes:
        while True:
            try:
                found = self.socket.recv(most, socket.MSG_WAITALL)
            except BlockingIOError:
                self._on_wait()
                continue
            except OSError as error:
                raise ChannelClosed(str(error)) from None
            if not found:
                raise ChannelClosed("the other end was closed")
            return found

    def _send(self, buffers: Sequence[bytes]) -> None:
        for first in range(0, len(buffers), _MOST_BUFFERS):
            left = [memoryview(one) for one in buffers[first : first + _MOST_BUFFERS]]
            while left:
                sent = self._send_some(left)
                while left and sent >= len(left[0]):
                    sent -= len(left.pop(0))
                if sent:
                    left[0] = left[0][sent:]

    def _send_some(self, buffers: Sequence[memoryview]) -> int:
        while True:
            try:
                return self.socket.sendmsg(buffers, (), _NO_SIGNAL)
            except BlockingIOError:
                self._on_wait()
            except OSError as error:
                raise ChannelClosed(str(error)) from None
