"""Prometheus's text formats: for what a collector yields, and for plain numbers.

It loads prometheus_client, which takes some 80 ms. So import this module where one of these formats
is asked for, and not before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import Metric, UnknownMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector, CollectorRegistry

_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_]")


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


def plain_name(name: str) -> str:
    """Return a name in the letters that Prometheus allows; a digit may come first."""
    return _NOT_PLAIN.sub("_", name)


class _PlainValues:
    """A collector of values of which nothing but their names is known."""

    def __init__(self, values: Mapping[str, Any], instance_id: str) -> None:
        self._values = values
        self._instance_id = instance_id

    def collect(self) -> Iterator[Metric]:
        taken: set[str] = set()
        for key, value in self._values.items():
            if isinstance(value, (bool, int, float)):
                name = re.sub(r"^(?=\d|$)", "_", plain_name(key))
                if name in taken:
                    continue
                taken.add(name)
                family = UnknownMetricFamily(name, f"{key}, as reported.", labels=["instance_id"])
                family.add_metric([self._instance_id], float(value))
                yield family


def _registry(collector: Collector) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(collector)
    return registry
