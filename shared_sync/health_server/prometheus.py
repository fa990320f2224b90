"""The health of the process as gauges for Prometheus, behind whatever the metrics render.

It loads prometheus_client, which takes some 80 ms. So import this module where Prometheus asks, and
not before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from shared_sync.common import exposition
from shared_sync.common.exposition import Gauge
from shared_sync.health_server.checks import HEALTH, CheckResults
from shared_sync.health_server.payload import DEGRADED, HEALTHY, UNHEALTHY

STATUSES = (HEALTHY, DEGRADED, UNHEALTHY)


def health_gauges(
    *,
    status: str,
    failed_probes: Mapping[str, Collection[str]],
    results: CheckResults,
    keys: Collection[str],
) -> Iterator[Gauge]:
    """Yield the health at one moment.

    `failed_probes` are the reasons by probe; a probe without reasons succeeds. Each of the `keys`
    is a gauge of its own if it is True or False in the health data or in what checks return.
    """
    text = "Status of the process: 1 for the one it has."
    yield Gauge("health_status", text, ("status",), _statuses((), status))
    for probe, name in (("live", "live"), ("ready", "ready"), ("startup", "started")):
        text = f"Whether the probe /health/{probe} succeeds."
        yield Gauge(f"health_{name}", text, (), {(): float(not failed_probes[probe])})
    for key in keys:
        values = _values_of(key, results)
        if values:
            text = f"{exposition.plain_value(key)}, as the health data and the checks say."
            yield Gauge(exposition.metric_name(key), text, (), {(): float(all(values))})
    checks: dict[tuple[str, ...], float] = {}
    for result in results.all:
        if result.check.name != HEALTH:
            checks |= _statuses((result.check.name,), result.own_status)
    if checks:
        text = "Status of each check: 1 for the one it has."
        yield Gauge("health_check_status", text, ("check", "status"), checks)


def _statuses(owner: tuple[str, ...], own: str) -> dict[tuple[str, ...], float]:
    """Return a value for each status: 1 for the one that the owner has, 0 for the others."""
    return {(*owner, status): float(status == own) for status in STATUSES}


def _values_of(key: str, results: CheckResults) -> list[bool]:
    """Return what the health data and the checks say under a key."""
    found = [
        result.data.values.get(key)
        for result in results.all
        if result.data is not None and result.failure is None
    ]
    return [value for value in found if isinstance(value, bool)]
