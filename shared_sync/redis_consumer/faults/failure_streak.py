"""Failures in a row of different messages: this worker may be at fault, so it takes fewer messages.

A worker that fails every message at once is a black hole: it is always free, so it takes most of
the messages, and turns them into dead letters although others could have run them. It pauses
instead, and tries one message at a time, until one succeeds.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Final

from shared_sync.common import backoff
from shared_sync.common.fork import renew_lock_in_forks
from shared_sync.redis_consumer.failures import Failure
from shared_sync.redis_consumer.faults.pauses import Pauses

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS: Final = 60.0
_NAME: Final = "failures in a row"


class FailureStreak:
    """Counts failures in a row of one pool, and pauses it. Any thread may call any method.

    Failures are of one kind if they have the same type. Their texts may contain what differs from
    message to message.
    """

    def __init__(
        self,
        limit: int | None,
        *,
        pauses: Pauses,
        successes: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`successes` returns how many messages have been finished so far; None is no limit."""
        # Fixed after construction.
        self._limit = limit
        self._pauses = pauses
        self._successes = successes
        self._clock = clock
        self._chance = chance
        # Guarded by the lock.
        self._lock = threading.RLock()
        renew_lock_in_forks(self)
        self._successes_before = 0
        self._kind = ""
        self._messages: set[str] = set()
        """The ids of those that have failed in a row."""
        self._trials_failed = 0
        self._paused_until: float | None = None
        """When the next message is tried, on the monotonic clock; None if it does not pause."""

    def failed(self, message_id: str, failure: Failure, *, again: bool = False) -> None:
        """Count a failure; pause if there are too many of them.

        `again` says that the message has failed on this consumer before. That it does so once more
        tells nothing new about the consumer, so it makes no pause longer.
        """
        if self._limit is None:
            return
        with self._lock:
            self._end_at_success()
            if self._paused_until is not None:
                if self._clock() >= self._paused_until:  # else it had begun before the pause
                    self._trials_failed += not again
                    self._pause(failure)
                return
            if again:
                return
            if failure.error_type != self._kind:
                self._kind = failure.error_type
                self._messages.clear()
            self._messages.add(message_id)
            if len(self._messages) >= self._limit:
                self._pause(failure)

    def succeeded(self) -> None:
        """Note that a message has succeeded together with those that fail next."""
        with self._lock:
            self._messages.clear()

    def check(self) -> None:
        """End the pause if a message has succeeded. To be called while the pool pauses."""
        with self._lock:
            self._end_at_success()

    def _end_at_success(self) -> None:
        successes = self._successes()
        if successes > self._successes_before:
            self._successes_before = successes
            self._messages.clear()
            if self._paused_until is not None:
                self._paused_until, self._trials_failed = None, 0
                self._pauses.release(_NAME)

    def _pause(self, failure: Failure) -> None:
        delay = backoff.exponential(
            1 + self._trials_failed,
            base_seconds=FIRST_PAUSE_SECONDS,
            max_seconds=LONGEST_PAUSE_SECONDS,
            jitter=0.25,
            chance=self._chance,
        )
        self._paused_until = until = self._clock() + delay
        count = len(self._messages) + self._trials_failed
        self._pauses.hold(
            _NAME,
            f"{count} failures in a row here, the last with {failure.error_type}",
            until=until,
            trials=True,
            error=failure.error,
        )
