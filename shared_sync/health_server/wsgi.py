"""One start of an HTTP server: waitress in background threads, until all of it has ended."""

from __future__ import annotations

import errno
import logging
import socket
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import create_server
from waitress.task import ThreadedTaskDispatcher

from shared_sync.errors import PortUnavailable

WORKERS = 4
"""Threads that make answers. A few may wait for a figure; the others stay free for probes."""

CROWDED_TURN_SECONDS = 0.05  # the same while clients are about to be sent away to make room
TURN_SECONDS = 1.0  # longest wait of an idle serving loop; stopping wakes it at once
JOIN_SECONDS = 0.1  # at stop, between two looks for clients that wait for nothing
FLUSH_SECONDS = 1.0  # at stop, for a client that has not yet taken its whole answer
REQUEST_SECONDS = 10.0  # for a client to send a request, from its first byte to the last
ANSWER_SECONDS = 30.0  # for a client to take its answer
CONNECTIONS = 100
ROOM = 10  # connections that are left free for newcomers, at the cost of those that wait longest
NEWCOMER_SECONDS = 0.25  # for which nobody is sent away to make room
_WAITRESS: dict[str, Any] = {
    "channel_timeout": 10,
    "cleanup_interval": 5,
    "connection_limit": CONNECTIONS + 2,  # the listener and the trigger are counted
    "max_request_header_size": 16 * 1024,
    "max_request_body_size": 64 * 1024,
    # An answer is made whole and then sent, however long that takes: with a mark that is reached, a
    # client that does not read would hold up the thread that makes answers.
    "outbuf_high_watermark": 1 << 40,
    "outbuf_overflow": 4 * 1024 * 1024,  # the largest answer needs no temporary file
    "ident": "",
    "clear_untrusted_proxy_headers": True,  # stated because waitress 2 warns when it is not
}

_NOT_HERE = "give an address of this machine, or 0.0.0.0 for all of them"
_REMEDIES = {
    errno.EADDRINUSE: "the port is taken; stop the program that holds it, or choose another port "
    "(0 picks a free one)",
    errno.EACCES: "this user may not open the port; choose one from 1024 up",
    errno.EPERM: "this user may not open the port; choose one from 1024 up",
    errno.EADDRNOTAVAIL: f"the host is not this machine; {_NOT_HERE}",
}


class Serving:
    """One start of the server: its socket, its workers and its serving thread, until all end.

    Only the serving thread touches waitress's sockets, from the first client to the last close.
    Others ask it to end by waking it through waitress's trigger.
    """

    def __init__(self, app: Callable[..., Any], listener: socket.socket) -> None:
        self.port: int = listener.getsockname()[1]
        self._map: dict[int, Any] = {}
        self._workers = _Workers(f"health-server-{self.port}")
        self._thread = threading.Thread(
            target=self._serve, name=f"health-server-{self.port}", daemon=True
        )
        # Held while the trigger is pulled or closed: a pull of a closed one would write its byte
        # into whatever file has got the descriptor since. Re-entrant for signal handlers.
        self._trigger_lock = threading.RLock()
        self._ending = threading.Event()
        self._patience = _Patience()  # owned by the serving thread
        try:
            self._server: Any = create_server(
                app, map=self._map, sockets=[listener], _dispatcher=self._workers, **_WAITRESS
            )
            self._workers.set_thread_count(WORKERS)
            self._thread.start()
        except BaseException:
            self._workers.set_thread_count(0)
            wasyncore.close_all(self._map)
            listener.close()
            raise

    @property
    def ending(self) -> bool:
        return self._ending.is_set()

    def end(self) -> None:
        """Have everything end; never waits. Requests that are being answered are finished."""
        with self._trigger_lock:
            if not self._ending.is_set():
                self._ending.set()
                self._server.pull_trigger()

    def join(self, timeout: float) -> bool:
        """Wait until everything has ended, unless called by one of its threads; whether it has."""
        if threading.current_thread() not in self._workers.started:
            self._thread.join(max(timeout, 0.0))
        return not self._thread.is_alive()

    def close_copies(self) -> None:
        """In a forked process, which has no thread of the server: close its copies of the sockets.

        Else they would keep the port taken, and clients connected, as long as that process lives.
        """
        for owner in list(self._map.values()):
            if isinstance(owner, wasyncore.dispatcher):
                wasyncore.dispatcher.close(owner)  # without the locks of a channel
            else:
                owner.close()

    def _serve(self) -> None:
        self._server.channel_class = _Channel
        try:
            crowded = False
            while not self._ending.is_set():
                self._turn(CROWDED_TURN_SECONDS if crowded else TURN_SECONDS)
                crowded = self._patience.look(self._channels())
        finally:
            self._close()

    def _turn(self, seconds: float) -> None:
        wasyncore.loop(timeout=seconds, use_poll=True, map=self._map, count=1)

    def _close(self) -> None:
        # First the listener, so that new clients are refused at once. Its own close() would take
        # the trigger along, which the workers pull after each answer.
        self._ending.set()
        wasyncore.dispatcher.close(self._server)
        # Then the workers, each after the request it is at; they send their answers themselves.
        # Meanwhile clients that wait for nothing are let go: keep-alive would hold them for ever.
        self._workers.set_thread_count(0)
        for worker in self._workers.started:
            while worker.is_alive():
                for channel in self._channels():
                    if not (channel.requests or channel.total_outbufs_len):
                        channel.handle_close()
                worker.join(JOIN_SECONDS)
        # Then what a slow client did not take yet is left to this thread, for a moment.
        give_up = monotonic() + FLUSH_SECONDS
        while monotonic() < give_up and any(c.total_outbufs_len for c in self._channels()):
            self._turn(0.1)
        for channel in self._channels():
            channel.handle_close()
        # The trigger last, now that nobody is left to pull it.
        with self._trigger_lock:
            wasyncore.close_all(self._map)

    def _channels(self) -> list[Any]:
        return list(self._server.active_channels.values())


