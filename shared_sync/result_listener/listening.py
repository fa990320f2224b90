"""The listening thread of one process: reads a stream of results and passes them on."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from shared_sync.common import backoff
from shared_sync.common.detached_logger import DetachedLogger
from shared_sync.common.guarded import GuardedRecorder
from shared_sync.common.loop import Loop, ReentrantStop
from shared_sync.connection import url
from shared_sync.connection.availability import Availability
from shared_sync.connection.connection import REPLY_MARGIN_SECONDS, Connect, Connection
from shared_sync.connection.credentials import CredentialProvider
from shared_sync.connection.discovery import connector_of_process
from shared_sync.connection.pool import ConnectionPool
from shared_sync.errors import ConsumerStateError, SharedSyncError
from shared_sync.protocol.keys import StreamKeys
from shared_sync.protocol.messages import Entry
from shared_sync.protocol.result_streams import ExclusiveStream, Remembered, Report, ResultSource
from shared_sync.result_listener.inbox import Inbox
from shared_sync.result_listener.result import Result, parse

NAME: Final = "results"
BLOCK_SECONDS: Final = 2.0
"""Longest wait of one read."""
REPLY_TIMEOUT_SECONDS: Final = BLOCK_SECONDS + REPLY_MARGIN_SECONDS
REPLY_TTL_SECONDS: Final = 60.0
"""How long a reply stream stays without its listener, unless another time is given."""
MOST: Final = 100
"""The most entries of one read."""
LARGE_BYTES: Final = 4 * 1024 * 1024
"""The approximate limit of the size of one read."""
FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 2.0
"""The longest pause between two attempts to reach Redis."""

Handler = Callable[[Result], object]


@dataclass(frozen=True, slots=True)
class ListenerContext:
    """What a producer or a listener passes to the thread that reads its results."""

    redis_url: str
    stream: str
    """A key in the slot of the results, for a cluster."""
    credential_provider: CredentialProvider | None
    recorder: GuardedRecorder
    logger: DetachedLogger

    def connector(self) -> Connect:
        """Return the function that connects. Raises `ConfigurationError` for a wrong address."""
        return connector_of_process(
            self.redis_url,
            key=self.stream,
            reply_timeout_seconds=REPLY_TIMEOUT_SECONDS,
            role="listener",
            credential_provider=self.credential_provider,
        )

    def new_replies(self, ttl_seconds: float, report: Report | None = None) -> ExclusiveStream:
        """Return a reply stream with a new name.

        `report` logs that the stream was lost; None to log a warning.
        """
        key = StreamKeys.of(self.stream).reply(secrets.token_hex(8))
        return ExclusiveStream(
            key, ttl_ms=int(ttl_seconds * 1000), report=report or self.logger.warning
        )


class Listening:
    """Reads one stream of results in a thread. Any thread may call the methods."""

    def __init__(
        self,
        source: ResultSource,
        context: ListenerContext,
        *,
        handler: Handler | None,
        inbox: Inbox,
    ) -> None:
        # Fixed after construction.
        self.source = source
        self.inbox = inbox
        self._handler = handler
        self._recorder = context.recorder
        self._logger = context.logger
        self._availability = Availability(url.safe_address(context.redis_url), self._logger)
        self._connection = Connection(context.connector())
        self._stop = ReentrantStop()
        self._loop = Loop(
            NAME,
            step=self._step,
            stop=self._stop,
            on_error=self._handle_error,
            finish=self._finish,
        )
        self._starting = threading.Lock()
        # Owned by the thread, once it has started.
        self._most = MOST
        self._finals = Remembered()
        """The final results that were passed on, if nobody else reads the stream."""
        # Written by the thread; any thread may read.
        self.last_id: str | None = None
        """The id of the entry that was passed on last."""
        self._dropped = 0

    def start(self) -> None:
        """Connect and start reading, if that was not done. Blocks up to the limits of a connection.

        Raises `RedisUnavailable` or `RedisRefused`; it may be called again then.
        """
        if self._loop.was_started and not self._stop.is_set():
            return
        with self._starting:
            if self._stop.is_set():
                raise ConsumerStateError("the listener was stopped; make a new one")
            if not self._loop.was_started:
                self.source.open(self._connection)
                self._availability.succeeded(NAME)
                self._loop.start()

    def reply_to(self, connections: ConnectionPool) -> str:
        """Return the name of the reply stream, which exists then. Starts the listening.

        If the last check was more than a second ago, checks over one of the `connections` that the
        stream exists. Blocks and raises as `start()` and the connections do.
        """
        self.start()
        if isinstance(self.source, ExclusiveStream) and not (
            self.source.is_confirmed and self._availability.connected
        ):
            self.source.confirm(connections.call)
        return self.source.key

    @property
    def stopped(self) -> bool:
        """Whether `stop()` was called."""
        return self._stop.is_set()

    def stop(self, timeout: float) -> bool:
        """Stop reading, and return whether the thread has ended within `timeout`."""
        self._stop.set()
        self.inbox.close()
        self._connection.interrupt()
        return self._loop.join(time.monotonic() + timeout)

    def abandon(self) -> None:
        """Let the thread end after its current read. Never blocks, so a finalizer may call it."""
        self._stop.set()

    def _step(self) -> None:
        room = MOST if self._handler is not None else self.inbox.wait_for_room(BLOCK_SECONDS)
        if not room:
            self.source.keep(self._connection)
            return
        block_ms = int(BLOCK_SECONDS * 1000)
        entries = self.source.read(self._connection, min(room, self._most), block_ms)
        self._availability.succeeded(NAME)
        size = 0
        for entry in entries:
            if self._stop.is_set():
                return
            size += self._hand_out(entry)
            self.source.delivered(entry.id)
            self.last_id = entry.id
        if entries:
            self._most = max(1, min(MOST, LARGE_BYTES * len(entries) // max(1, size)))

    def _hand_out(self, entry: Entry) -> int:
        """Pass on the result in an entry; return the size of its values."""
        size = sum(map(len, entry.items))
        result = parse(entry.id, entry.items)
        if result.is_final and isinstance(self.source, ExclusiveStream) and result.id:
            # If a server has lost an outcome, the message runs again and has another result.
            final = f"{result.id} {result.status}"
            if final in self._finals:
                return size
            self._finals.add(final)
        self._recorder.increment_counter("results_received")
        if self._handler is None:
            self.inbox.put(result, size)
            self._report_dropped()
            return size
        try:
            self._handler(result)
        except BaseException as error:  # of any kind: no result may keep others from arriving
            self._recorder.record_error(error)
            self._logger.exception(
                "the handler failed for the result of message %s; this result is not passed to it "
                "again",
                result.id,
            )
        return size

    def _report_dropped(self) -> None:
        dropped = self.inbox.dropped
        if dropped and not self._dropped:
            self._logger.warning(
                "results that nobody takes are dropped, the oldest first, as there are max_kept or "
                "64 MiB of them; take all results, give the listener a handler, or raise "
                "max_kept. This is logged once"
            )
        self._dropped = dropped

    def _handle_error(self, error: BaseException, failures: int) -> float:
        """Report an error of a step; return how many seconds to pause."""
        if isinstance(error, SharedSyncError):
            self._connection.close()  # after a refusal, too: another server may have taken over
            if not self._stop.is_set():
                self._availability.failed(NAME, error)
        else:
            self._recorder.record_error(error)
            self._logger.error("the listener for results failed and continues", exc_info=error)
        return backoff.exponential(
            failures,
            base_seconds=FIRST_PAUSE_SECONDS,
            max_seconds=LONGEST_PAUSE_SECONDS,
            jitter=0.5,
        )

    def _finish(self) -> None:
        try:
            self.source.leave(self._connection)
        except SharedSyncError:
            pass  # the stream expires, or the results in it are read again
        finally:
            self._connection.close()
