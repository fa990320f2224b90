"""A snapshot as metric families of prometheus_client.

It loads prometheus_client, which takes some 80 ms. So import this module where these formats are
asked for, and not before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from shared_sync.common.exposition import plain_name
from shared_sync.metrics.catalogue import Kind, MetricDescription
from shared_sync.metrics.gpu import GpuSample
from shared_sync.metrics.histogram import GAMMA, Histogram, bucket_of, upper_edge
from shared_sync.metrics.json_format import MEGABYTE
from shared_sync.metrics.labels import LabelSet
from shared_sync.metrics.snapshot import MetricsSnapshot
from shared_sync.metrics.values import within

ROUND_BOUNDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0),
)
"""Bounds in seconds that are there for every `bound_ratio`, so that queries can name them."""

_FINE_FROM_SECONDS: Final = 1e-3
_FINE_TO_SECONDS: Final = 3600.0

_BASE_UNITS: Final = {
    "ms": ("seconds", 0.001),
    "milliseconds": ("seconds", 0.001),
    "mb": ("bytes", MEGABYTE),
    "megabytes": ("bytes", MEGABYTE),
    "percent": ("ratio", 0.01),
}
_UNITS_IN_NAMES: Final = ("seconds", "bytes", "ratio", "celsius")
"""Units that the name of a metric ends with."""


def families(snapshot: MetricsSnapshot, namespace: str, bound_ratio: float) -> Iterator[Metric]:
    """Yield one family per metric, in base units and labelled with the instance.

    Counters end in `_total`; durations are lifetime histograms in `_seconds`, with bounds at most
    `bound_ratio` apart, and distributions are histograms without a unit. Names are put into the
    letters that Prometheus allows; if two become equal by that, the later one gets a trailing
    underscore.
    """
    return _Families(snapshot, namespace, bounds_at_most(bound_ratio)).all()


class _Families:
    """Builds the families of one snapshot."""

    def __init__(self, snapshot: MetricsSnapshot, namespace: str, bounds: Sequence[Bound]) -> None:
        self._snapshot = snapshot
        self._namespace = namespace
        self._bounds = bounds
        self._taken: set[str] = set()
        self._gauge_names = {
            _in_base_unit(name, self._about(name, "gauge").unit)[0] for name in snapshot.gauges
        }

    def all(self) -> Iterator[Metric]:
        """Yield all families."""
        snapshot = self._snapshot
        yield self._counter("errors", {k: s.total for k, s in snapshot.counters["errors"].items()})
        yield from self._resources()
        for name, counters in snapshot.counters.items():
            if name != "errors":
                yield self._counter(name, {key: at.total for key, at in counters.items()})
        for name, durations in snapshot.durations.items():
            used = {key: at.lifetime for key, at in durations.items() if at.lifetime.count}
            if used:  # some 200 time series that stand at zero tell nothing
                yield self._histogram(name, used)
        for name, levels in snapshot.gauges.items():
            yield self._gauge(name, levels)
        yield from self._derived(
            "error_rate", snapshot.error_rate, "Share of attempts that failed."
        )
        for name, ratio in snapshot.ratios.items():
            yield from self._derived(name, snapshot.ratio(name), ratio.help)

    def _resources(self) -> Iterator[Metric]:
        resources = self._snapshot.resources
        process, container = resources.process, resources.container
        if process.cpu_seconds is not None:
            text = "Processor time used by the process."
            yield self._counter("cpu_seconds", {(): process.cpu_seconds}, text)
        text = "Runs of the garbage collector."
        yield self._counter("gc_collections", {(): resources.gc_collections}, text)
        yield self._counter(
            "metrics_source_failures",
            {(("source", name),): number for name, number in resources.source_failures.items()},
            "Times that a source of these values failed or hung.",
        )
        for name, value, text in (
            ("uptime_seconds", self._snapshot.uptime_seconds, "Age of these metrics."),
            ("memory_usage_bytes", process.memory_bytes, "Resident memory of the process."),
            (
                "memory_limit_bytes",
                container.limit_bytes if container else None,
                "Memory the container may use.",
            ),
            (
                "memory_used_ratio",
                container.used_ratio if container else None,
                "Share of it that is used and cannot be dropped.",
            ),
            ("open_descriptors", process.open_descriptors, "Open file descriptors."),
            ("threads", process.threads, "Threads of the process."),
            (
                "interpreter_stall_seconds",
                resources.stall_seconds,
                "Longest time within the window that no Python code could run.",
            ),
        ):
            yield from self._derived(name, value, text)
        for name, attribute, text in (
            ("gpu_memory_used_bytes", "memory_used_bytes", "Memory of the GPU in use."),
            ("gpu_memory_total_bytes", "memory_total_bytes", "Memory of the GPU."),
            (
                "gpu_process_memory_used_bytes",
                "process_memory_bytes",
                "Memory of the GPU that the process and its descendants use.",
            ),
            ("gpu_utilization_ratio", "utilization_ratio", "Share of time the GPU is busy."),
            ("gpu_temperature_celsius", "temperature_celsius", "Temperature of the GPU."),
        ):
            levels: dict[LabelSet, float] = {
                _labels_of(gpu): getattr(gpu, attribute)
                for gpu in resources.gpus
                if getattr(gpu, attribute) is not None
            }
            if levels:
                yield self._gauge(name, levels, text)

    def _derived(self, name: str, value: float | None, text: str) -> Iterator[Metric]:
        """Yield a value that is no metric, unless it is unknown or a gauge has its name."""
        if value is not None and name not in self._gauge_names:
            yield self._gauge(name, {(): value}, text)

    def _counter(
        self, name: str, totals: Mapping[LabelSet, float], text: str | None = None
    ) -> Metric:
        about = self._about(name, "counter")
        base, unit, factor = _in_base_unit(name, about.unit)
        full = self._family_name(base.removesuffix("_total"), "_total", "_created")
        family = CounterMetricFamily(
            full, text or about.help, labels=_label_names(totals), unit=_unit_in(full, unit)
        )
        return self._filled(family, totals, factor)

    def _gauge(
        self, name: str, levels: Mapping[LabelSet, float], text: str | None = None
    ) -> Metric:
        about = self._about(name, "gauge")
        base, unit, factor = _in_base_unit(name, about.unit)
        full = self._family_name(base)
        family = GaugeMetricFamily(
            full, text or about.help, labels=_label_names(levels), unit=_unit_in(full, unit)
        )
        return self._filled(family, levels, factor)

    def _filled(
        self,
        family: CounterMetricFamily | GaugeMetricFamily,
        values: Mapping[LabelSet, float],
        factor: float,
    ) -> Metric:
        labels = _label_names(values)
        for key, value in values.items():
            family.add_metric(self._label_values(labels, key), within(float(value) * factor))
        return family

    def _histogram(self, name: str, lifetimes: Mapping[LabelSet, Histogram]) -> Metric:
        labels = _label_names(lifetimes)
        is_plain = name in self._snapshot.distributions
        bounds = _PLAIN_BOUNDS if is_plain else self._bounds
        full = self._family_name(
            name if is_plain else f"{name}_seconds", "_bucket", "_count", "_sum", "_created"
        )
        family = HistogramMetricFamily(
            full,
            self._about(name, "distribution" if is_plain else "duration").help,
            labels=labels,
            unit="" if is_plain else _unit_in(full, "seconds"),
        )
        for key, whole in lifetimes.items():
            counts = whole.up_to(bound.bucket for bound in bounds)
            buckets = [
                (bound.text, float(count)) for bound, count in zip(bounds, counts, strict=True)
            ]
            family.add_metric(
                self._label_values(labels, key),
                [*buckets, ("+Inf", float(whole.count))],
                whole.total,
            )
        return family

    def _about(self, name: str, kind: Kind) -> MetricDescription:
        about = self._snapshot.about.get(name)
        if about is not None and about.kind == kind:
            return about
        return MetricDescription(name, kind, f"{kind.capitalize()} {name}.")

    def _family_name(self, name: str, *suffixes: str) -> str:
        full = plain_name(f"{self._namespace}_{name}" if self._namespace else name)
        if full[0].isdigit():
            full = f"_{full}"
        while self._taken & {full, *(full + suffix for suffix in suffixes)}:
            full += "_"
        self._taken |= {full, *(full + suffix for suffix in suffixes)}
        return full

    def _label_values(self, names: Iterable[str], labels: LabelSet) -> list[str]:
        values = {"instance_id": self._snapshot.instance_id, **dict(labels)}
        return [values.get(name, "") for name in names]


class Bound(NamedTuple):
    """An upper bound of a bucket for Prometheus: the upper edge of one of our buckets."""

    text: str
    bucket: int


_PLAIN_BOUNDS: Final = tuple(Bound(str(2.0**n), bucket_of(2.0**n)) for n in range(17))
"""The bounds of distributions: powers of two from 1 to 65,536."""


@cache
def bounds_at_most(ratio: float) -> tuple[Bound, ...]:
    """Return the bounds to show, from 1 ms to an hour, at most `ratio` apart and rising.

    They are edges of our own buckets: every one, every second, every fourth and so on. So the
    bounds for a larger ratio are a subset of those for a smaller one. The round bounds lie between
    them, and include durations that are up to 2 % longer.

    All workers always show the same bounds, or those for another ratio. Of two such sets one is
    part of the other, and quantiles of their sum are as exact as those of the coarser one. Bounds
    that depend on what a worker has recorded would be fewer. But Prometheus adds buckets up by
    their bounds (`sum by (le)`): a worker without a bound that another one has would count as if it
    had no durations up to there. And for a new bound, Prometheus would not see that its first count
    has been added since the last scrape.
    """
    step = 1
    while GAMMA ** (2 * step) <= ratio:
        step *= 2
    first, last = bucket_of(_FINE_FROM_SECONDS), bucket_of(_FINE_TO_SECONDS)
    fine = range(first // step * step, last + step, step)
    bounds = {float(f"{upper_edge(bucket):.5g}"): bucket for bucket in fine}
    bounds |= {bound: bucket_of(bound) for bound in ROUND_BOUNDS}
    return tuple(Bound(str(bound), bucket) for bound, bucket in sorted(bounds.items()))


def _in_base_unit(name: str, unit: str) -> tuple[str, str, float]:
    """Return the name in the letters allowed, the base unit, and the factor for the numbers."""
    name = plain_name(name)
    stem, _, last = name.rpartition("_")
    if stem and last in _BASE_UNITS and not stem.endswith("_per"):
        unit, factor = _BASE_UNITS[last]
        return f"{stem}_{unit}", unit, factor
    unit, factor = _BASE_UNITS.get(unit, (unit, 1))
    if unit in _UNITS_IN_NAMES and unit not in name.split("_"):
        name = f"{name}_{unit}"
    return name, unit, factor


def _unit_in(name: str, unit: str) -> str:
    """Return the unit if the name ends with it, as OpenMetrics demands; otherwise none."""
    return unit if unit and name.endswith(f"_{unit}") else ""


def _labels_of(gpu: GpuSample) -> LabelSet:
    return (("gpu", gpu.number), ("uuid", gpu.uuid or ""), ("name", gpu.name or ""))


def _label_names(series: Mapping[LabelSet, Any]) -> list[str]:
    """Return the label names of a family: those of its series with the most labels."""
    return ["instance_id", *(name for name, _ in max(series, key=len, default=()))]
