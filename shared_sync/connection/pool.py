"""Connections to one server, lent to one thread at a time and kept for the next."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from shared_sync.common.fork import PerProcess
from shared_sync.connection.connection import Connect, Connection
from shared_sync.connection.credentials import CredentialProvider
from shared_sync.connection.discovery import connector_of_process
from shared_sync.errors import RedisUnavailable, SharedSyncError

KEEP_SECONDS: Final = 30.0
"""How long an unused connection is kept. Firewalls and load balancers silently drop a connection
that is idle for a minute or more, and what is sent over it is lost."""

TRUST_SECONDS: Final = 2.0
"""How long a connection may be idle before it is checked at its next use."""

ANSWER_SECONDS: Final = 1.0
"""How long such a check waits for the server."""


class _Connections:
    """The connections of one process."""

    def __init__(self, connect: Connect, most: int) -> None:
        # Fixed after construction.
        self.connect = connect
        self.free = threading.BoundedSemaphore(most)
        """How many more may be lent."""
        # The moment when each was returned stands beside it; the one that was returned last is at
        # the right end. Any thread appends and pops, which needs no lock.
        self.idle: deque[tuple[float, Connection]] = deque()


class ConnectionPool:
    """Lends connections, and opens as many as there are threads that use one at the same time.

    Safe from any thread. A forked process gets connections of its own: it must not read replies to
    its parent. It does not close the connections of its parent either, as that would close them at
    the server.
    """

    def __init__(
        self,
        make_connector: Callable[[], Connect],
        *,
        most: int = 1,
        wait_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Lends `most` connections at a time; who wants one more waits up to `wait_seconds`.

        `make_connector` is called here and once in each fork; what it raises comes through.
        """
        # Fixed after construction.
        self._most = most
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._connections = PerProcess(lambda: _Connections(make_connector(), most))
        self._connections.get()

    @classmethod
    def of_process(
        cls,
        redis_url: str,
        *,
        key: str | None,
        role: str,
        timeout_seconds: float,
        credential_provider: CredentialProvider | None,
        most: int = 1,
    ) -> ConnectionPool:
        """Return a pool whose connections have a name that shows role, host and process.

        `timeout_seconds` is the longest wait for a reply, and for a connection of the pool.
        """
        make_connector = partial(
            connector_of_process,
            redis_url,
            key=key,
            reply_timeout_seconds=timeout_seconds,
            role=role,
            credential_provider=credential_provider,
        )
        return cls(make_connector, most=most, wait_seconds=timeout_seconds)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Lend a connection to the calling thread.

        Blocks as `Connection.is_stale()` does, and up to `wait_seconds` while all are lent; raises
        `RedisUnavailable` if they still are. A connection that the server has closed meanwhile, or
        that was not used for KEEP_SECONDS, is opened anew when it is used; so is one that was not
        used for TRUST_SECONDS and over which no answer comes, for which it blocks up to
        ANSWER_SECONDS. After an error a connection is closed, unless the error leaves it usable.
        """
        connections = self._connections.get()
        if not connections.free.acquire(timeout=self._wait_seconds):
            raise RedisUnavailable(
                f"all {self._most} connections are in use, and none became free within "
                f"{self._wait_seconds:g} s; nothing was sent"
            )
        try:
            connection = self._take(connections)
            try:
                yield connection
            except BaseException as error:
                # After a refusal the connection is usable. After RedisUnavailable another server
                # may be able to serve. After any other error a reply may be left unread.
                if not isinstance(error, SharedSyncError) or isinstance(error, RedisUnavailable):
                    connection.close()
                raise
            finally:
                self._put_back(connections.idle, connection)
        finally:
            connections.free.release()

    def call(self, *command: object) -> Any:
        """Send one command over a connection that is lent for it; see `Connection.call()`."""
        with self.connection() as connection:
            return connection.call(*command)

    def _take(self, connections: _Connections) -> Connection:
        try:
            returned_at, connection = connections.idle.pop()
        except IndexError:
            return Connection(connections.connect)
        unused_seconds = self._clock() - returned_at
        if unused_seconds > KEEP_SECONDS or connection.is_stale():
            connection.close()
        elif unused_seconds > TRUST_SECONDS:
            connection.answers(min(ANSWER_SECONDS, self._wait_seconds))
        return connection

    def _put_back(self, idle: deque[tuple[float, Connection]], connection: Connection) -> None:
        """Keep a connection, and close those that were kept for KEEP_SECONDS, as after a rush."""
        now = self._clock()
        idle.append((now, connection))
        while True:
            try:
                if now - idle[0][0] <= KEEP_SECONDS:
                    return
                returned_at, oldest = idle.popleft()
            except IndexError:  # other threads have taken them
                return
            if now - returned_at <= KEEP_SECONDS:  # another thread has taken the oldest
                idle.append((returned_at, oldest))
                return
            oldest.close()

    def close(self) -> None:
        """Close the connections that are not in use. The pool may be used again."""
        idle = self._connections.get().idle
        while True:
            try:
                _, connection = idle.pop()
            except IndexError:
                return
            connection.close()
