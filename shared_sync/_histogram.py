"""Where durations are kept: how many fell into which of 1281 fixed buckets.

A bucket is 2 % wide, so a quantile is wrong by at most 1 %, whatever the shape of the data, and a
histogram takes 10 KB, however many durations it has seen. Lengths from 1 µs to 100,000 s are told
apart; shorter and longer ones share the first and the last bucket.

Nothing here locks: whoever owns a histogram guards it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from itertools import accumulate
from math import ceil, floor, inf, log
from operator import add

SHORTEST_SECONDS = 1e-6
LONGEST_SECONDS = 1e5
GAMMA = 1.02  # the upper edge of a bucket divided by its lower edge
_PER_LOG = 1 / log(GAMMA)
_OFFSET = 1 - log(SHORTEST_SECONDS) * _PER_LOG
_LAST = int(log(LONGEST_SECONDS) * _PER_LOG + _OFFSET)
_EMPTY = array("Q", bytes(8 * (_LAST + 1)))

SLICES = 10  # of a sliding window


def bucket_of(seconds: float) -> int:
    """Return the index in `Histogram.counts` for a duration of 0 seconds or more."""
    if seconds < SHORTEST_SECONDS:
        return 0
    if seconds > LONGEST_SECONDS:
        return _LAST
    return int(log(seconds) * _PER_LOG + _OFFSET)


class Histogram:
    """Counts of durations by bucket, with their exact number, sum, minimum and maximum.

    All fields are public so that a writer that holds a lock can do what `record` does in place.
    `low` is infinite and `high` is 0 until something was recorded. Durations are in seconds.
    """

    __slots__ = ("count", "counts", "high", "low", "total")

    def __init__(self) -> None:
        self.counts = _EMPTY[:]
        self.count = 0
        self.total = 0.0
        self.low = inf
        self.high = 0.0

    def record(self, seconds: float) -> None:
        """Count one duration of 0 or more, finite seconds."""
        self.counts[bucket_of(seconds)] += 1
        self.count += 1
        self.total += seconds
        self.low = min(self.low, seconds)
        self.high = max(self.high, seconds)

    def copy(self) -> Histogram:
        """Return an equal histogram that shares nothing with this one."""
        twin = Histogram()
        twin.counts = self.counts[:]
        twin.count, twin.total, twin.low, twin.high = self.count, self.total, self.low, self.high
        return twin

    def merge(self, other: Histogram) -> None:
        """Add everything `other` has counted, as if it had been recorded here."""
        if other.count:
            used = slice(bucket_of(other.low), bucket_of(other.high) + 1)
            self.counts[used] = array("Q", map(add, self.counts[used], other.counts[used]))
            self.count += other.count
            self.total += other.total
            self.low = min(self.low, other.low)
            self.high = max(self.high, other.high)

    def mean(self) -> float | None:
        """Return the exact mean in seconds, or None if nothing was recorded."""
        return self.total / self.count if self.count else None

    def maximum(self) -> float | None:
        """Return the longest duration in seconds, exactly, or None if nothing was recorded."""
        return self.high if self.count else None

    def quantile(self, share: float) -> float | None:
        """Return the shortest duration that at least `share` (0 to 1) of all do not exceed.

        At most 1 % off between 1 µs and 100,000 s, and never outside of what was recorded. None if
        nothing was.
        """
        if not self.count:
            return None
        rank = max(1, ceil(share * self.count))
        if rank == self.count:
            return self.high
        bucket = bisect_left(list(accumulate(self.counts)), rank)
        # 2 / (GAMMA + 1) of the upper edge is equally far, as a ratio, from both edges.
        middle = SHORTEST_SECONDS * GAMMA**bucket * 2 / (GAMMA + 1)
        return min(max(middle, self.low), self.high)

    def count_up_to(self, seconds: float) -> int:
        """Return how many durations were at most `seconds`, counting up to 2 % longer ones in."""
        return sum(self.counts[: bucket_of(seconds) + 1])


class SlidingHistogram:
    """A histogram of a whole life that can also tell what happened in its last few minutes.

    Time is cut into slices of a tenth of the window, each with a histogram of its own; slices that
    have left the window are added up in one more. So `recent` looks back over the window and at
    most one slice further, and all of it takes at most 12 histograms.

    Write to `current` while the clock is before `ends`, and call `turn` first once it is not.
    Times are in seconds of one clock that never runs backwards. `last` is the newest duration.
    """

    __slots__ = ("_closed", "_past", "_slice_seconds", "_window_seconds", "current", "ends", "last")

    def __init__(self, window_seconds: float, now: float) -> None:
        self._window_seconds = window_seconds
        self._slice_seconds = window_seconds / SLICES
        self._past = Histogram()
        self._closed: deque[tuple[float, Histogram]] = deque()  # (end, slice), never written again
        self.last: float | None = None
        self._open(now)

    def _open(self, now: float) -> None:
        self.current = Histogram()
        self.ends = (floor(now / self._slice_seconds) + 1) * self._slice_seconds

    def turn(self, now: float) -> None:
        """Close the current slice and open the one that `now` falls into."""
        self._closed.append((self.ends, self.current))
        while self._closed and self._closed[0][0] <= now - self._window_seconds:
            self._past.merge(self._closed.popleft()[1])
        self._open(now)

    def copy(self) -> SlidingHistogram:
        """Return a copy to read from. Quick, because closed slices are shared."""
        twin = SlidingHistogram.__new__(SlidingHistogram)
        twin._window_seconds = self._window_seconds
        twin._slice_seconds = self._slice_seconds
        twin._past = self._past.copy()
        twin._closed = self._closed.copy()
        twin.current = self.current.copy()
        twin.ends = self.ends
        twin.last = self.last
        return twin

    def recent(self, now: float) -> Histogram:
        """Return what was recorded within the window before `now`."""
        whole = Histogram()
        for ends, part in (*self._closed, (self.ends, self.current)):
            if ends > now - self._window_seconds:
                whole.merge(part)
        return whole

    def lifetime(self) -> Histogram:
        """Return all that was ever recorded."""
        whole = self._past.copy()
        for part in (*(part for _, part in self._closed), self.current):
            whole.merge(part)
        return whole
