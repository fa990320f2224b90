"""When to log that something fails: the first failure, then nothing, then the recovery."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from shared_sync.common.fork import renew_lock_in_forks


class Outage:
    """Remembers whether something fails, so that one outage is logged once and not at each try.

        if outage.begins(cause):
            logger.warning("Redis fails: %s", cause)
        ...
        if (seconds := outage.ends()) is not None:
            logger.info("Redis answers again after %.1f s", seconds)

    It writes no log itself, as texts and levels belong to whoever knows what fails. Never blocks.
    Safe from any thread, and from a signal handler in the middle of another call.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        # Fixed after construction.
        self._clock = clock
        # Guarded by the lock.
        self._lock = threading.RLock()
        renew_lock_in_forks(self)
        self._since: float | None = None
        self._cause = ""

    def begins(self, cause: str = "", *, since: float | None = None) -> bool:
        """Note a failure. Returns whether to log it: whether it is the first, or has a new cause.

        `cause` must be the same text for failures that need no second line in the log, so leave
        out what differs each time, such as ids. `since` is when the failure began, on the clock;
        None for now.
        """
        with self._lock:
            is_new = self._since is None or cause != self._cause
            if self._since is None:
                self._since = self._clock() if since is None else since
            self._cause = cause
            return is_new

    def ends(self) -> float | None:
        """Note a success. Returns the length of the outage in seconds, None if there was none."""
        with self._lock:
            if self._since is None:
                return None
            seconds = self._clock() - self._since
            self._since = None
            return seconds
