"""Prometheus's text formats: for what a collector yields, and for plain numbers.

It loads prometheus_client, which takes some 80 ms. So import this module where one of these formats
is asked for, and not before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from prometheus_client.core import GaugeMetricFamily, Metric, UnknownMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector, CollectorRegistry

_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_]")
_NAME_IN_TEXT = re.compile(rb"^(?:# TYPE )?([A-Za-z_:][A-Za-z0-9_:]*)", re.MULTILINE)


def render_text(collector: Collector) -> bytes:
    """Return what `collector` yields in Prometheus's text format 0.0.4."""
    return generate_latest(_registry(collector))


def render_openmetrics(collector: Collector) -> bytes:
    """Return what `collector` yields in the text format of OpenMetrics 1.0."""
    rendered: bytes = openmetrics.generate_latest(_registry(collector))  # type: ignore[no-untyped-call]
    return rendered


def render_plain(values: Mapping[str, Any], instance_id: str, *, open_metrics: bool) -> bytes:
    """Return the numbers of a flat mapping in a text format, without kinds and units.

    What is no number is left out. If names become equal in the letters that Prometheus allows, the
    first is shown.
    """
    collector = _PlainValues(values, instance_id)
    return render_openmetrics(collector) if open_metrics else render_text(collector)


class Gauge(NamedTuple):
    """A gauge to render: its values by those of the labels that it has beside `instance_id`."""

    name: str
    help: str
    labels: tuple[str, ...]
    values: Mapping[tuple[str, ...], float]


def append(
    rendered: bytes, gauges: Iterable[Gauge], instance_id: str, *, open_metrics: bool
) -> bytes:
    """Return a rendered text followed by gauges.

    A gauge is left out if the text already has its name.
    """
    taken = set(_NAME_IN_TEXT.findall(rendered))
    families = []
    for gauge in gauges:
        if gauge.name.encode() in taken:
            continue
        family = GaugeMetricFamily(gauge.name, gauge.help, labels=["instance_id", *gauge.labels])
        for labels, value in gauge.values.items():
            family.add_metric([plain_value(instance_id), *labels], value)
        families.append(family)
    render = render_openmetrics if open_metrics else render_text
    before = rendered.rstrip().removesuffix(b"# EOF") if open_metrics else rendered
    if before and not before.endswith(b"\n"):
        before += b"\n"
    return before + render(_Families(families))


def plain_name(name: str) -> str:
    """Return a name in the letters that Prometheus allows; a digit may come first."""
    return _NOT_PLAIN.sub("_", name)


def metric_name(name: str) -> str:
    """Return a name that Prometheus allows for a metric."""
    return re.sub(r"^(?=\d|$)", "_", plain_name(name))


def plain_value(text: str) -> str:
    """Return a text without surrogates, which no encoding can write."""
    return text.encode(errors="replace").decode()


class _PlainValues:
    """A collector of values of which nothing but their names is known."""

    def __init__(self, values: Mapping[str, Any], instance_id: str) -> None:
        self._values = values
        self._instance_id = instance_id

    def collect(self) -> Iterator[Metric]:
        taken: set[str] = set()
        for key, value in self._values.items():
            if isinstance(value, (bool, int, float)):
                name = metric_name(key)
                if name in taken:
                    continue
                taken.add(name)
                family = UnknownMetricFamily(name, f"{key}, as reported.", labels=["instance_id"])
                family.add_metric([self._instance_id], float(value))
                yield family


class _Families:
    """A collector of families that were collected before."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _registry(collector: Collector) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(collector)
    return registry
