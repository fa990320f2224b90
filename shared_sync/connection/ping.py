"""Whether a Redis answers: one question, over a connection kept from one time to the next."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from shared_sync.common.fork import PerProcess
from shared_sync.connection import connection as redis_connection
from shared_sync.connection import discovery, url
from shared_sync.connection.connection import Connect
from shared_sync.errors import RedisAccessDenied, SharedSyncError

_UNANSWERED: Final = "Redis has not answered"
_DENIED: Final = "Redis refuses this user"


class RedisPing:
    """A check to call now and then, by one thread at a time. Nothing is connected before that."""

    def __init__(
        self,
        redis_url: str,
        *,
        timeout_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises `ConfigurationError` for a `redis_url` that cannot be used."""
        connect = discovery.connector(redis_url, key=None, reply_timeout_seconds=timeout_seconds)
        self._address = url.safe_address(redis_url)
        # Each process's own: two that share a connection would read each other's replies.
        self._lines = PerProcess(partial(_Line, connect, clock))

    def __call__(self) -> dict[str, Any]:
        try:
            seconds = self._lines.get().round_trip()
        except SharedSyncError as error:
            return {
                "status": "unhealthy",
                "reasons": [_DENIED if isinstance(error, RedisAccessDenied) else _UNANSWERED],
                "round_trip_ms": None,
                "details": {"address": self._address, "error": str(error)},
            }
        return {"round_trip_ms": round(1000 * seconds, 3), "details": {"address": self._address}}


class _Line:
    """One connection, opened when it is needed; owned by the thread that asks."""

    def __init__(self, connect: Connect, clock: Callable[[], float]) -> None:
        self._connection = connect()
        weakref.finalize(self, self._connection.disconnect)  # not every driver does so by itself
        self._clock = clock
        self._open = False
        self._question = "PING"

    def round_trip(self) -> float:
        """Ask, and return the seconds that the answer took. An error closes the connection."""
        try:
            if self._open and self._is_stale():
                self._close()
            if not self._open:
                self._connection.connect()
                self._open = True
            began = self._clock()
            self._ask()
            return self._clock() - began
        except Exception as error:  # noqa: BLE001 - translated, whatever it is
            self._close()
            raise redis_connection.translate(error) from None

    def _ask(self) -> None:
        """Ask for PING, which a server that still loads its data refuses, else for TIME.

        TIME is among the rights that a worker needs, and PING is not.
        """
        try:
            self._exchange(self._question)
        except Exception as error:
            if self._question == "TIME" or not isinstance(
                redis_connection.translate(error), RedisAccessDenied
            ):
                raise
            self._exchange("TIME")
            self._question = "TIME"

    def _exchange(self, command: str) -> None:
        packed = self._connection.pack_commands([(command,)])
        self._connection.send_packed_command(packed, check_health=False)
        self._connection.read_response()

    def _is_stale(self) -> bool:
        """Whether the server has closed the connection meanwhile, as one that was restarted."""
        try:
            return self._connection.can_read(0)
        except Exception:  # noqa: BLE001 - whatever it is, this connection is of no use
            return True

    def _close(self) -> None:
        self._open = False
        self._connection.disconnect()
