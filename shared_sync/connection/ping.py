"""Whether a Redis answers: one command, over a connection that is kept between calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from shared_sync.connection import url
from shared_sync.connection.connection import Connection
from shared_sync.connection.credentials import CredentialProvider
from shared_sync.connection.pool import ConnectionPool
from shared_sync.errors import RedisAccessDenied, SharedSyncError

_UNANSWERED: Final = "Redis has not answered"
_DENIED: Final = "Redis refuses this user"


class RedisPing:
    """A health check that asks Redis for a reply. For one thread at a time.

    Nothing is connected before the first call. Each call blocks up to `timeout_seconds` for the
    reply, and as long again where it has to connect.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        timeout_seconds: float,
        credential_provider: CredentialProvider | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises `ConfigurationError` for a `redis_url` that cannot be used."""
        # Fixed after construction.
        self._address = url.safe_address(redis_url)
        self._clock = clock
        self._connections = ConnectionPool.of_process(
            redis_url,
            key=None,
            role="check",
            timeout_seconds=timeout_seconds,
            credential_provider=credential_provider,
        )
        # Owned by the calling thread.
        self._command = "PING"

    def __call__(self) -> dict[str, Any]:
        """Health data with the seconds that the reply took; raises nothing about Redis."""
        try:
            with self._connections.connection() as connection:
                seconds = self._round_trip(connection)
        except SharedSyncError as error:
            self._connections.close()
            return {
                "status": "unhealthy",
                "reasons": [_DENIED if isinstance(error, RedisAccessDenied) else _UNANSWERED],
                "round_trip_ms": None,
                "details": {"address": self._address, "error": str(error)},
            }
        return {"round_trip_ms": round(1000 * seconds, 3), "details": {"address": self._address}}

    def _round_trip(self, connection: Connection) -> float:
        """Seconds that the reply took.

        PING is sent first, which a server that still loads its data refuses; to a user who may
        not PING it is TIME from then on, which is among the rights that a worker needs.
        """
        connection.open()
        try:
            return self._time(connection, self._command)
        except RedisAccessDenied:
            if self._command == "TIME":
                raise
        connection.open()
        seconds = self._time(connection, "TIME")
        self._command = "TIME"
        return seconds

    def _time(self, connection: Connection, command: str) -> float:
        began = self._clock()
        connection.call(command)
        return self._clock() - began
