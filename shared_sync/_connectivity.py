"""Whether Redis answers: the first failure is told, then silence, then the recovery."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from shared_sync._guarded import Logger
from shared_sync.errors import SharedSyncError


class Connectivity:
    """Shared by all that talk to Redis for one consumer. Safe from any thread."""

    def __init__(
        self,
        address: str,
        logger: Logger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._logger = logger
        self._clock = clock
        # Guarded by the lock; read without it where a moment late does no harm.
        self._lock = threading.Lock()
        self._reached = False
        self._failing: set[str] = set()
        self._down_since = 0.0

    @property
    def connected(self) -> bool:
        """Whether the last exchange with Redis went well, for everyone who had one."""
        return self._reached and not self._failing

    def failed(self, who: str, error: SharedSyncError) -> None:
        with self._lock:
            first = not self._failing
            self._failing.add(who)
            if first:
                self._down_since = self._clock()
        if first:
            self._logger.warning(
                "Redis at %s fails: %s; trying again until it answers", self._address, error
            )

    def succeeded(self, who: str) -> None:
        if self._reached and not self._failing:
            return
        with self._lock:
            self._reached = True
            was_failing = bool(self._failing)
            self._failing.discard(who)
            recovered = was_failing and not self._failing
            seconds = self._clock() - self._down_since
        if recovered:
            self._logger.info("Redis at %s answers again after %.1f s", self._address, seconds)
