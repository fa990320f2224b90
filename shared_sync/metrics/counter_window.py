"""What counters stood at some minutes ago, so that their growth can be told."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

from shared_sync.metrics.histogram import SLICES

K = TypeVar("K", bound=Hashable)


class Marks(Generic[K]):
    """Copies of all counters, one for each tenth of the window; the caller guards it.

    Times are in seconds of one clock that never runs backwards. Where nobody came by for long, the
    window reaches back to the mark before.
    """

    def __init__(self, window_seconds: float, now: float) -> None:
        self._window_seconds = window_seconds
        self._marks: deque[tuple[float, Mapping[K, float]]] = deque([(now, {})])

    def due(self, now: float) -> bool:
        """Whether it is time for the next mark."""
        return now - self._marks[-1][0] >= self._window_seconds / SLICES

    def add(self, now: float, counters: Mapping[K, float]) -> None:
        """Keep these counters, which nobody may change any more, as those of `now`."""
        self._marks.append((now, counters))
        self._drop_what_is_too_old(now)

    def base(self, now: float) -> tuple[float, Mapping[K, float]]:
        """Return the youngest mark that is at least a window old, or the first one."""
        self._drop_what_is_too_old(now)
        return self._marks[0]

    def _drop_what_is_too_old(self, now: float) -> None:
        horizon = now - self._window_seconds
        while len(self._marks) > 1 and self._marks[1][0] <= horizon:
            self._marks.popleft()