class _Patience:
    """Sends clients away that take too long, or that wait while others need the room.

    Waitress itself does so only where nothing at all was sent for a while, which a client that
    sends a byte now and then never lets happen. For the serving thread.
    """

    def __init__(self) -> None:
        # What each client is at, and since when.
        self._at: dict[Any, tuple[object, float]] = {}

    def look(self, channels: list[Any]) -> bool:
        """Send away whom that befalls, and tell whether there are more than there is room for."""
        now = monotonic()
        before = self._at
        self._at = {}
        waiting: list[tuple[bool, float, Any]] = []
        for channel in channels:
            # Of a request, the parser that collects it: the next request has another one.
            at = "answer" if channel.total_outbufs_len else channel.request
            was_at, since = before.get(channel, (None, now))
            if was_at is not at:
                since = now
            self._at[channel] = (at, since)
            limit = ANSWER_SECONDS if at == "answer" else REQUEST_SECONDS
            if at is not None and now - since > limit:
                channel.handle_close()  # not when it can be written to, which may be never
            elif now - since > NEWCOMER_SECONDS and not channel.requests:
                waiting.append((at != "answer", since, channel))
        excess = len(channels) - (CONNECTIONS - ROOM)
        if excess > 0:
            # Those with an answer that they do not take go first: they cost the most.
            for _, _, channel in sorted(waiting, key=lambda entry: entry[:2])[:excess]:
                channel.handle_close()
        return excess > 0


class _Request(HTTPRequestParser):
    """Waitress's reading of a request, but one at a time and without tracebacks in the log.

    What a client sends behind a request before it has the answer is dropped, and the connection
    closed after that answer (RFC 9112, section 9.3.2, has it ask again): else one connection could
    call for hundreds of answers and take none.
    """

    path = ""  # logged when a client has gone before its answer, also if no path was ever read

    def received(self, data: bytes) -> int:
        consumed: int = super().received(data)
        if self.completed and consumed < len(data):
            self.headers = {**self.headers, "CONNECTION": "close"}
        return len(data) if self.completed else consumed

    def parse_header(self, header_plus: bytes) -> None:
        try:
            super().parse_header(header_plus)
        except ValueError:  # such as of http://[ and of a length with thousands of digits
            raise ParsingError("Invalid address or number") from None


class _EscapingLogger(logging.LoggerAdapter):  # type: ignore[type-arg]  # not before Python 3.11
    """Waitress's log, which has paths as clients send them: line breaks in there forge no lines."""

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        return str(msg).encode("unicode_escape").decode(), kwargs


class _Channel(HTTPChannel):
    parser_class = _Request
    logger = _EscapingLogger(logging.getLogger("waitress"), {})  # type: ignore[assignment]


class _Workers(ThreadedTaskDispatcher):
    """Waitress's worker threads, with names, and kept so that they can be joined."""

    # Waitress warns about every request that waits for a moment. Here that is no news.
    queue_logger = logging.Logger(__name__, level=logging.CRITICAL)

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self.started: list[threading.Thread] = []

    def start_new_thread(self, target: Callable[[int], object], thread_no: int) -> None:
        thread = threading.Thread(
            target=target, name=f"{self._name}-{thread_no}", args=(thread_no,), daemon=True
        )
        thread.start()
        self.started.append(thread)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on the host, on IPv4 where it has both; "::" takes both.

    Raises `PortUnavailable`, which names the remedy.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        both = address[0] == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(address, family=family, dualstack_ipv6=both)
    except (OSError, ValueError) as error:  # ValueError: a host no resolver takes
        number = error.errno if isinstance(error, OSError) else None
        known = _REMEDIES.get(number) if number else None
        raise PortUnavailable(
            f"health server cannot listen on host {host!r}, port {port}: "
            + (known or f"{error}; {_NOT_HERE}")
        ) from error
