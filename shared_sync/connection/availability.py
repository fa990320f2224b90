"""Whether Redis answers: the first failure is told, then silence, then the recovery."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from shared_sync.common.guarded import Logger
from shared_sync.errors import RedisAccessDenied, RedisRefused, SharedSyncError


@dataclass(frozen=True, slots=True)
class Failure:
    """What became of somebody's last exchange with Redis."""

    code: str | None
    """What Redis says no with, such as WRONGTYPE; None where it does not answer."""

    text: str


class Connectivity:
    """Shared by all that talk to Redis for one consumer. Safe from any thread."""

    def __init__(
        self,
        address: str,
        logger: Logger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Fixed after construction.
        self.address = address
        """Where Redis is, without passwords."""
        self._logger = logger
        self._clock = clock
        # Written by all, each time as a whole; a moment that is a little late does no harm.
        self.answered_at = clock()
        """When Redis last answered anyone, by the monotonic clock."""
        # Guarded by the lock; read without it where a moment late does no harm. Re-entrant, because
        # a signal handler may ask how Redis is while its own thread is in here.
        self._lock = threading.RLock()
        self._reached = False
        self._failing: dict[str, Failure] = {}
        self._groupless: set[str] = set()
        self._down_since = 0.0

    @property
    def connected(self) -> bool:
        """Whether the last exchange with Redis went well, for everyone who had one."""
        return self._reached and not self._failing

    @property
    def group_missing(self) -> bool:
        """Whether somebody found the group gone, and nobody has seen to it since."""
        return bool(self._groupless)

    def failures(self) -> list[Failure]:
        """What is the matter, for each whose last exchange failed."""
        with self._lock:
            return list(self._failing.values())

    def failed(self, who: str, error: SharedSyncError) -> None:
        failure = Failure(_code_of(error), str(error))  # not the error, which holds on to frames
        with self._lock:
            first = not self._failing
            self._failing[who] = failure
            if first:
                self._down_since = self._clock()
        if first:
            self._logger.warning(
                "Redis at %s fails: %s; trying again until it answers", self.address, error
            )

    def found_no_group(self, who: str) -> None:
        """Redis answered that the group is not there."""
        with self._lock:
            self._groupless.add(who)

    def succeeded(self, who: str) -> None:
        self.answered_at = self._clock()
        if self._reached and not self._failing and not self._groupless:
            return
        with self._lock:
            self._reached = True
            was_failing = bool(self._failing)
            self._failing.pop(who, None)
            self._groupless.discard(who)
            recovered = was_failing and not self._failing
            seconds = self._clock() - self._down_since
        if recovered:
            self._logger.info("Redis at %s answers again after %.1f s", self.address, seconds)


def _code_of(error: SharedSyncError) -> str | None:
    if isinstance(error, RedisRefused):
        return error.code
    return "no access" if isinstance(error, RedisAccessDenied) else None
