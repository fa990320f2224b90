"""The reply stream of a producer: one for each process, created when it is first needed."""

from __future__ import annotations

import threading

from shared_sync.common.fork import PerProcess
from shared_sync.connection.pool import ConnectionPool
from shared_sync.redis_producer.awaited_results import AwaitedResults
from shared_sync.result_listener.inbox import Inbox
from shared_sync.result_listener.listening import ListenerContext, Listening

STOP_SECONDS = 10.0


class _ProcessState:
    """The listening thread of one process, and what it feeds."""

    def __init__(self) -> None:
        # Guarded by the lock.
        self.lock = threading.Lock()
        self.listening: Listening | None = None
        self.waiting: AwaitedResults | None = None


class ReplyStream:
    """Listens for the results of submitted jobs. Safe from any thread.

    A forked process gets its own reply stream. After `close()` the next use creates a new one.
    """

    def __init__(
        self, context: ListenerContext, connections: ConnectionPool, ttl_seconds: float
    ) -> None:
        # Fixed after construction.
        self._context = context
        self._connections = connections
        self._ttl_seconds = ttl_seconds
        self._states: PerProcess[_ProcessState] = PerProcess(_ProcessState)

    def begin(self) -> tuple[str, AwaitedResults, int]:
        """Begin a publication: return the name of the reply stream, its results, and a number.

        The reply stream exists then. After `waiting.add()`, call `waiting.end(number)`. Raises
        `RedisUnavailable` or `RedisRefused` if the stream could not be created.
        """
        state = self._states.get()
        with state.lock:
            if state.listening is None or state.waiting is None:
                state.waiting, state.listening = self._new()
            waiting, listening = state.waiting, state.listening
        return listening.reply_to(self._connections), waiting, waiting.begin()

    def close(self) -> None:
        """Remove the stream, and end all waits. Blocks up to STOP_SECONDS."""
        state = self._states.get()
        with state.lock:
            waiting, listening = state.waiting, state.listening
            state.waiting = state.listening = None
        if listening is not None:
            listening.stop(STOP_SECONDS)
        if waiting is not None:
            waiting.close()

    def abandon(self) -> None:
        """Let the thread end soon. Never blocks, so that a finalizer may call it."""
        listening = self._states.get().listening
        if listening is not None:
            listening.abandon()

    def _new(self) -> tuple[AwaitedResults, Listening]:
        waiting = AwaitedResults(self._context.recorder)
        listening = Listening(
            self._context.new_replies(self._ttl_seconds),
            self._context,
            handler=waiting.receive,
            inbox=Inbox(1),
        )
        return waiting, listening
