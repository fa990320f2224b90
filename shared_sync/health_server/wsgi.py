"""Serves a WSGI application over HTTP: one start of waitress, in background threads."""

from __future__ import annotations

import logging
import re
import socket
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher

from shared_sync.common.loop import Loop
from shared_sync.health_server.access import SAFE_HEADERS
from shared_sync.health_server.http_log import HttpLog

WORKERS = 8
"""Threads that make answers. Most may wait for a callback; the others stay free for probes."""

WAIT_SECONDS = 1.0
"""How long one step of the serving thread waits for its sockets; stopping wakes it at once."""

CROWDED_WAIT_SECONDS = 0.05
"""The same while some connections have to be closed to make room for new ones."""

JOIN_SECONDS = 0.1
"""At stop, between two checks for idle connections."""

FLUSH_SECONDS = 1.0
"""At stop, for clients that have not received their whole answer yet."""

REQUEST_SECONDS = 10.0
"""For a client to send a request, from its first byte to the last."""

ANSWER_SECONDS = 30.0
"""For a client to receive an answer."""

CONNECTIONS = 100
FREE_CONNECTIONS = 10
"""Kept free for new clients, by closing the connections that have waited longest."""

REST_SECONDS = 0.5
"""After the system has refused to hand out a connection, because of too many open files, say."""

NEW_SECONDS = 0.25
"""How old a connection must be before it may be closed to make room."""

_WAITRESS: dict[str, Any] = {
    "channel_timeout": 10,
    "cleanup_interval": 5,
    "connection_limit": CONNECTIONS + 2,  # the listener and the trigger are counted
    "max_request_header_size": 16 * 1024,
    "max_request_body_size": 64 * 1024,
    # An answer is made as a whole and then sent, however long that takes. If it could reach the
    # high watermark, a client that does not read would block the thread that makes answers.
    "outbuf_high_watermark": 1 << 40,
    "outbuf_overflow": 4 * 1024 * 1024,  # the largest answer needs no temporary file
    "ident": "",
    # X-Forwarded-For is logged and never believed. Stated because waitress 2 warns if it is not.
    "clear_untrusted_proxy_headers": False,
}

_HOST = re.compile(r"(?:\[[0-9A-Za-z:.%]+\]|[^\s,/\\?#@\[\]:]*)(?::\d*)?")
"""A name or address with a port. Waitress puts commas between the values of several headers."""

_log = HttpLog(logging.getLogger("waitress"))


