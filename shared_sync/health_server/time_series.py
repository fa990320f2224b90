"""The figures of the last while: a ring of samples in columns, small enough to be always kept."""

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
    """One figure, unknown so far: a value for each place of the ring."""

    __slots__ = ("known_at", "values")

    def __init__(self, capacity: int, sequence: int) -> None:
        self.values = array("d", [_UNKNOWN]) * capacity
        self.known_at = sequence  # the number of its last sample that was known


class History:
    """Keeps the last `capacity` samples of up to `max_figures` figures. Safe from any thread.

    A figure takes 8 bytes a sample from its first one on: 256 figures of 720 samples, which is an
    hour at one in 5 s, take 1.5 MB. A figure beyond `max_figures` is dropped until one of the
    others has been unknown throughout, which gives up its place.

    Samples are numbered from 0 as long as the process lives. Integers are exact up to 2**53.
    """

    def __init__(self, *, capacity: int = 720, max_figures: int = 256) -> None:
        # Fixed after construction.
        self.capacity = capacity
        self._max_figures = max_figures
        # Guarded by the lock. A sample's place in the ring is its number modulo the capacity.
        self._lock = threading.Lock()
        self._next = 0
        self._times = array("d", [0.0]) * capacity
        self._columns: dict[str, _Column] = {}
        self._dropped = 0

    def record(self, unix_seconds: float, figures: Mapping[str, object]) -> None:
        """Add a sample. What is no finite number is unknown, such as a text, None and True."""
        values = {name: _as_double(value) for name, value in figures.items()}
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
                if len(self._columns) < self._max_figures:
                    column = self._columns[name] = _Column(self.capacity, sequence)
                    column.values[place] = value
                else:
                    self._dropped += 1

    def read(
        self, since: int | None = None, figures: Collection[str] | None = None
    ) -> dict[str, Any]:
        """Return the samples from the number `since` on, of all figures or of those named.

        `next` is the number to go on with; `sequences` and `times` (Unix seconds) are those of the
        samples, oldest first, and `figures` has as many values of each figure, None where it was
        unknown. A number that is no longer kept, or not reached yet as after a restart, means all.
        `dropped` figures of the last sample found no place.
        """
        wanted = None if figures is None else frozenset(figures)
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
    """The value for JSON, where 5 is shorter than 5.0 and says the same."""
    if value.is_integer():
        return int(value) if -_LARGEST_EXACT <= value <= _LARGEST_EXACT else value
    return None if math.isnan(value) else value
