"""A TCP proxy in front of Redis that breaks what passes through it when it is told to.

It takes what passes apart into requests and replies, so a fault strikes the very request that it
is meant for, in however many pieces that one travels.
"""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue

from shared_sync.connection.scripts import scripts
from shared_sync.testing.redis_proxy import frames

HOST = "127.0.0.1"
# Below the ports that systems lend to outgoing connections: while the proxy refuses connections
# nobody else can be given its port.
PORTS = range(20_000, 32_768)
HEAD = 100
"""In so many bytes of a request its command and a script's digest are found."""


class Fault:
    """Strikes requests of one kind; `happened` is set when it has struck for the last time.

    One that holds a request up does so until `release` is set, and sets `delivered` then.
    """

    def __init__(
        self, mark: bytes, times: int, carrying: bytes, chance: Callable[[], bool]
    ) -> None:
        # Fixed after construction.
        self._mark = mark
        self._carrying = carrying
        self._chance = chance
        self.happened = threading.Event()
        self.release = threading.Event()
        self.delivered = threading.Event()
        # Guarded by the lock.
        self._lock = threading.Lock()
        self._left = times

    def fits(self, request: bytes) -> bool:
        return self._mark in request[:HEAD]

    def strike(self, act: Callable[[], None], reply: bytes = b"") -> bool:
        """Do what the fault does, if there is a strike left and the reply is one that is meant."""
        with self._lock:
            if self._left == 0 or self._carrying not in reply or not self._chance():
                return False
            self._left -= 1
            last = self._left == 0
        act()
        if last:
            self.happened.set()
        return True


COMMANDS = {"read": "XREADGROUP", "add": "XADD"}


def _mark_of(request: str) -> bytes:
    """What a request is known by; it is one of COMMANDS, the name of a script, or empty for any."""
    if not request:
        return b""
    word = COMMANDS.get(request) or scripts()[request].digest
    return f"\r\n{word}\r\n".encode()


class Proxy:
    """Passes on what clients and the server on `port` say to each other, until told otherwise.

    All methods may be called from any thread.
    """

    def __init__(self, port: int) -> None:
        # Fixed after construction.
        self._server = (HOST, port)
        self._flows = threading.Event()
        self._flows.set()
        # Set from outside, read by the threads.
        self.drips = False
        """Deliver one byte at a time."""
        # Guarded by the lock.
        self._lock = threading.Lock()
        self._passages: set[_Passage] = set()
        self._faults: dict[str, list[Fault]] = {"request": [], "reply": [], "held up": []}
        # Owned by the thread that opens and closes.
        self._door, self.port = _open_door()
        self._usher = self._usher_in()

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    # --- faults ---

    def cut_before(
        self, request: str, times: int = 1, chance: Callable[[], bool] = lambda: True
    ) -> Fault:
        """Cut the connection instead of passing on the next requests of this kind."""
        return self._arm("request", Fault(_mark_of(request), times, b"", chance))

    def lose_reply(
        self,
        request: str,
        times: int = 1,
        *,
        carrying: bytes = b"",
        chance: Callable[[], bool] = lambda: True,
    ) -> Fault:
        """Pass the next requests on, and cut the connection instead of passing on the reply.

        Only replies with `carrying` in them are meant.
        """
        return self._arm("reply", Fault(_mark_of(request), times, carrying, chance))

    def hold_up(self, request: str) -> Fault:
        """Hold the next such request up, with all that follows it on its connection.

        Once released it reaches the server, even if the client has given up on it meanwhile.
        """
        return self._arm("held up", Fault(_mark_of(request), 1, b"", lambda: True))

    def cut_all(self) -> None:
        """Cut every connection that there is."""
        with self._lock:
            passages = list(self._passages)
        for passage in passages:
            passage.cut()

    def drop_links(self) -> None:
        """Deliver nothing any more over the connections that there are, and tell neither side.

        So does a firewall that has forgotten them; new connections work.
        """
        with self._lock:
            for passage in self._passages:
                passage.is_dropped = True

    @contextmanager
    def black_hole(self) -> Iterator[None]:
        """Accept connections and everything said on them, and deliver nothing until the end.

        What was said meanwhile is delivered then, as a network does that was only held up, even
        if the client has given up on the connection.
        """
        self._flows.clear()
        try:
            yield
        finally:
            self._flows.set()

    @contextmanager
    def refusal(self) -> Iterator[None]:
        """Cut every connection and refuse new ones."""
        self._close_door()
        self.cut_all()
        try:
            yield
        finally:
            self._door, _ = _open_door(self.port)
            self._usher = self._usher_in()

    def close(self) -> None:
        """End all connections and threads. Blocks until they have ended."""
        self._close_door()
        with self._lock:
            passages = list(self._passages)
        for passage in passages:
            passage.cut()
        self._flows.set()
        for fault in self._faults["held up"]:
            fault.release.set()
        for passage in passages:
            passage.thread.join()

    # --- inside ---

    def _arm(self, side: str, fault: Fault) -> Fault:
        with self._lock:
            self._faults[side].append(fault)
        return fault

    def faults_of(self, side: str, request: bytes) -> list[Fault]:
        with self._lock:
            return [fault for fault in self._faults[side] if fault.fits(request)]

    def deliver(self, data: bytes, to: socket.socket) -> None:
        self._flows.wait()
        if self.drips:
            for byte in data:
                to.sendall(bytes((byte,)))
        else:
            to.sendall(data)

    def _usher_in(self) -> threading.Thread:
        usher = threading.Thread(target=self._accept, args=(self._door,), name="proxy", daemon=True)
        usher.start()
        return usher

    def _accept(self, door: socket.socket) -> None:
        while True:
            try:
                client, _ = door.accept()
            except OSError:  # the door is closed
                return
            try:
                server = socket.create_connection(self._server, timeout=5)
                server.settimeout(None)
            except OSError:
                client.close()
                continue
            passage = _Passage(self, client, server, self._forget)
            with self._lock:
                self._passages.add(passage)
            passage.thread.start()

    def _forget(self, passage: _Passage) -> None:
        with self._lock:
            self._passages.discard(passage)

    def _close_door(self) -> None:
        with suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)  # wakes the usher
        self._usher.join()
        self._door.close()


