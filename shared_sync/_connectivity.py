"""Whether Redis answers: the first failure is told, then silence, then the recovery."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from shared_sync.errors import SharedSyncError


class Connectivity:
    """Shared by all that talk to Redis for one consumer. Safe from any thread."""

    def __init__(
        self,
        address: str,
        logger: logging.Logger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._logger = logger
        self._clock = clock
        # Guarded by the lock; read without it where a moment late does no harm.
        self._lock = threading.Lock()
        self._reached = False
        self._down_since: float | None = None

    @property
    def connected(self) -> bool:
        """Whether the last exchange with Redis, by whichever thread, went well."""
        return self._reached and self._down_since is None

    def failed(self, error: SharedSyncError) -> None:
        with self._lock:
            first = self._down_since is None
            if first:
                self._down_since = self._clock()
        if first:
            self._logger.warning(
                "Redis at %s fails: %s; trying again until it answers", self._address, error
            )

    def succeeded(self) -> None:
        if self._reached and self._down_since is None:
            return
        with self._lock:
            self._reached = True
            since, self._down_since = self._down_since, None
        if since is not None:
            self._logger.info(
                "Redis at %s answers again after %.1f s", self._address, self._clock() - since
            )
