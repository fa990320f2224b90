"""How much counters have grown within the last few minutes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

from shared_sync.metrics.sliding_window import SlidingWindow

K = TypeVar("K", bound=Hashable)


class CounterWindow(Generic[K]):
    """Remembers the totals of all counters, once for each slice of a sliding window.

    The growth of a counter is its total now, less its total in `base`. If nobody adds totals for
    long, the base stays where it was, and so the growth covers more than the window.

    Not thread-safe: the caller holds a lock. Times are seconds of one clock that never runs
    backwards.
    """

    def __init__(self, window_seconds: float, now: float) -> None:
        """Begin at `now`, when all counters stand at zero."""
        self._window: SlidingWindow[Mapping[K, float]] = SlidingWindow(window_seconds)
        self._base: tuple[float, Mapping[K, float]] = (now, {})
        self._added_at = now

    def is_due(self, now: float) -> bool:
        """Return whether a slice has passed since totals were last added."""
        return now - self._added_at >= self._window.slice_seconds

    def add(self, now: float, totals: Mapping[K, float]) -> None:
        """Remember the totals of `now`. Nobody may change the mapping any more."""
        self._window.add(now, totals)
        self._added_at = now
        self._expire(now)

    def base(self, now: float) -> tuple[float, Mapping[K, float]]:
        """Return the newest totals that are at least a window old, and when they were added.

        In the first window these are the zeros of the beginning.
        """
        self._expire(now)
        return self._base

    def _expire(self, now: float) -> None:
        expired = self._window.expire(now)
        if expired:
            self._base = expired[-1]
