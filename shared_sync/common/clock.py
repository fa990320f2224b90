"""A clock that does not count the time in which no thread of the process could run."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic


class StallTolerantClock:
    """A clock to judge how long something has taken, with stalls of the process left out.

    The clock moves only when `advance` is called, and then by `longest_step_seconds` at most. If
    `advance` is called more often than that, the clock keeps pace with the time, except during a
    stall: while a C extension holds the interpreter lock, or while the machine is suspended, nobody
    calls `advance`, and the whole stall counts as one step. So nothing is late because of a stall.

    One thread at a time calls `advance`; a signal handler may call it in the middle of another
    call. Any thread may read the clock.
    """

    def __init__(self, longest_step_seconds: float, clock: Callable[[], float] = monotonic) -> None:
        # Fixed after construction.
        self._longest_step_seconds = longest_step_seconds
        self._clock = clock
        # Written by `advance` alone; any thread may read the seconds.
        self._advanced_at = clock()
        self._seconds = 0.0

    def __call__(self) -> float:
        """Return the seconds that have been counted since construction."""
        return self._seconds

    def advance(self) -> float:
        """Count the time since the last call, or the longest step if that is less.

        Returns the new reading.
        """
        now = self._clock()
        passed = now - self._advanced_at
        if passed > 0.0:  # not if a signal handler has advanced the clock since the line above
            self._advanced_at = now
            self._seconds += min(passed, self._longest_step_seconds)
        return self._seconds
