"""Recording: what a program calls to count, measure and set, at well under a microsecond a call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import log
from typing import Any, TypeAlias

from shared_sync.errors import ConfigurationError
from shared_sync.metrics import values
from shared_sync.metrics.histogram import (
    LONGEST_SECONDS,
    OFFSET,
    PER_LOG,
    SHORTEST_SECONDS,
    SlidingHistogram,
    Summary,
    bucket_of,
)
from shared_sync.metrics.labels import Labels
from shared_sync.metrics.series import SeriesKey, SeriesStore
from shared_sync.metrics.values import LARGEST, LARGEST_EXACT

_Batch: TypeAlias = (
    "tuple[list[tuple[SeriesKey, float]], list[tuple[SeriesKey, float]],"
    " list[tuple[SlidingHistogram, Summary | None]]]"
)
"""Counters, gauges and durations: the series, and what to record in it."""

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

    def record_queue(self, sizes: Mapping[str, float | None], *, stream: str, group: str) -> None:
        """Set the gauges of a queue, such as `queue_depth`, for one stream and group.

        For Prometheus they have the labels `stream` and `group`. In JSON they have no labels; if
        there are several queues, each is the sum, and those of each queue are beside it. A size
        that is None stays what it was.
        """
        known = {name: size for name, size in sizes.items() if size is not None}
        self.record_batch(gauges=known, labels={"group": group, "stream": stream})

    # --- many at once ---

    def record_batch(
        self,
        *,
        counters: Mapping[str, float] | None = None,
        durations: Mapping[str, Iterable[float]] | None = None,
        gauges: Mapping[str, float] | None = None,
        labels: Labels = None,
    ) -> None:
        """Record many values as one: a reader sees all of them or none of them.

        Adds each number to its counter, records all durations in seconds, and sets each gauge; all
        with the same `labels`. Takes the lock once. If some of the values cannot be recorded, only
        these are dropped, and the others are recorded one by one; a strict registry records nothing
        then, and raises ConfigurationError.
        """
        try:
            if durations:
                durations = values.as_lists(durations)  # what can be read once is not lost then
            counter_keys, gauge_keys, summaries = self._batch(counters, durations, gauges, labels)
        except ConfigurationError:
            if self._rejections.strict:
                raise
            self._record_one_by_one(counters, durations, gauges, labels)
            return
        now = self._clock()
        with self._lock:
            for key, increment in counter_keys:
                self._counters[key] += increment
            for key, level in gauge_keys:
                self._gauges[key] = level
            for series, summary in summaries:
                if summary is None:
                    continue
                if now >= series.ends:
                    series.turn(now)
                for bucket, count in summary.by_bucket.items():  # else as in record_duration
                    series.counts[bucket] += count
                series.total += summary.total
                series.low = min(series.low, summary.low)
                series.high = max(series.high, summary.high)
                series.newest[0] = summary.newest

    def _batch(
        self,
        counters: Mapping[str, float] | None,
        durations: Mapping[str, Iterable[float]] | None,
        gauges: Mapping[str, float] | None,
        labels: Labels,
    ) -> _Batch:
        """Return what to add to which series. Raises ConfigurationError if anything is wrong."""
        levels = [
            (name, values.number(name, level, -LARGEST))
            for name, level in (values.items("gauges", gauges) if gauges else ())
        ]
        increments = [
            (name, values.number(name, increment, 0))
            for name, increment in (values.items("counters", counters) if counters else ())
        ]
        lengths = [
            (name, values.durations(name, several))
            for name, several in (durations.items() if durations else ())
        ]
        # All numbers are checked by now, so that a wrong one makes no new name known.
        gauge_keys = [(self._gauge_key(name, labels), level) for name, level in levels]
        counter_keys = [
            (
                name
                if labels is None and name in self._counters
                else self._new_counter(name, labels),
                increment,
            )
            for name, increment in increments
        ]
        summaries = [
            (
                self._new_duration(name, labels, recordings=len(several)),
                Summary(several) if several else None,
            )
            for name, several in lengths
        ]
        return counter_keys, gauge_keys, summaries

    def _record_one_by_one(
        self,
        counters: Mapping[str, float] | None,
        durations: Mapping[str, Iterable[float]] | None,
        gauges: Mapping[str, float] | None,
        labels: Labels,
    ) -> None:
        """Record a batch in which something is wrong, so that nothing else is dropped."""
        parts: tuple[tuple[str, Any, Callable[[str, Any, Labels], None]], ...] = (
            ("counters", counters, self.increment_counter),
            ("gauges", gauges, self.set_gauge),
            ("durations", durations, self._record_each),
        )
        for what, mapping, record in parts:
            try:
                pairs = values.items(what, mapping or {})
            except ConfigurationError as error:
                self._reject(what, error)
                continue
            for name, value in pairs:
                record(name, value, labels)

    def _record_each(self, name: str, several: Any, labels: Labels) -> None:
        if not isinstance(several, list):
            self._reject(name, values.not_several(name, several))
            return
        for seconds in several:
            self.record_duration(name, seconds, labels)
