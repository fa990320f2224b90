"""The history of all values: a ring buffer of samples, in columns, small enough to keep always."""

from __future__ import annotations

import math
import threading
from array import array
from collections.abc import Collection, Mapping
from typing import Any, Final

_UNKNOWN: Final = math.nan
_LARGEST_EXACT: Final = 2**53
"""Beyond it neighbouring integers are the same double."""


class _Column:
    """The values of one name, unknown at first: one for each place of the ring."""

    __slots__ = ("known_at", "values")

    def __init__(self, capacity: int, sequence: int) -> None:
        self.values = array("d", [_UNKNOWN]) * capacity
        self.known_at = sequence  # the number of the last sample with a known value


class History:
    """Keeps the last `capacity` samples of up to `max_names` values. Safe from any thread.

    Each name takes 8 bytes a sample from its first known value on: 256 names with 720 samples (an
    hour with one sample in 5 s) take 1.5 MB. A name beyond `max_names` is dropped until another one
    has had no known value for `capacity` samples, and gives up its place.

    Samples are numbered from 0 as long as the process lives. Integers are exact up to 2**53.
    """

    def __init__(self, *, capacity: int = 720, max_names: int = 256) -> None:
        # Fixed after construction.
        self.capacity = capacity
        self._max_names = max_names
        # Guarded by the lock. A sample's place in the ring is its number modulo the capacity.
        self._lock = threading.Lock()
        self._next = 0
        self._times = array("d", [0.0]) * capacity
        self._columns: dict[str, _Column] = {}
        self._dropped = 0

    def record(self, unix_seconds: float, sample: Mapping[str, object]) -> None:
        """Add a sample. Anything but a finite number counts as unknown, also True and False."""
        values = {name: _as_double(value) for name, value in sample.items()}
        with self._lock:
            sequence, place = self._next, self._next % self.capacity
            self._next += 1
            self._times[place] = unix_seconds
            for name in list(self._columns):
                column = self._columns[name]
                value = values.pop(name, _UNKNOWN)
                column.values[place] = value
                if value == value:  # noqa: PLR0124 - only NaN is not itself
                    column.known_at = sequence
                elif sequence - column.known_at >= self.capacity:
                    del self._columns[name]
            self._dropped = 0
            for name, value in values.items():
                if math.isnan(value):
                    continue
                if len(self._columns) < self._max_names:
                    column = self._columns[name] = _Column(self.capacity, sequence)
                    column.values[place] = value
                else:
                    self._dropped += 1

    def read(
        self, since: int | None = None, names: Collection[str] | None = None
    ) -> dict[str, Any]:
        """Return the samples from the number `since` on, of all names or of some.

        In the result, `next` is the number to continue with; `sequences` and `times` (Unix seconds)
        belong to the samples, oldest first; `figures` has one value per sample for each name, None
        if it was unknown; `dropped` is the number of names of the last sample that found no place.

        All samples are returned if `since` is None, is no longer kept, or lies in the future (as
        after a restart).
        """
        wanted = None if names is None else frozenset(names)
        with self._lock:
            oldest = max(0, self._next - self.capacity)
            first = since if since is not None and oldest <= since <= self._next else oldest
            sequences = range(first, self._next)
            times = self._cut(self._times, sequences)
            columns = {
                name: self._cut(column.values, sequences)
                for name, column in self._columns.items()
                if wanted is None or name in wanted
            }
            dropped = self._dropped
        return {
            "capacity": self.capacity,
            "next": sequences.stop,
            "sequences": list(sequences),
            "times": [round(seconds, 3) for seconds in times],
            "figures": {name: [_shown(value) for value in cut] for name, cut in columns.items()},
            "dropped": dropped,
        }

    def _cut(self, values: array[float], sequences: range) -> array[float]:
        """Copy the values of these samples out of the ring."""
        begin = sequences.start % self.capacity
        end = begin + len(sequences)
        return values[begin:end] + values[: max(0, end - self.capacity)]


def _as_double(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _UNKNOWN
    try:
        double = float(value)
    except OverflowError:  # an integer beyond every double
        return _UNKNOWN
    return double if math.isfinite(double) else _UNKNOWN


def _shown(value: float) -> float | None:
    """Return the value for JSON; an integer without a decimal point, which is shorter."""
    if value.is_integer():
        return int(value) if -_LARGEST_EXACT <= value <= _LARGEST_EXACT else value
    return None if math.isnan(value) else value