class HttpServer:
    """Serves from a listening socket, from construction until `stop`.

    Only the serving thread touches waitress's sockets, from the first client to the last close.
    Other threads ask it to stop by waking it through waitress's trigger.

    Any thread may call any method. The constructor takes over `listener`, also if it raises: the
    RuntimeError of a system that has no more threads, say.
    """

    def __init__(
        self, app: Callable[..., Any], listener: socket.socket, workers: int = WORKERS
    ) -> None:
        self.port: int = listener.getsockname()[1]
        self._sockets: dict[int, Any] = {}  # by descriptor; waitress calls it the map
        self._workers = _Workers(f"health-server-{self.port}")
        self._stopping = threading.Event()
        self._loop = Loop(
            f"health-server-{self.port}",
            step=self._serve,
            stop=self._stopping,
            on_error=_log_error,
            finish=self._close,
        )
        # Held while the trigger is pulled or closed: pulling a closed one would write its byte
        # into whatever file has the descriptor by then. Re-entrant for signal handlers.
        self._trigger_lock = threading.RLock()
        # Owned by the serving thread.
        self._slow_clients = _SlowClients()
        self._is_crowded = False
        try:
            self._server: Any = _Server(app, listener, self._sockets, self._workers)
            self._workers.set_thread_count(workers)
            self._loop.start()
        except BaseException:
            self._workers.set_thread_count(0)
            wasyncore.close_all(self._sockets)
            listener.close()
            raise

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Stop listening, and end all threads once the current requests are answered.

        Never blocks.
        """
        with self._trigger_lock:
            if not self._stopping.is_set():
                self._stopping.set()
                self._server.pull_trigger()

    def join(self, deadline: float) -> bool:
        """Wait until all threads have ended or until `deadline` (monotonic clock).

        Returns whether they have ended. Does not wait if one of them calls this.
        """
        if threading.current_thread() in self._workers.started:
            return False
        return self._loop.join(deadline)

    def close_copies(self) -> None:
        """Close this process's copies of the sockets. For a forked process, which has no thread.

        While they are open, the port stays taken and clients stay connected.
        """
        for owner in list(self._sockets.values()):
            if isinstance(owner, wasyncore.dispatcher):
                wasyncore.dispatcher.close(owner)  # without the locks of a channel
            else:
                owner.close()

    def _serve(self) -> None:
        """One step of the serving thread."""
        self._handle_sockets(CROWDED_WAIT_SECONDS if self._is_crowded else WAIT_SECONDS)
        self._is_crowded = self._slow_clients.disconnect(self._channels())

    def _handle_sockets(self, wait_seconds: float) -> None:
        wasyncore.loop(timeout=wait_seconds, use_poll=True, map=self._sockets, count=1)

    def _close(self) -> None:
        # First the listener, so that new clients are refused at once. Its own close() would close
        # the trigger too, which the workers pull after each answer.
        wasyncore.dispatcher.close(self._server)
        # Then the workers, each after its current request; they send their answers themselves.
        # Meanwhile idle connections are closed: keep-alive would hold them open for ever.
        self._workers.set_thread_count(0)
        for worker in self._workers.started:
            while worker.is_alive():
                for channel in self._channels():
                    if not (channel.requests or channel.total_outbufs_len):
                        channel.handle_close()
                worker.join(JOIN_SECONDS)
        # Then this thread sends what slow clients have not received yet, for a moment.
        deadline = monotonic() + FLUSH_SECONDS
        while monotonic() < deadline and any(c.total_outbufs_len for c in self._channels()):
            self._handle_sockets(0.1)
        for channel in self._channels():
            channel.handle_close()
        # The trigger last, when no thread is left that could pull it.
        with self._trigger_lock:
            wasyncore.close_all(self._sockets)

    def _channels(self) -> list[Any]:
        return list(self._server.active_channels.values())


def _log_error(error: BaseException, _failures: int) -> float:
    _log.error("serving HTTP failed and goes on in a second", exc_info=error)
    return 1.0


class _SlowClients:
    """Disconnects clients that take too long, or that wait while others need the room.

    Waitress itself only disconnects a client that has sent nothing at all for a while, and a client
    can prevent that by sending a byte now and then. For the serving thread.
    """

    def __init__(self) -> None:
        # What each client is doing, and since when.
        self._activities: dict[Any, tuple[object, float]] = {}

    def disconnect(self, channels: list[Any]) -> bool:
        """Disconnect the clients that are too slow; return whether there are too many clients."""
        now = monotonic()
        before = self._activities
        self._activities = {}
        waiting: list[tuple[bool, float, Any]] = []
        for channel in channels:
            # A request is identified by its parser: the next request has another one.
            activity = "answer" if channel.total_outbufs_len else channel.request
            previous, since = before.get(channel, (None, now))
            if previous is not activity:
                since = now
            self._activities[channel] = (activity, since)
            limit = ANSWER_SECONDS if activity == "answer" else REQUEST_SECONDS
            if activity is not None and now - since > limit:
                channel.handle_close()  # and not once it can be written to, which may be never
            elif now - since > NEW_SECONDS and not channel.requests:
                waiting.append((activity != "answer", since, channel))
        excess = len(channels) - (CONNECTIONS - FREE_CONNECTIONS)
        if excess > 0:
            # Those that do not receive their answer first: they cost the most memory.
            for _, _, channel in sorted(waiting, key=lambda entry: entry[:2])[:excess]:
                channel.handle_close()
        return excess > 0


class _Request(HTTPRequestParser):
    """Waitress's parser, but for one request at a time and without tracebacks in the log.

    Bytes that a client sends behind a request, before it has the answer, are dropped, and the
    connection is closed after that answer (RFC 9112, section 9.3.2, has the client repeat them).
    Otherwise one connection could request hundreds of answers and receive none.
    """

    path = ""  # logged if a client leaves before its answer, even if no path was ever read

    def received(self, data: bytes) -> int:
        consumed: int = super().received(data)
        if self.completed:
            self.expect_continue = False  # or waitress would wait for a body that it has already
            if consumed < len(data):
                self.headers = {**self.headers, "CONNECTION": "close"}
        return len(data) if self.completed else consumed

    def parse_header(self, header_plus: bytes) -> None:
        try:
            super().parse_header(header_plus)
        except ValueError:  # of http://[ for example, and of a length with thousands of digits
            raise ParsingError("Invalid address or number") from None
        if not self.command:  # waitress 2 answers such a request, as if it had no method
            raise ParsingError("Start line is invalid")
        host = self.headers.get("HOST")
        if host is None and self.version not in ("", "1.0"):
            raise ParsingError("Host header is missing")
        if host is not None and not _HOST.fullmatch(host):
            raise ParsingError("Host header is invalid, or there are several")


class _ErrorTask(ErrorTask):
    """Sends an error of waitress itself, with the headers that all answers have."""

    def execute(self) -> None:
        self.response_headers = [*self.response_headers, *SAFE_HEADERS.items()]
        super().execute()


class _Channel(HTTPChannel):
    error_task_class = _ErrorTask
    parser_class = _Request
    logger = _log  # type: ignore[assignment]


class _Server(TcpWSGIServer):
    """Waitress's listening socket, which rests when the system refuses to hand out connections.

    Otherwise a process without free file descriptors would try again and again without a pause.
    """

    channel_class = _Channel
    logger = _log  # type: ignore[assignment]

    def __init__(
        self,
        app: Callable[..., Any],
        listener: socket.socket,
        sockets: dict[int, Any],
        workers: ThreadedTaskDispatcher,
    ) -> None:
        self._rests_until = 0.0
        super().__init__(
            app,
            sockets,
            True,
            listener,
            dispatcher=workers,
            adj=Adjustments(sockets=[listener], **_WAITRESS),
            sockinfo=(listener.family, listener.type, listener.proto, listener.getsockname()),
            bind_socket=False,
        )

    def accept(self) -> Any:
        try:
            return super().accept()
        except OSError:
            self._rests_until = monotonic() + REST_SECONDS
            raise

    def readable(self) -> bool:
        return super().readable() and monotonic() >= self._rests_until


class _Workers(ThreadedTaskDispatcher):
    """Waitress's worker threads, with names, and kept so that they can be joined."""

    logger = _log  # type: ignore[assignment]
    # Waitress warns about every request that waits for a moment; that is normal here.
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
