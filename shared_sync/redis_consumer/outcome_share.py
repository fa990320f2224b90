"""Counts outcomes: all of them, and the share of failures among those of the last minutes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

WINDOW_SECONDS: Final = 300.0
SLICE_SECONDS: Final = 10.0
LEAST_OUTCOMES: Final = 20
"""With fewer, a share says nothing."""


class Totals(NamedTuple):
    """How many messages had each outcome, since the consumer was made."""

    done: int = 0
    retried: int = 0
    """Failed, and are to be tried again."""
    dead: int = 0
    """Became dead letters."""


class OutcomeShare:
    """Counts outcomes. Any thread may call any method; none blocks."""

    def __init__(self, limit: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        """`limit` is the largest share that is not reported; None for no limit."""
        # Fixed after construction.
        self._limit = limit
        self._clock = clock
        # Guarded by the lock, which is re-entrant: a signal handler may ask for the health.
        self._lock = threading.RLock()
        self._slices: deque[list[float]] = deque()
        """For each slice of time: when it began, and the numbers of good and bad outcomes."""
        self._done = self._retried = self._dead = 0

    @property
    def totals(self) -> Totals:
        """All outcomes so far."""
        with self._lock:
            return Totals(self._done, self._retried, self._dead)

    def count(self, *, done: int = 0, retried: int = 0, dead: int = 0) -> None:
        """Count outcomes that Redis has confirmed."""
        with self._lock:
            self._done += done
            self._retried += retried
            self._dead += dead
            now = self._clock()
            slices = self._slices
            if not slices or now - slices[-1][0] >= SLICE_SECONDS:
                slices.append([now, 0, 0])
                self._expire(now)
            newest = slices[-1]
            newest[1] += done
            newest[2] += retried + dead

    def reason(self) -> str | None:
        """Return why the share is too large, or None if it is not."""
        with self._lock:
            self._expire(self._clock())
            good = sum(piece[1] for piece in self._slices)
            bad = sum(piece[2] for piece in self._slices)
        outcomes = good + bad
        if self._limit is None or outcomes < LEAST_OUTCOMES or bad <= self._limit * outcomes:
            return None
        return (
            f"{100 * bad / outcomes:.0f} % of the last {outcomes:.0f} outcomes are failures or "
            f"dead letters, more than {100 * self._limit:.0f} % (max_failure_share); the log and "
            "the dead letters have their causes"
        )

    def _expire(self, now: float) -> None:
        slices = self._slices
        while slices and now - slices[0][0] >= WINDOW_SECONDS:
            slices.popleft()
