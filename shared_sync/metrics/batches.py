"""Recording many values at once: one lock, and a reader sees all of them or none of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from shared_sync.errors import ConfigurationError
from shared_sync.metrics import values
from shared_sync.metrics.histogram import SlidingHistogram, Summary
from shared_sync.metrics.labels import Labels
from shared_sync.metrics.recording import SeriesRecorder
from shared_sync.metrics.series import SeriesKey
from shared_sync.metrics.values import LARGEST

_Batch: TypeAlias = (
    "tuple[list[tuple[SeriesKey, float]], list[tuple[SeriesKey, float]],"
    " list[tuple[SlidingHistogram, Summary | None]]]"
)
"""Counters, gauges and durations: the series, and what to record in it."""


class BatchRecorder(SeriesRecorder):
    """A recorder of single values and of many at once. Any thread may call any method."""

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

    def record_queue(self, sizes: Mapping[str, float | None], *, stream: str, group: str) -> None:
        """Set the gauges of a queue, such as `queue_depth`, for one stream and group.

        For Prometheus they have the labels `stream` and `group`. In JSON they have no labels; if
        there are several queues, each is the sum, and those of each queue are beside it. A size
        that is None stays what it was.
        """
        known = {name: size for name, size in sizes.items() if size is not None}
        self.record_batch(gauges=known, labels={"group": group, "stream": stream})

    def record_circuit_breaker(self, name: str, *, state: int, openings: int, refused: int) -> None:
        """Set the gauge of a circuit breaker, and add to its counters.

        `state` is 0 if it is closed, 1 if it is half-open, 2 if it is open. All three have the
        label `name`.
        """
        self.record_batch(
            gauges={"circuit_breaker_state": state},
            counters={"circuit_breaker_openings": openings, "circuit_breaker_refused": refused},
            labels={"name": name},
        )

    def record_for_consumer(
        self,
        *,
        counters: Mapping[str, float] | None = None,
        durations: Mapping[str, list[float]] | None = None,
    ) -> None:
        """Record a batch of a consumer, and remember how much of these metrics is the consumer's.

        So it is noticed if the program records one of them too.
        """
        with self._lock:  # before the values: a reader never sees more of them than of these
            own = self._by_consumers
            for name, increment in (counters or {}).items():
                own[name] = own.get(name, 0) + increment
            for name, several in (durations or {}).items():
                own[name] = own.get(name, 0) + len(several)
        self.record_batch(counters=counters, durations=durations)

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
