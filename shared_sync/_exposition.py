"""Metrics in the words of Prometheus: a snapshot as metric families.

The only module that knows prometheus_client, which takes some 80 ms to load; so it is itself
loaded only when somebody asks for this format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from shared_sync._snapshot import MetricsSnapshot

# Upper bounds in seconds of the buckets shown, for anything from a cache hit to an hour of speech.
BOUNDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0),
)
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_]")


def families(snapshot: MetricsSnapshot, namespace: str) -> Iterator[Metric]:
    """Yield one family per metric, in base units and labelled with the instance.

    Counters end in `_total`; durations are lifetime histograms in `_seconds`, in which a bucket may
    hold durations up to 2 % longer than its bound. Names are put into the letters that Prometheus
    allows; should two become equal by that, the later one gets a trailing underscore.
    """
    taken: set[str] = set()

    def family_name(name: str) -> str:
        full = _NOT_PLAIN.sub("_", f"{namespace}_{name}" if namespace else name)
        if full[0].isdigit():
            full = f"_{full}"
        while full in taken:
            full += "_"
        taken.add(full)
        return full

    instance = [snapshot.instance_id]
    labels = ["instance_id"]

    errors = CounterMetricFamily(family_name("errors"), "Errors by type.", labels=[*labels, "type"])
    for error_type, number in snapshot.errors.items():
        errors.add_metric([*instance, error_type], number)
    yield errors

    process = snapshot.process
    if process.cpu_seconds is not None:
        cpu = CounterMetricFamily(
            family_name("cpu_seconds"), "Processor time used by the process.", labels=labels
        )
        cpu.add_metric(instance, process.cpu_seconds)
        yield cpu

    for name, figure, text in (
        ("uptime_seconds", snapshot.uptime_seconds, "Seconds since the metrics were created."),
        ("memory_usage_bytes", process.memory_bytes, "Resident memory of the process."),
        ("open_descriptors", process.open_descriptors, "Open file descriptors of the process."),
        ("threads", process.threads, "Threads of the process."),
    ):
        if figure is not None:
            built_in = GaugeMetricFamily(family_name(name), text, labels=labels)
            built_in.add_metric(instance, figure)
            yield built_in

    for name, number in snapshot.counters.items():
        counter = CounterMetricFamily(
            family_name(name.removesuffix("_total")), f"Counter {name}.", labels=labels
        )
        counter.add_metric(instance, number)
        yield counter

    for name, duration in snapshot.durations.items():
        whole = duration.lifetime
        histogram = HistogramMetricFamily(
            family_name(f"{name}_seconds"), f"Duration {name}.", labels=labels
        )
        buckets = [(str(bound), float(whole.count_up_to(bound))) for bound in BOUNDS]
        histogram.add_metric(instance, [*buckets, ("+Inf", whole.count)], whole.total)
        yield histogram

    for name, level in snapshot.gauges.items():
        gauge = GaugeMetricFamily(family_name(name), f"Gauge {name}.", labels=labels)
        gauge.add_metric(instance, level)
        yield gauge


def render(collector: Collector) -> bytes:
    """Return what `collector` yields in Prometheus's text format 0.0.4."""
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry)
