"""Where durations are kept: how many fell into which of 1164 fixed buckets.

A bucket is 2 % wide, so a quantile is wrong by at most 1 %, whatever the shape of the data, and no
bucket has to be chosen in advance. Lengths from 10 µs to 100,000 s are told apart; shorter and
longer ones share the first and the last bucket. The idea of buckets that grow by a constant factor,
which makes the relative error constant and histograms mergeable, is that of DDSketch (Masson, Rim,
Lee: "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees", 2019).

Nothing here locks: whoever owns a histogram guards it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import ceil, floor, inf, log
from operator import add

SHORTEST_SECONDS = 1e-5
LONGEST_SECONDS = 1e5
GAMMA = 1.02  # the upper edge of a bucket divided by its lower edge
PER_LOG = 1 / log(GAMMA)
OFFSET = 1 - log(SHORTEST_SECONDS) * PER_LOG
"""Bucket of a length between the shortest and the longest: `int(log(seconds) * PER_LOG + OFFSET)`,
for those who cannot afford a call."""

_LAST = int(log(LONGEST_SECONDS) * PER_LOG + OFFSET)
_EMPTY = [0] * (_LAST + 1)

SLICES = 10  # of a sliding window


def bucket_of(seconds: float) -> int:
    """Return the bucket of a duration of 0 seconds or more."""
    if seconds < SHORTEST_SECONDS:
        return 0
    if seconds > LONGEST_SECONDS:
        return _LAST
    return int(log(seconds) * PER_LOG + OFFSET)


def upper_edge(bucket: int) -> float:
    """Return the length in seconds at which the next bucket begins."""
    return float(SHORTEST_SECONDS * GAMMA**bucket)


class Histogram:
    """Durations counted by bucket, with their exact sum, minimum and maximum, in seconds.

    Never changes after construction. Only the buckets between the first and the last one in use
    are kept, each in as few bytes as the largest count needs: some hundred bytes for durations
    within a factor of ten of each other, 10 KB at the very most. `low` is infinite and `high` is 0
    where nothing was recorded.
    """

    __slots__ = ("_counts", "_first", "count", "high", "low", "total")

    def __init__(self, counts: Sequence[int], first: int, total: float, low: float, high: float):
        """Keep `counts`, which begin with bucket `first`."""
        self._first = first
        self._counts = _packed(counts)
        self.count = sum(counts)
        self.total = total
        self.low = low
        self.high = high

    @classmethod
    def merged(cls, parts: Iterable[Histogram]) -> Histogram:
        """Return what would be there if everything had been recorded in one."""
        used = [part for part in parts if part.count]
        if len(used) == 1:
            return used[0]
        if not used:
            return NOTHING
        first = min(part._first for part in used)
        counts = [0] * (max(part._first + len(part._counts) for part in used) - first)
        for part in used:
            place = slice(part._first - first, part._first - first + len(part._counts))
            counts[place] = map(add, counts[place], part._counts)
        return cls(
            counts,
            first,
            sum(part.total for part in used),
            min(part.low for part in used),
            max(part.high for part in used),
        )

    def mean(self) -> float | None:
        """Return the exact mean in seconds, or None if nothing was recorded."""
        return self.total / self.count if self.count else None

    def maximum(self) -> float | None:
        """Return the longest duration in seconds, exactly, or None if nothing was recorded."""
        return self.high if self.count else None

    def quantile(self, share: float) -> float | None:
        """Return the shortest duration that at least `share` (0 to 1) of all do not exceed.

        At most 1 % off between 10 µs and 100,000 s, and never outside of what was recorded. None if
        nothing was.
        """
        if not self.count:
            return None
        rank = max(1, ceil(share * self.count))
        if rank == self.count:
            return self.high
        bucket = self._first + bisect_left(list(accumulate(self._counts)), rank)
        # 2 / (GAMMA + 1) of the upper edge is equally far, as a ratio, from both edges.
        return min(max(upper_edge(bucket) * 2 / (GAMMA + 1), self.low), self.high)

    def up_to(self, buckets: Iterable[int]) -> list[int]:
        """Return for each of these buckets how many durations are in it or in one before it."""
        sums = [0, *accumulate(self._counts)]
        last = len(self._counts)
        return [sums[min(max(bucket - self._first + 1, 0), last)] for bucket in buckets]


def _packed(counts: Sequence[int]) -> array[int]:
    """The counts in the smallest kind of array that holds them."""
    most = max(counts, default=0)
    code = next(
        code for code, bits in (("B", 8), ("H", 16), ("I", 32), ("Q", 64)) if most < 1 << bits
    )
    return array(code, counts)


NOTHING = Histogram((), 0, 0.0, inf, 0.0)
"""The histogram of no durations at all."""


class SlidingHistogram:
    """Takes durations in; tells what it took in its whole life, and in the last few minutes.

    Time is cut into slices of a tenth of the window. The open one is written to; those that are
    over become histograms, and those that have left the window are added up in one. So `recent`
    looks back over the window and at most one slice further. It takes 9 KB for the open slice (a
    list, because counting in an array takes longer) and usually as much again for the histograms.

    The public fields are there so that a writer that holds a lock can do what `record` does in
    place: while the clock is before `ends`; once it is not, call `turn` first. Times are in seconds
    of one clock that never runs backwards. `newest` is a list of one: the newest duration, which
    several that are parts of one metric share.
    """

    __slots__ = (
        *("counts", "ends", "high", "low", "newest", "total"),
        *("_closed", "_past", "_slice_seconds", "_window_seconds"),
    )

    def __init__(
        self, window_seconds: float, now: float, newest: list[float | None] | None = None
    ) -> None:
        self._window_seconds = window_seconds
        self._slice_seconds = window_seconds / SLICES
        self.newest: list[float | None] = [None] if newest is None else newest
        self._past = NOTHING
        self._closed: deque[tuple[float, Histogram]] = deque()  # (end, slice)
        self._open(now)

    def _open(self, now: float) -> None:
        self.counts = _EMPTY.copy()
        self.total = 0.0
        self.low = inf
        self.high = 0.0
        self.ends = (floor(now / self._slice_seconds) + 1) * self._slice_seconds

    def record(self, seconds: float, now: float) -> None:
        """Take in one duration of 0 or more, finite seconds."""
        if now >= self.ends:
            self.turn(now)
        self.counts[bucket_of(seconds)] += 1
        self.total += seconds
        self.low = min(self.low, seconds)
        self.high = max(self.high, seconds)
        self.newest[0] = seconds

    def turn(self, now: float) -> None:
        """Close the open slice and open the one that `now` falls into."""
        self._closed.append((self.ends, self._slice()))
        over = []
        while self._closed and self._closed[0][0] <= now - self._window_seconds:
            over.append(self._closed.popleft()[1])
        if over:
            self._past = Histogram.merged([self._past, *over])
        self._open(now)

    def _slice(self) -> Histogram:
        """The open slice as a histogram."""
        if self.low > self.high:
            return NOTHING
        first = bucket_of(self.low)
        counts = self.counts[first : bucket_of(self.high) + 1]
        return Histogram(counts, first, self.total, self.low, self.high)

    def copy(self) -> SlidingHistogram:
        """Return a copy to read from. Quick, because all but the open slice is shared."""
        twin = SlidingHistogram.__new__(SlidingHistogram)
        twin._window_seconds = self._window_seconds
        twin._slice_seconds = self._slice_seconds
        twin._past = self._past
        twin._closed = self._closed.copy()
        twin.counts = self.counts.copy()
        twin.total, twin.low, twin.high = self.total, self.low, self.high
        twin.ends, twin.newest = self.ends, self.newest.copy()
        return twin

    def read(self, now: float) -> tuple[Histogram, Histogram]:
        """Return what was recorded within the window before `now`, and all that ever was."""
        horizon = now - self._window_seconds
        parts = [*self._closed, (self.ends, self._slice())]
        recent = Histogram.merged(part for ends, part in parts if ends > horizon)
        gone = [part for ends, part in parts if ends <= horizon]
        return recent, Histogram.merged([self._past, *gone, recent])
