"""Connections to one server, lent to one thread at a time and kept for the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shared_sync.common.fork import PerProcess
from shared_sync.connection.connection import Connect, Connection
from shared_sync.errors import RedisUnavailable, SharedSyncError


class _Idle:
    """The connections of one process that no thread uses at the moment."""

    def __init__(self, connect: Connect) -> None:
        self.connect = connect
        # Any thread appends and pops, which needs no lock.
        self.connections: deque[Connection] = deque()


class ConnectionPool:
    """Lends connections, and opens as many as there are threads that use one at the same time.

    Safe from any thread. A forked process gets connections of its own: it must not read replies to
    its parent. It does not close the connections of its parent either, as that would close them at
    the server.
    """

    def __init__(self, make_connector: Callable[[], Connect]) -> None:
        """`make_connector` is called here and once in each fork; what it raises comes through."""
        self._idle = PerProcess(lambda: _Idle(make_connector()))
        self._idle.get()

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Lend a connection to the calling thread. Blocks as `Connection.is_stale()` does.

        A connection that the server has closed meanwhile is opened anew when it is used. After an
        error a connection is closed, unless the error leaves it usable.
        """
        idle = self._idle.get()
        try:
            connection = idle.connections.pop()
        except IndexError:
            connection = Connection(idle.connect)
        if connection.is_stale():
            connection.close()
        try:
            yield connection
        except BaseException as error:
            # After a refusal the connection is usable. After RedisUnavailable another server may be
            # able to serve. After any other error a reply may be left unread.
            if not isinstance(error, SharedSyncError) or isinstance(error, RedisUnavailable):
                connection.close()
            raise
        finally:
            idle.connections.append(connection)

    def close(self) -> None:
        """Close the idle connections. The pool may be used again."""
        connections = self._idle.get().connections
        while connections:
            connections.pop().close()
