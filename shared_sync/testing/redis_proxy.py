"""A TCP proxy in front of Redis, which can be frozen and closed, and can lose replies."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import SimpleQueue
from typing import Final

HOST: Final = "127.0.0.1"

LosesReply = Callable[[bytes], bool]
"""Takes a request, and returns whether its reply is lost."""


class RedisProxy:
    """Passes on what clients and a server say to each other. Any thread may call any method."""

    def __init__(self, server: tuple[str, int], loses_reply: LosesReply) -> None:
        # Fixed after construction.
        self._server = server
        self._loses_reply = loses_reply
        self._flows = threading.Event()
        self._flows.set()
        self._listener = socket.create_server((HOST, 0))
        self.port = int(self._listener.getsockname()[1])
        self._accepting = threading.Thread(target=self._accept, name="redis-proxy", daemon=True)
        # Guarded by the lock.
        self._lock = threading.Lock()
        self._connections: set[_ProxiedConnection] = set()
        self._is_closed = False
        self._accepting.start()

    def freeze(self) -> None:
        """Pass nothing on until `thaw()`."""
        self._flows.clear()

    def thaw(self) -> None:
        """Pass on what has come meanwhile, and what comes."""
        self._flows.set()

    def close(self) -> None:
        """End all connections, and accept no more. Does not wait for the threads."""
        with self._lock:
            self._is_closed = True
            connections = list(self._connections)
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # ends accept()
        self._listener.close()
        for connection in connections:
            connection.cut()
        self._flows.set()

    # --- inside ---

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            try:
                server = socket.create_connection(self._server, timeout=5)
                server.settimeout(None)
            except OSError:
                client.close()
                continue
            connection = _ProxiedConnection(client, server, self._flows, self._loses_reply)
            with self._lock:
                if self._is_closed:
                    connection.cut()
                self._connections.add(connection)
            threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection: _ProxiedConnection) -> None:
        connection.run()
        with self._lock:
            self._connections.discard(connection)


class _ProxiedConnection:
    """The connection of one client, and the one to the server on its behalf."""

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket,
        flows: threading.Event,
        loses_reply: LosesReply,
    ) -> None:
        # Fixed after construction.
        self._client = client
        self._server = server
        self._flows = flows
        self._loses_reply = loses_reply
        for side in (client, server):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._is_lost: SimpleQueue[bool] = SimpleQueue()
        """For each request whose reply has not come, in order: whether that is lost."""

    def cut(self) -> None:
        """End the connection on both sides. Safe from any thread."""
        for side in (self._client, self._server):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        """Pass on requests and replies until one side ends."""
        replies = threading.Thread(target=self._pass_replies, daemon=True)
        replies.start()
        with suppress(OSError):
            for request in frames(self._client):
                self._flows.wait()
                self._is_lost.put(self._loses_reply(request))
                self._server.sendall(request)
        self.cut()
        replies.join()
        self._client.close()
        self._server.close()

    def _pass_replies(self) -> None:
        with suppress(OSError):
            for reply in frames(self._server):
                if self._is_lost.get():
                    break
                self._flows.wait()
                self._client.sendall(reply)
        self.cut()


def frames(source: socket.socket) -> Iterator[bytes]:
    """Yield the requests or replies that arrive, each in one piece, until the connection ends."""
    buffer = bytearray()
    while True:
        while (end := _frame_end(buffer, 0)) is not None:
            yield bytes(buffer[:end])
            del buffer[:end]
        chunk = source.recv(65_536)
        if not chunk:
            return
        buffer += chunk


def _frame_end(buffer: bytearray, start: int) -> int | None:
    """Return where the value that begins at `start` ends; None if not all of it is there yet."""
    line_end = buffer.find(b"\r\n", start)
    if line_end < 0:
        return None
    kind, end = bytes(buffer[start : start + 1]), line_end + 2
    if kind not in (b"$", b"*"):
        return end
    length = int(buffer[start + 1 : line_end])
    if kind == b"$":
        if length >= 0:
            end += length + 2
        return end if end <= len(buffer) else None
    for _ in range(length):
        following = _frame_end(buffer, end)
        if following is None:
            return None
        end = following
    return end
