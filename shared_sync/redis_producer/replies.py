"""The reply stream of a producer: one for each process, created when it is first needed."""

from __future__ import annotations

import threading

from shared_sync.common.fork import PerProcess
from shared_sync.connection.pool import ConnectionPool
from shared_sync.redis_producer.waiting import Waiting
from shared_sync.result_listener.inbox import Inbox
from shared_sync.result_listener.listening import Listening, Surroundings

STOP_SECONDS = 10.0


class _Here:
    """The listening thread of one process, and what it feeds."""

    def __init__(self) -> None:
        # Guarded by the lock.
        self.lock = threading.Lock()
        self.listening: Listening | None = None
        self.waiting: Waiting | None = None


class Replies:
    """Listens for the results of submitted jobs. Safe from any thread.

    A forked process gets its own reply stream. After `close()` the next use creates a new one.
    """

    def __init__(
        self, surroundings: Surroundings, connections: ConnectionPool, ttl_seconds: float
    ) -> None:
        # Fixed after construction.
        self._surroundings = surroundings
        self._connections = connections
        self._ttl_seconds = ttl_seconds
        self._here: PerProcess[_Here] = PerProcess(_Here)

    def begin(self) -> tuple[str, Waiting, int]:
        """Begin a publication: return the name of the reply stream, its `Waiting`, and a number.

        The reply stream exists then. After `waiting.add()`, call `waiting.end(number)`. Raises
        `RedisUnavailable` or `RedisRefused` if the stream could not be created.
        """
        here = self._here.get()
        with here.lock:
            if here.listening is None or here.waiting is None:
                here.waiting, here.listening = self._new()
            waiting, listening = here.waiting, here.listening
        return listening.reply_to(self._connections), waiting, waiting.begin()

    def close(self) -> None:
        """Remove the stream, and end all waits. Blocks up to STOP_SECONDS."""
        here = self._here.get()
        with here.lock:
            waiting, listening = here.waiting, here.listening
            here.waiting = here.listening = None
        if listening is not None:
            listening.stop(STOP_SECONDS)
        if waiting is not None:
            waiting.close()

    def abandon(self) -> None:
        """Let the thread end soon. Never blocks, so that a finalizer may call it."""
        listening = self._here.get().listening
        if listening is not None:
            listening.abandon()

    def _new(self) -> tuple[Waiting, Listening]:
        waiting = Waiting(self._surroundings.recorder)
        listening = Listening(
            self._surroundings.new_replies(self._ttl_seconds),
            self._surroundings,
            handler=waiting.receive,
            inbox=Inbox(1),
        )
        return waiting, listening
