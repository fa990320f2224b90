"""What a registry held at one moment: plain data, for whoever shows it in whichever format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from sys import float_info
from typing import Final

from shared_sync.metrics.catalogue import About, Ratio
from shared_sync.metrics.histogram import Histogram
from shared_sync.metrics.labels import LabelSet
from shared_sync.metrics.resources import ResourceSample

LARGEST: Final = float_info.max
FAILED = "jobs_failed"
WORK_DONE = ("jobs_processed", "jobs_sent")
"""What a worker and a gateway have done; the first that is counted is the one that matters."""


def within(number: float) -> float:
    """Return the number, or the largest that a float can be where sums have grown beyond."""
    return max(-LARGEST, min(number, LARGEST))


@dataclass(frozen=True, slots=True)
class CounterSnapshot:
    """A counter: its `total` since the start, and its `growth` over the window."""

    total: float
    growth: float


@dataclass(frozen=True, slots=True)
class DurationSnapshot:
    """One duration: all that was `recent`, and all of its `lifetime`."""

    recent: Histogram
    lifetime: Histogram


@dataclass(frozen=True, slots=True)
class MetricsSnapshot:
    """Every metric at one moment. Nobody writes to it any more, so any thread may read it.

    `taken_at` is wall-clock time in seconds since 1970. Each metric has its figures by label set,
    that of those recorded without labels being (). Errors are the counter "errors" with the labels
    `category` and `type`. `growth_seconds` is the length of time in which counters grew by their
    `growth`: `window_seconds` and up to a tenth more, or the time since the start in a registry
    that is young or was never read before. `newest` is the newest value of each duration, whatever
    its labels; None before the first.
    """

    instance_id: str
    taken_at: float
    uptime_seconds: float
    window_seconds: float
    growth_seconds: float
    counters: Mapping[str, Mapping[LabelSet, CounterSnapshot]]
    gauges: Mapping[str, Mapping[LabelSet, float]]
    durations: Mapping[str, Mapping[LabelSet, DurationSnapshot]]
    newest: Mapping[str, float | None]
    ratios: Mapping[str, Ratio]
    about: Mapping[str, About]
    resources: ResourceSample

    def total(self, counter: str) -> float:
        """The total of a counter over all its label sets; 0 if there is none of that name."""
        return within(sum(series.total for series in self.counters.get(counter, {}).values()))

    def growth(self, counter: str) -> float:
        """The same for its growth over the window."""
        return within(sum(series.growth for series in self.counters.get(counter, {}).values()))

    def per_second(self, counter: str) -> float:
        """How fast a counter grew within the window."""
        return self.growth(counter) / self.growth_seconds if self.growth_seconds > 0 else 0.0

    def errors_by(self, label: str) -> dict[str, float]:
        """The number of errors by `type` or `category`, since the start."""
        numbers: dict[str, float] = {}
        for labels, series in self.counters.get("errors", {}).items():
            value = dict(labels)[label]
            numbers[value] = within(numbers.get(value, 0) + series.total)
        return numbers

    def whole(self, duration: str) -> DurationSnapshot:
        """A duration over all its label sets."""
        series = tuple(self.durations[duration].values())
        if len(series) == 1:
            return series[0]
        return DurationSnapshot(
            Histogram.merged(part.recent for part in series),
            Histogram.merged(part.lifetime for part in series),
        )

    def ratio(self, name: str) -> float | None:
        """A declared ratio over the window; None if neither of its counters grew."""
        part, rest = self.growth(self.ratios[name].part), self.growth(self.ratios[name].rest)
        return part / (part + rest) if part + rest else None

    @property
    def error_rate(self) -> float | None:
        """The share of finished attempts that failed, 0 to 1, within the window.

        Failed are `jobs_failed`, or all errors in a program that does not count these; they are
        divided by themselves plus `jobs_processed`, or `jobs_sent` in a program that processes
        none. 0.0 if nothing happened. None if there were errors and none of these counters is
        there: then there is nothing to divide by.
        """
        failed = self.growth(FAILED if FAILED in self.counters else "errors")
        done = next((name for name in WORK_DONE if name in self.counters), None)
        if done is None and FAILED not in self.counters:
            return None if failed else 0.0
        finished = failed + self.growth(done or "")
        return failed / finished if finished else 0.0
