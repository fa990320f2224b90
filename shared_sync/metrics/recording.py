"""Recording: what a program calls to count, measure and set, at well under a microsecond a call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import log

from shared_sync.errors import ConfigurationError
from shared_sync.metrics import values
from shared_sync.metrics.histogram import (
    LONGEST_SECONDS,
    OFFSET,
    PER_LOG,
    SHORTEST_SECONDS,
    bucket_of,
)
from shared_sync.metrics.labels import Labels
from shared_sync.metrics.series import SeriesKey, SeriesStore
from shared_sync.metrics.values import LARGEST, LARGEST_EXACT

_ONE = 1  # what nearly every call adds: CPython has one object for all small integers of a value


class SeriesRecorder(SeriesStore):
    """The recording half of a registry. Any thread may call any method.

    Recording waits only for the recordings of other threads, and for a reader that copies. What
    cannot be recorded is dropped, counted and logged, as `WorkerMetrics` describes; a strict
    registry raises ConfigurationError instead.
    """

    # --- counters and errors ---

    def increment_counter(self, name: str, value: float = 1, labels: Labels = None) -> None:
        """Add `value`, a finite number of 0 or more, to a counter.

        A counter `errors.ValueError` counts errors of the type ValueError, and plain `errors` those
        of the type "other". `record_error` knows more of an error than its name.
        """
        try:
            if value is not _ONE and (
                value.__class__ is not int or not 0 <= value <= LARGEST_EXACT
            ):
                value = values.number(name, value, 0)
            key = name if labels is None else (name, tuple(labels.items()))
            with self._lock:
                self._counters[key] += value
        except ConfigurationError as error:
            self._reject(name, error)
        except (KeyError, TypeError, AttributeError):
            self._count_in_new(name, value, labels)

    def _count_in_new(self, name: str, value: float, labels: Labels) -> None:
        """Add to a counter that is perhaps not there yet, or that is spelled in another way."""
        try:
            key = self._new_counter(name, labels)
        except ConfigurationError as error:
            self._reject(name, error)
            return
        with self._lock:
            self._counters[key] += value

    def register_error(self, error_type: type[BaseException], category: str) -> None:
        """Count errors of this type, and of types derived from it, in one of the CATEGORIES.

        Raises ConfigurationError for another category, or for what is no type of an exception.
        """
        self._categories.register(error_type, category)
        self._error_keys = {}

    def record_error(self, error: BaseException | type[BaseException]) -> None:
        """Count an error by its category and type, never by its text.

        The category is that of the type, or of its nearest ancestor that has one. MAX_ERROR_TYPES
        types are distinguished; the others count as the type "other" of their category.
        """
        kind = error if isinstance(error, type) else type(error)
        key = self._error_keys.get(kind) or self._new_error(kind)
        with self._lock:
            self._counters[key] += 1

    # --- durations ---

    def record_duration(self, name: str, seconds: float, labels: Labels = None) -> None:
        """Record that something took `seconds`, a number from 0 to 1e15.

        A unit at the end of the name (`_ms`, `_milliseconds`, `_seconds`) is dropped, because what
        is shown has units of its own: `latency` and `latency_ms` are one duration, and both take
        seconds.
        """
        try:
            if seconds.__class__ is float and SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
                bucket = int(log(seconds) * PER_LOG + OFFSET)  # as bucket_of does
            else:
                seconds = values.duration(name, seconds)
                bucket = bucket_of(seconds)
            try:
                series = self._durations_as_spelled[
                    name if labels is None else (name, tuple(labels.items()))
                ]
            except (KeyError, TypeError, AttributeError):
                series = self._new_duration(name, labels)
        except ConfigurationError as error:
            self._reject(name, error)
            return
        now = self._clock()
        with self._lock:
            if now >= series.ends:
                series.turn(now)  # once in a slice of the window
            # What SlidingHistogram.record does, without calling anything: not even min and max.
            series.counts[bucket] += 1
            series.total += seconds
            if seconds < series.low:  # noqa: PLR1730
                series.low = seconds
            if seconds > series.high:  # noqa: PLR1730
                series.high = seconds
            series.newest[0] = seconds

    def record_size(self, name: str, size: float, labels: Labels = None) -> None:
        """Record one number of a distribution that is no duration, such as how large a batch is.

        `size` is a finite number of 0 or more, and at most 1e15. It is shown as it is, as a
        duration is: the newest, the mean and percentiles of the window, and a histogram.
        """
        try:
            size = values.duration(name, size, "")
            series = self._new_distribution(name, labels)
        except ConfigurationError as error:
            self._reject(name, error)
            return
        now = self._clock()
        with self._lock:
            series.record(size, now)

    @contextmanager
    def timer(self, name: str, labels: Labels = None) -> Iterator[None]:
        """Record how long the `with` block took, also if it raises.

        A strict registry checks the name and the labels before the block runs.
        """
        if self._rejections.strict:
            self._new_duration(name, labels, recordings=0)
        began = self._clock()
        try:
            yield
        finally:
            self.record_duration(name, self._clock() - began, labels)

    # --- gauges ---

    def set_gauge(self, name: str, value: float, labels: Labels = None) -> None:
        """Set a gauge to `value`, any finite number."""
        try:
            if value.__class__ is not float or not -LARGEST <= value <= LARGEST:
                value = values.number(name, value, -LARGEST)
            key: SeriesKey = name
            if labels is not None or name.__class__ is not str or name not in self._gauges:
                key = self._gauge_key(name, labels)
        except ConfigurationError as error:
            self._reject(name, error)
            return
        with self._lock:
            self._gauges[key] = value

    def update_gauge(self, name: str, value: float, labels: Labels = None) -> None:
        """Set a gauge to `value`: another name for `set_gauge`."""
        self.set_gauge(name, value, labels)

    def adjust_gauge(self, name: str, delta: float, labels: Labels = None) -> None:
        """Add `delta`, any finite number, to a gauge; one that was never set stands at 0."""
        try:
            delta = values.number(name, delta, -LARGEST)
            key = self._gauge_key(name, labels)
        except ConfigurationError as error:
            self._reject(name, error)
            return
        with self._lock:
            if key in self._gauges:
                self._gauges[key] += delta
            else:
                self._gauges[key] = delta