class _Passage:
    """One client's connection, and ours to the server on its behalf."""

    def __init__(
        self,
        proxy: Proxy,
        client: socket.socket,
        server: socket.socket,
        ended: Callable[[_Passage], None],
    ) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._ended = ended
        for side in (client, server):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Set from outside, read by the threads.
        self.is_dropped = False
        # What may strike the replies to come, in their order.
        self._coming: SimpleQueue[list[Fault]] = SimpleQueue()
        self.thread = threading.Thread(target=self._pass, name="proxy-passage", daemon=True)

    def cut(self) -> None:
        """End the connection on both sides. Safe from any thread."""
        for side in (self._client, self._server):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def _pass(self) -> None:
        back = threading.Thread(target=self._pass_replies, name="proxy-replies", daemon=True)
        back.start()
        with suppress(OSError):
            for request in frames(self._client):
                if self.is_dropped:
                    continue
                before = self._proxy.faults_of("request", request)
                if any(fault.strike(self.cut) for fault in before):
                    break
                faults = self._proxy.faults_of("held up", request)
                held_up = [fault for fault in faults if fault.strike(lambda: None)]
                for fault in held_up:
                    fault.release.wait()
                self._coming.put(self._proxy.faults_of("reply", request))
                self._proxy.deliver(request, self._server)
                for fault in held_up:
                    fault.delivered.set()
        self.cut()
        back.join()
        self._client.close()
        self._server.close()
        self._ended(self)

    def _pass_replies(self) -> None:
        with suppress(OSError):
            for reply in frames(self._server):
                if self.is_dropped:
                    continue
                if any(fault.strike(self.cut, reply) for fault in self._coming.get()):
                    break
                self._proxy.deliver(reply, self._client)
        self.cut()


def _open_door(port: int | None = None) -> tuple[socket.socket, int]:
    while True:
        chosen = port or random.choice(PORTS)
        try:
            return socket.create_server((HOST, chosen)), chosen
        except OSError:
            if port is not None:
                raise
