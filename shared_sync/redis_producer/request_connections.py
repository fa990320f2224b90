"""Publishing a job and reading its result over the same connection, which is the quickest way.

The requesting thread reads its result itself: no other thread has to be woken, and the job and the
read are sent together. There are a few such connections. Each has its own reply stream and serves
one thread at a time. A request that finds all of them in use is submitted like any other job, and
the listening thread of the producer reads its result.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from shared_sync.common import backoff
from shared_sync.common.fork import PerProcess
from shared_sync.connection.connection import Connection
from shared_sync.connection.driver_errors import NotRun
from shared_sync.connection.pool import ANSWER_SECONDS, KEEP_SECONDS, TRUST_SECONDS
from shared_sync.connection.scripts import Command
from shared_sync.errors import ConsumerStateError, RedisAccessDenied, SharedSyncError
from shared_sync.protocol.messages import Entry
from shared_sync.result_listener.listening import BLOCK_SECONDS, MOST, ListenerContext
from shared_sync.result_listener.result import Result, parse

MOST_REQUESTS: Final = 8
"""The most connections for requests, each with its own reply stream."""
FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 1.0

MakeCommand = Callable[[str], Command]
"""Takes the name of a reply stream, and returns the command that publishes the job."""


class RequestConnection:
    """A connection with its own reply stream. For one thread at a time."""

    def __init__(self, context: ListenerContext, ttl_seconds: float) -> None:
        # Not reported: if the stream expires between two requests, no result is lost.
        self._source = context.new_replies(ttl_seconds, report=lambda *_: None)
        self._connection = Connection(context.connector())
        self._returned_at = time.monotonic()

    def prepare(self) -> None:
        """Make sure that the connection and the reply stream exist. Raises as the connection."""
        unused_seconds = time.monotonic() - self._returned_at
        if unused_seconds > KEEP_SECONDS:
            self._connection.close()
        elif unused_seconds > TRUST_SECONDS:
            self._connection.answers(ANSWER_SECONDS)
        else:
            self._connection.close_if_stale()
        self._source.reopen(self._connection)
        if not self._source.is_confirmed:
            self._source.confirm(self._connection.call)

    def request(self, make_command: MakeCommand, deadline: float) -> tuple[str, Result | None]:
        """Publish a job, and return its id and its final result, which is None after the deadline.

        Raises errors of the connection until it is known that the job was published. After `NotRun`
        it was certainly not published.
        """
        connection, source = self._connection, self._source
        command = make_command(source.key)
        try:
            source.send(connection, [command], MOST, _block_ms(deadline))
            job_id: str = connection.receive().decode()
        except BaseException:
            connection.close()  # the read may still be running
            raise
        return job_id, self._await(job_id, deadline)

    def _await(self, job_id: str, deadline: float) -> Result | None:
        """Read until the result has arrived. Continues after outages."""
        connection, source = self._connection, self._source
        was_sent, failures = True, 0
        while not connection.interrupted:
            try:
                if was_sent:
                    entries = source.receive(connection)
                else:
                    entries = source.read(connection, MOST, _block_ms(deadline))
                failures = 0
            except RedisAccessDenied:
                connection.close()
                raise
            except SharedSyncError:
                failures += 1
                entries = []
                connection.close()
                time.sleep(min(_pause(failures), max(0.0, deadline - time.monotonic())))
            except BaseException:
                connection.close()
                raise
            was_sent = False
            result = self._take(entries, job_id)
            if result is not None or time.monotonic() >= deadline:
                return result
        raise ConsumerStateError(f"the producer was closed before the result of {job_id!r} came")

    def _take(self, entries: Sequence[Entry], job_id: str) -> Result | None:
        """Return the final result of the job; drop results of requests that have timed out."""
        final = None
        for entry in entries:
            self._source.delivered(entry.id)
            result = parse(entry.id, entry.items)
            if final is None and result.id == job_id and result.is_final:
                final = result
        return final

    def give_back(self) -> None:
        """Note that the connection is idle from now on."""
        self._returned_at = time.monotonic()

    @property
    def interrupted(self) -> bool:
        """Whether `interrupt()` was called."""
        return self._connection.interrupted

    def interrupt(self) -> None:
        """End a request of another thread. The connection cannot be used again."""
        self._connection.interrupt()

    def close(self, *, removes_stream: bool = True) -> bool:
        """Remove the stream, and close the connection. Return whether Redis answers."""
        try:
            if removes_stream:
                self._source.leave(self._connection)
        except SharedSyncError:
            return False
        finally:
            self._connection.close()
        return removes_stream


class _ProcessState:
    """The connections of one process. All operations on these collections are atomic."""

    def __init__(self) -> None:
        self.free = threading.BoundedSemaphore(MOST_REQUESTS)
        """How many more connections may be in use."""
        self.idle: deque[RequestConnection] = deque()
        self.lent: set[RequestConnection] = set()


class RequestConnections:
    """Lends the connections for requests. Safe from any thread, and in a fork."""

    def __init__(self, context: ListenerContext, ttl_seconds: float) -> None:
        # Fixed after construction.
        self._context = context
        self._ttl_seconds = ttl_seconds
        self._states: PerProcess[_ProcessState] = PerProcess(_ProcessState)

    def request(
        self, make_command: MakeCommand, deadline: float
    ) -> tuple[str, Result | None] | None:
        """Publish a job, wait, and return its id and its result, which is None after the deadline.

        Returns None if nothing was published, because all connections are in use or another server
        must be asked. Raises errors of the connection.
        """
        state = self._states.get()
        if not state.free.acquire(blocking=False):
            return None
        try:
            lent = self._take(state)
            try:
                lent.prepare()
                return lent.request(make_command, deadline)
            except NotRun:
                return None
            finally:
                self._give_back(state, lent)
        finally:
            state.free.release()

    def close(self) -> None:
        """Remove the reply streams, and end all waits. May be used again.

        If Redis does not answer, the reply streams are left to expire.
        """
        state = self._states.get()
        for lent in list(state.lent):
            lent.interrupt()
        answers = True
        while state.idle:
            with suppress(IndexError):
                answers = state.idle.pop().close(removes_stream=answers)

    def _take(self, state: _ProcessState) -> RequestConnection:
        try:
            lent = state.idle.pop()
        except IndexError:
            lent = RequestConnection(self._context, self._ttl_seconds)
        state.lent.add(lent)
        return lent

    def _give_back(self, state: _ProcessState, lent: RequestConnection) -> None:
        state.lent.discard(lent)
        lent.give_back()
        if lent.interrupted:
            lent.close()
        else:
            state.idle.append(lent)


def _block_ms(deadline: float) -> int:
    """How long one read blocks, in ms. Servers do not keep times below 10 ms well."""
    left = min(BLOCK_SECONDS, deadline - time.monotonic())
    return max(10, int(left * 1000))


def _pause(failures: int) -> float:
    return backoff.exponential(
        failures,
        base_seconds=FIRST_PAUSE_SECONDS,
        max_seconds=LONGEST_PAUSE_SECONDS,
        jitter=0.5,
    )
