"""Whether Redis answers: the state of all connections of one consumer, and the log of an outage."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from shared_sync.common.fork import renew_lock_in_forks
from shared_sync.common.guarded import Logger
from shared_sync.common.outage import Outage
from shared_sync.errors import (
    RedisAccessDenied,
    RedisRefused,
    RedisUnavailable,
    SharedSyncError,
)

REPEAT_SECONDS: Final = 60.0
"""Time after which the same cause may be logged again during one outage."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The error that a user of Redis met last."""

    code: str | None
    """The code of the refusal, such as WRONGTYPE; None if Redis did not answer."""

    text: str

    cause: str
    """What is the same for each failure of this kind."""


class Availability:
    """The state of Redis for one consumer. Shared by its threads; safe from any thread.

    Each user of Redis, such as a reader or the heartbeat, reports under its own name how its last
    exchange went. Redis counts as failing while any of them fails. An outage is logged when it
    begins, when its cause changes, and, with its length, when it ends.
    """

    def __init__(
        self,
        address: str,
        logger: Logger,
        clock: Callable[[], float] = time.monotonic,
        *,
        on_return: Callable[[float], object] = lambda _: None,
    ) -> None:
        """`on_return` is called at the end of an outage, with its length in seconds."""
        # Fixed after construction.
        self.address = address
        """Where Redis is, without passwords."""
        self._on_return = on_return
        self._logger = logger
        self._clock = clock
        self._outage = Outage(clock)
        # Written by any thread, each time as a whole; an old value does no harm.
        self.answered_at = clock()
        """When Redis last answered, by the monotonic clock."""
        # Guarded by the lock; read without it where an old value does no harm. Re-entrant, because
        # a signal handler may ask for the state while its own thread is in here.
        self._lock = threading.RLock()
        renew_lock_in_forks(self)
        self._reached = False
        self._failing: dict[str, Failure] = {}
        self._logged_at: dict[str, float] = {}
        """When each cause of this outage was logged last."""
        self._without_group: set[str] = set()

    @property
    def connected(self) -> bool:
        """Whether the last exchange of every user of Redis succeeded, and there was one."""
        return self._reached and not self._failing

    @property
    def group_missing(self) -> bool:
        """Whether a user of Redis found the group gone, and has not succeeded since."""
        return bool(self._without_group)

    def failures(self) -> list[Failure]:
        """The failure of each user of Redis whose last exchange failed."""
        with self._lock:
            return list(self._failing.values())

    def failed(self, user: str, error: SharedSyncError) -> None:
        """Report that an exchange with Redis failed.

        The first failure of an outage is logged, and a failure whose cause no other user of Redis
        has now; but each cause once a minute at most, because two causes may alternate.
        """
        # Not the error, which keeps frames alive.
        failure = Failure(_code_of(error), str(error), _cause_of(error))
        with self._lock:
            known = {each.cause for each in self._failing.values()}
            self._failing[user] = failure
            now = self._clock()
            is_first = self._outage.begins()
            if is_first:
                self._logged_at.clear()
            elif failure.cause in known or now < self._logged_until(failure.cause):
                return
            self._logged_at[failure.cause] = now
        what = "fails" if is_first else "now fails for another cause"
        self._logger.warning(
            "Redis at %s %s: %s; trying again until it answers", self.address, what, error
        )

    def _logged_until(self, cause: str) -> float:
        return self._logged_at.get(cause, -math.inf) + REPEAT_SECONDS

    def found_no_group(self, user: str) -> None:
        """Report that Redis answered that the group does not exist."""
        with self._lock:
            self._without_group.add(user)

    def succeeded(self, user: str) -> None:
        """Report that an exchange with Redis succeeded; the end of an outage is logged."""
        self.answered_at = self._clock()
        if self._reached and not self._failing and not self._without_group:
            return
        with self._lock:
            self._reached = True
            self._failing.pop(user, None)
            self._without_group.discard(user)
            seconds = None if self._failing else self._outage.ends()
        if seconds is not None:
            self._on_return(seconds)
            self._logger.info("Redis at %s answers again after %.1f s", self.address, seconds)


def _code_of(error: SharedSyncError) -> str | None:
    if isinstance(error, RedisRefused):
        return error.code
    return "no access" if isinstance(error, RedisAccessDenied) else None


def _cause_of(error: SharedSyncError) -> str:
    if isinstance(error, RedisRefused):
        return error.code
    return error.cause if isinstance(error, RedisUnavailable) else type(error).__name__
