"""What a registry held at one moment: plain data, for whoever shows it in whichever format."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from shared_sync.metrics.catalogue import KNOWN, MetricDescription, Ratio
from shared_sync.metrics.histogram import Histogram
from shared_sync.metrics.labels import LabelSet
from shared_sync.metrics.resources import ResourceSample
from shared_sync.metrics.series import SeriesCopy, SeriesKey
from shared_sync.metrics.values import within

T = TypeVar("T")

FAILED: Final = "jobs_failed"
WORK_DONE: Final = ("jobs_processed", "jobs_sent")
"""What a worker and a gateway have done; the first that is counted is the one that matters."""


@dataclass(frozen=True, slots=True)
class CounterSnapshot:
    """A counter: its `total` since the start, and its `growth` over the window."""

    total: float
    growth: float


@dataclass(frozen=True, slots=True)
class DurationSnapshot:
    """A duration: its `recent` values, those of the window, and those of its whole `lifetime`."""

    recent: Histogram
    lifetime: Histogram


@dataclass(frozen=True, slots=True)
class MetricsSnapshot:
    """Every metric at one moment. Nobody writes to it any more, so any thread may read it.

    `taken_at` is wall-clock time in seconds since 1970. Each metric has its values by label set; ()
    is the label set of recordings without labels. Errors are the counter "errors" with the labels
    `category` and `type`. `growth_seconds` is the length of time in which counters grew by their
    `growth`: `window_seconds` and up to a tenth more, or the time since the start in a registry
    that is young or was never read before. `newest` is the newest value of each duration, whatever
    its labels, and None before the first. `distributions` names those of the durations that are
    plain numbers.
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
    distributions: frozenset[str]
    ratios: Mapping[str, Ratio]
    about: Mapping[str, MetricDescription]
    resources: ResourceSample

    @classmethod
    def of(
        cls,
        series: SeriesCopy,
        now: float,
        *,
        instance_id: str,
        taken_at: float,
        uptime_seconds: float,
        window_seconds: float,
        resources: ResourceSample,
    ) -> MetricsSnapshot:
        """Return the snapshot of series that were copied at `now`, on the registry's clock."""
        before = series.counter_base
        return cls(
            instance_id=instance_id,
            taken_at=taken_at,
            uptime_seconds=uptime_seconds,
            window_seconds=window_seconds,
            growth_seconds=now - series.counter_base_at,
            counters=_by_name(
                series.counter_names,
                {
                    key: CounterSnapshot(within(total), within(total) - within(before.get(key, 0)))
                    for key, total in series.counters.items()
                },
            ),
            gauges=_by_name((), {key: within(level) for key, level in series.gauges.items()}),
            durations=_by_name(
                series.newest,
                {key: DurationSnapshot(*one.read(now)) for key, one in series.durations.items()},
            ),
            newest=series.newest,
            distributions=series.distributions,
            ratios=series.ratios,
            about=ChainMap(series.about, KNOWN),
            resources=resources,
        )

    def total(self, counter: str) -> float:
        """Return the total of a counter over all its label sets; 0 if there is no such counter."""
        return within(sum(series.total for series in self.counters.get(counter, {}).values()))

    def growth(self, counter: str) -> float:
        """Return the growth of a counter over the window, of all its label sets together."""
        return within(sum(series.growth for series in self.counters.get(counter, {}).values()))

    def per_second(self, counter: str) -> float:
        """Return how fast a counter grew within the window."""
        return self.growth(counter) / self.growth_seconds if self.growth_seconds > 0 else 0.0

    def errors_by(self, label: str) -> dict[str, float]:
        """Return the number of errors since the start by `type` or by `category`."""
        numbers: dict[str, float] = {}
        for labels, series in self.counters.get("errors", {}).items():
            value = dict(labels)[label]
            numbers[value] = within(numbers.get(value, 0) + series.total)
        return numbers

    def whole(self, duration: str) -> DurationSnapshot:
        """Return a duration over all its label sets."""
        series = tuple(self.durations[duration].values())
        if len(series) == 1:
            return series[0]
        return DurationSnapshot(
            Histogram.merged(part.recent for part in series),
            Histogram.merged(part.lifetime for part in series),
        )

    def ratio(self, name: str) -> float | None:
        """Return a declared ratio over the window; None if neither of its counters grew."""
        part, rest = self.growth(self.ratios[name].part), self.growth(self.ratios[name].rest)
        return part / (part + rest) if part + rest else None

    @property
    def error_rate(self) -> float | None:
        """The share of finished attempts within the window that failed, 0 to 1.

        Attempts that failed, also because the message is unusable, are counted by `jobs_failed`, or
        by all errors in a program without this counter; successful ones by `jobs_processed`, or by
        `jobs_sent` in a program that processes none. 0.0 if nothing happened. None if there were
        errors, and none of these counters exists: then there is nothing to divide by.
        """
        failed = self.growth(FAILED if FAILED in self.counters else "errors")
        done = next((name for name in WORK_DONE if name in self.counters), None)
        if done is None and FAILED not in self.counters:
            return None if failed else 0.0
        finished = failed + self.growth(done or "")
        return failed / finished if finished else 0.0


def _by_name(names: Iterable[str], series: Mapping[SeriesKey, T]) -> dict[str, dict[LabelSet, T]]:
    """Return the series by metric and label set; `names` are included even without a series."""
    metrics: dict[str, dict[LabelSet, T]] = {name: {} for name in names}
    for key, content in series.items():
        name, labels = (key, ()) if isinstance(key, str) else key
        metrics.setdefault(name, {})[labels] = content
    return metrics
