"""Histograms of durations: how many fell into each of 1164 fixed buckets.

A bucket is 2 % wide, so a quantile is wrong by at most 1 %, whatever the shape of the data, and no
bucket has to be chosen in advance. Durations from 10 µs to 100,000 s are distinguished; shorter and
longer ones share the first and the last bucket. The idea of buckets that grow by a constant factor,
which makes the relative error constant and histograms mergeable, is that of DDSketch (Masson, Rim,
Lee: "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees", 2019).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from math import ceil, inf, log
from operator import add
from typing import Any, Final, TypeGuard

from shared_sync.metrics.sliding_window import SlidingWindow

SHORTEST_SECONDS = 1e-5
LONGEST_SECONDS = 1e5
GAMMA = 1.02  # the upper edge of a bucket divided by its lower edge
PER_LOG = 1 / log(GAMMA)
OFFSET = 1 - log(SHORTEST_SECONDS) * PER_LOG
"""The bucket of a duration between the shortest and the longest is
`int(log(seconds) * PER_LOG + OFFSET)`, where a call of `bucket_of` would cost too much."""

_MOST_PACKED: Final = 500
"""Numbers in the compact form of a histogram. They suffice for durations that differ by less than
20,000 times; of others neighbouring buckets are put together."""

_MOST_TOGETHER: Final = 3
"""Buckets that are put together at most: so many suffice for all that are distinguished."""

_LARGEST_COUNT: Final = 2**40
_LARGEST_TOTAL: Final = 1e15
"""What is larger in a form from elsewhere makes no sense; the sums of all of them stay finite."""
_LAST = int(log(LONGEST_SECONDS) * PER_LOG + OFFSET)
_EMPTY = [0] * (_LAST + 1)


def bucket_of(seconds: float) -> int:
    """Return the bucket of a duration of 0 seconds or more."""
    if seconds < SHORTEST_SECONDS:
        return 0
    if seconds > LONGEST_SECONDS:
        return _LAST
    return int(log(seconds) * PER_LOG + OFFSET)


def upper_edge(bucket: int) -> float:
    """Return the duration in seconds at which the next bucket begins."""
    return float(SHORTEST_SECONDS * GAMMA**bucket)


class Summary:
    """Durations, at least one, summed up by a writer before it takes the lock."""

    __slots__ = ("by_bucket", "high", "low", "newest", "total")

    def __init__(self, several: Sequence[float]) -> None:
        self.low = min(several)
        self.high = max(several)
        self.total = sum(several)
        self.newest = several[-1]
        self.by_bucket = self._count_by_bucket(several)

    def _count_by_bucket(self, several: Sequence[float]) -> Mapping[int, int]:
        only = bucket_of(self.low)
        if only == bucket_of(self.high):  # as often, if all belong to one read
            return {only: len(several)}
        by_bucket: dict[int, int] = {}
        for seconds in several:
            if SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
                bucket = int(log(seconds) * PER_LOG + OFFSET)  # as bucket_of does
            else:
                bucket = 0 if seconds < SHORTEST_SECONDS else _LAST
            by_bucket[bucket] = by_bucket.get(bucket, 0) + 1
        return by_bucket


class Histogram:
    """Durations counted by bucket, with their exact sum, minimum and maximum, in seconds.

    Never changes after construction. Only the buckets between the first and the last one in use
    are kept, each in as few bytes as the largest count needs: some hundred bytes for durations
    within a factor of ten of each other, 10 KB at most. If nothing was recorded, `low` is infinite
    and `high` is 0.
    """

    __slots__ = ("_counts", "_first", "count", "high", "low", "total")

    def __init__(self, counts: Sequence[int], first: int, total: float, low: float, high: float):
        """`counts` begin with bucket `first`."""
        self._first = first
        self._counts = _packed(counts)
        self.count = sum(counts)
        self.total = total
        self.low = low
        self.high = high

    @classmethod
    def merged(cls, parts: Iterable[Histogram]) -> Histogram:
        """Return the histogram of all durations of the parts."""
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

    def to_dict(self) -> dict[str, Any]:
        """Return a compact form for JSON, which `parse()` reads: some hundred numbers.

        If that does not suffice, two or three neighbouring buckets are put together, and a quantile
        is up to 3 % off.
        """
        counts, width = [int(count) for count in self._counts], 1
        packed = _without_zeros(counts)
        while len(packed) > _MOST_PACKED:
            width += 1
            starts = range(0, len(counts), width)
            packed = _without_zeros([sum(counts[at : at + width]) for at in starts])
        return {
            "first": self._first,
            "width": width,
            "counts": packed,
            "total": self.total,
            "low": self.low if self.count else 0.0,
            "high": self.high,
        }

    @classmethod
    def parse(cls, form: object) -> Histogram | None:
        """Return the histogram of a form as `to_dict()` returns it, or None for anything else.

        The form may come from anywhere: no form raises, or makes a large histogram.
        """
        if not isinstance(form, dict):
            return None
        first, width, packed = form.get("first"), form.get("width"), form.get("counts")
        total, low, high = (_seconds(form.get(name)) for name in ("total", "low", "high"))
        if total is None or low is None or high is None or low > high:
            return None
        if not _is_whole(first, _LAST) or not _is_whole(width, _MOST_TOGETHER) or width < 1:
            return None
        counts = _unpack(packed, width, _LAST + 1 - first)
        if not counts or not any(counts):
            return None
        return cls(counts, first, total, low, high)

    def mean(self) -> float | None:
        """Return the exact mean in seconds, or None if nothing was recorded."""
        return self.total / self.count if self.count else None

    def maximum(self) -> float | None:
        """Return the longest duration in seconds, exactly, or None if nothing was recorded."""
        return self.high if self.count else None

    def quantile(self, share: float) -> float | None:
        """Return the shortest duration that at least `share` (0 to 1) of all do not exceed.

        At most 1 % off between 10 µs and 100,000 s, and never outside the range of what was
        recorded. None if nothing was recorded.
        """
        return self.quantiles(share)[0]

    def quantiles(self, *shares: float) -> list[float | None]:
        """Return several quantiles, each as `quantile()` does."""
        if not self.count:
            return [None] * len(shares)
        sums = list(accumulate(self._counts))
        return [self._quantile(max(1, ceil(share * self.count)), sums) for share in shares]

    def _quantile(self, rank: int, sums: Sequence[int]) -> float:
        if rank == self.count:
            return self.high
        bucket = self._first + bisect_left(sums, rank)
        # 2 / (GAMMA + 1) of the upper edge has the same ratio to both edges.
        return min(max(upper_edge(bucket) * 2 / (GAMMA + 1), self.low), self.high)

    def up_to(self, buckets: Iterable[int]) -> list[int]:
        """Return for each bucket how many durations are in it or in a bucket before it."""
        sums = [0, *accumulate(self._counts)]
        last = len(self._counts)
        return [sums[min(max(bucket - self._first + 1, 0), last)] for bucket in buckets]


def _without_zeros(counts: Sequence[int]) -> list[int]:
    """Return the counts, with -n in the place of n zeros in a row."""
    packed: list[int] = []
    for count in counts:
        if count:
            packed.append(count)
        elif packed and packed[-1] < 0:
            packed[-1] -= 1
        else:
            packed.append(-1)
    return packed


def _unpack(packed: object, width: int, most: int) -> list[int]:
    """Return the count of each bucket, about `most` at most; none if these are no counts.

    What is known of several buckets together goes into the middle one.
    """
    if not isinstance(packed, list) or not 0 < len(packed) <= most:
        return []
    if set(map(type, packed)) != {int} or min(packed) < -most or max(packed) > _LARGEST_COUNT:
        return []
    runs = [-number for number in packed if number < 0]
    if (len(packed) - len(runs) + sum(runs)) * width >= most + width:
        return []
    counts: list[int] = []
    for number in packed:
        if number < 0:
            counts += [0] * -number
        else:
            counts.append(number)
    if width == 1:
        return counts
    several = [0] * (len(counts) * width)
    several[width // 2 :: width] = counts
    return several


def _is_whole(number: object, most: int) -> TypeGuard[int]:
    return type(number) is int and 0 <= number <= most


def _seconds(number: object) -> float | None:
    """Return a number of 0 or more; None for anything else."""
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        return None
    return float(number) if 0 <= number <= _LARGEST_TOTAL else None


def _packed(counts: Sequence[int]) -> array[int]:
    """Return the counts in the array with the smallest items that can hold them."""
    most = max(counts, default=0)
    code = next(
        code for code, bits in (("B", 8), ("H", 16), ("I", 32), ("Q", 64)) if most < 1 << bits
    )
    return array(code, counts)


NOTHING = Histogram((), 0, 0.0, inf, 0.0)
"""The histogram of no durations at all."""


class SlidingHistogram:
    """Durations of the last few minutes, and of all time, as histograms.

    The current slice of the window is a list of counts, because counting in an array takes longer:
    9 KB. Slices that have ended are kept as histograms, usually as much again; those that have left
    the window are merged into one.

    The public attributes are there so that a writer that holds a lock can do without a call what
    `record` does: if the clock has reached `ends`, it calls `turn` first. Times are seconds of one
    clock that never runs backwards. `newest` is a list of one element, the newest duration; the
    parts of one metric share it.

    Not thread-safe: the owner guards it.
    """

    __slots__ = ("_past", "_window", "counts", "ends", "high", "low", "newest", "total")

    def __init__(
        self, window_seconds: float, now: float, newest: list[float | None] | None = None
    ) -> None:
        self.newest: list[float | None] = [None] if newest is None else newest
        self._window: SlidingWindow[Histogram] = SlidingWindow(window_seconds)
        self._past = NOTHING
        self._begin_slice(now)

    def _begin_slice(self, now: float) -> None:
        self.counts = _EMPTY.copy()
        self.total = 0.0
        self.low = inf
        self.high = 0.0
        self.ends = self._window.end_of_slice(now)

    def record(self, seconds: float, now: float) -> None:
        """Record one duration: a finite number of seconds, 0 or more."""
        if now >= self.ends:
            self.turn(now)
        self.counts[bucket_of(seconds)] += 1
        self.total += seconds
        self.low = min(self.low, seconds)
        self.high = max(self.high, seconds)
        self.newest[0] = seconds

    def turn(self, now: float) -> None:
        """End the current slice, and begin the one that `now` falls into."""
        self._window.add(self.ends, self._current())
        expired = self._window.expire(now)
        if expired:
            self._past = Histogram.merged([self._past, *(part for _, part in expired)])
        self._begin_slice(now)

    def copy(self) -> SlidingHistogram:
        """Return a copy to read from. Quick, because all but the current slice is shared."""
        twin = SlidingHistogram.__new__(SlidingHistogram)
        twin._window = self._window.copy()
        twin._past = self._past
        twin.counts = self.counts.copy()
        twin.total, twin.low, twin.high = self.total, self.low, self.high
        twin.ends, twin.newest = self.ends, self.newest.copy()
        return twin

    def read(self, now: float) -> tuple[Histogram, Histogram]:
        """Return the durations of the window that ends at `now`, and those of all time."""
        parts = [*self._window.slices, (self.ends, self._current())]
        recent = Histogram.merged(
            part for ended_at, part in parts if self._window.is_within(ended_at, now)
        )
        older = [part for ended_at, part in parts if not self._window.is_within(ended_at, now)]
        return recent, Histogram.merged([self._past, *older, recent])

    def _current(self) -> Histogram:
        """Return the current slice as a histogram."""
        if self.low > self.high:
            return NOTHING
        first = bucket_of(self.low)
        counts = self.counts[first : bucket_of(self.high) + 1]
        return Histogram(counts, first, self.total, self.low, self.high)
