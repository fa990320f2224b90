"""A clock for how long others have taken, that counts no time in which nobody could run."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic


class PatientClock:
    """A clock that goes only while the interpreter runs, for judging how long a call takes.

    It advances when it is moved, by `longest_step_seconds` at most. Moved more often than that, it
    stands still while a C extension holds the interpreter lock or the whole process is frozen:
    nobody is late then who could not run.

    One thread moves it at a time; any may read it.
    """

    def __init__(self, longest_step_seconds: float, clock: Callable[[], float] = monotonic) -> None:
        # Fixed after construction.
        self._longest_step_seconds = longest_step_seconds
        self._clock = clock
        # Owned by whoever moves it.
        self._moved_at = clock()
        # Replaced by whoever moves it; a float, so that reading it is whole.
        self._now = 0.0

    def __call__(self) -> float:
        return self._now

    def move(self) -> None:
        """Advance by the time that has passed, or by the longest step if that is less."""
        now = self._clock()
        self._now += min(now - self._moved_at, self._longest_step_seconds)
        self._moved_at = now
