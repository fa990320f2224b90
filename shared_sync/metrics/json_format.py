"""A snapshot of the metrics as one flat dict, ready for JSON, in the units people read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Final

from shared_sync.common import queue_metrics
from shared_sync.metrics.labels import LabelSet
from shared_sync.metrics.snapshot import DurationSnapshot, MetricsSnapshot
from shared_sync.metrics.values import within

MEGABYTE: Final = 1024**2
_AMBIGUOUS: Final = re.compile(r'[,={}"\\\s]')


BUILT_IN: Final = (
    *("uptime_seconds", "window_seconds", "total_errors", "error_rate"),
    *("memory_usage_mb", "memory_limit_mb", "memory_used_ratio", "cpu_percent"),
    *("open_descriptors", "threads", "gc_collections", "interpreter_stall_ms"),
    *("gpu_memory_used_mb", "gpu_memory_total_mb", "gpu_process_memory_used_mb"),
    *("gpu_utilization_percent", "gpu_temperature_celsius", "gpu_uuid", "gpu_name"),
)
"""The names of the values that are always shown, those of GPUs without their labels."""


def value_names(name: str, kind: str) -> tuple[str, ...]:
    """Return the names of the values of a metric of that kind, without labels."""
    if kind == "counter":
        return (name, f"{name}_per_second")
    if kind in ("duration", "distribution"):
        shown = f"{name}_ms" if kind == "duration" else name
        statistics = (f"{statistic}_{shown}" for statistic in ("avg", "p50", "p95", "p99", "max"))
        return (shown, *statistics, f"{name}_window_count", f"{name}_count")
    return (name,)


def to_dict(snapshot: MetricsSnapshot) -> dict[str, Any]:
    """Return the metrics as `WorkerMetrics.get_metrics_data` describes them."""
    data = {**_built_in(snapshot), **_resources(snapshot)}
    for name in snapshot.durations:
        data |= _duration(snapshot, name)
    for name in snapshot.counters:
        data[f"{name}_per_second"] = round(within(snapshot.per_second(name)), 3)
    data |= {name: _rounded(snapshot.ratio(name), 1, 4) for name in snapshot.ratios}
    for name, counters in snapshot.counters.items():
        if name != "errors":
            data[name] = snapshot.total(name)
            data |= {name + _suffix(key): at.total for key, at in counters.items() if key}
    for name, gauges in snapshot.gauges.items():
        data |= _queue(name, gauges) if name in queue_metrics.DESCRIPTIONS else _gauge(name, gauges)
    return data


def _gauge(name: str, gauges: Mapping[LabelSet, float]) -> dict[str, float]:
    return {name + _suffix(key): level for key, level in gauges.items()}


def _queue(name: str, gauges: Mapping[LabelSet, float]) -> dict[str, float]:
    """Return a gauge of queues: without labels for one queue, else with their sum."""
    queues = [level for key, level in gauges.items() if tuple(dict(key)) == queue_metrics.LABELS]
    if not queues:
        return _gauge(name, gauges)
    parts = _gauge(name, gauges) if len(queues) > 1 else {}
    return {**parts, name: within(sum(queues))}


def _built_in(snapshot: MetricsSnapshot) -> dict[str, Any]:
    taken_at = datetime.fromtimestamp(snapshot.taken_at, timezone.utc)
    return {
        "instance_id": snapshot.instance_id,
        "timestamp": taken_at.isoformat(timespec="milliseconds"),
        "uptime_seconds": round(snapshot.uptime_seconds, 3),
        "window_seconds": snapshot.window_seconds,
        "errors": snapshot.errors_by("type"),
        "errors_by_category": snapshot.errors_by("category"),
        "total_errors": snapshot.total("errors"),
        "error_rate": _rounded(snapshot.error_rate, 1, 6),
    }


def _resources(snapshot: MetricsSnapshot) -> dict[str, Any]:
    resources = snapshot.resources
    process, container = resources.process, resources.container
    data: dict[str, Any] = {
        "memory_usage_mb": _rounded(process.memory_bytes, 1 / MEGABYTE, 2),
        "memory_limit_mb": _rounded(container.limit_bytes if container else None, 1 / MEGABYTE, 2),
        "memory_used_ratio": _rounded(container.used_ratio if container else None, 1, 4),
        "cpu_percent": _rounded(process.cpu_percent, 1, 1),
        "open_descriptors": process.open_descriptors,
        "threads": process.threads,
        "gc_collections": resources.gc_collections,
        "interpreter_stall_ms": _milliseconds(resources.stall_seconds),
    }
    for gpu in resources.gpus:
        of = f"{{gpu={gpu.number}}}"
        process_memory = _rounded(gpu.process_memory_bytes, 1 / MEGABYTE, 2)
        data |= {
            f"gpu_uuid{of}": gpu.uuid,
            f"gpu_name{of}": gpu.name,
            f"gpu_memory_used_mb{of}": _rounded(gpu.memory_used_bytes, 1 / MEGABYTE, 2),
            f"gpu_memory_total_mb{of}": _rounded(gpu.memory_total_bytes, 1 / MEGABYTE, 2),
            f"gpu_process_memory_used_mb{of}": process_memory,
            f"gpu_utilization_percent{of}": _rounded(gpu.utilization_ratio, 100, 1),
            f"gpu_temperature_celsius{of}": gpu.temperature_celsius,
        }
    return data


def _duration(snapshot: MetricsSnapshot, name: str) -> dict[str, Any]:
    is_plain = name in snapshot.distributions
    shown, factor = (name, 1) if is_plain else (f"{name}_ms", 1000)
    data = {shown: _rounded(snapshot.newest[name], factor, 3)}
    data |= _percentiles(name, shown, factor, snapshot.whole(name), "")
    for labels, duration in snapshot.durations[name].items():
        if labels:
            data |= _percentiles(name, shown, factor, duration, _suffix(labels))
    return data


def _percentiles(
    name: str, shown: str, factor: float, duration: DurationSnapshot, suffix: str
) -> dict[str, Any]:
    recent = duration.recent
    return {
        f"avg_{shown}{suffix}": _rounded(recent.mean(), factor, 3),
        f"p50_{shown}{suffix}": _rounded(recent.quantile(0.50), factor, 3),
        f"p95_{shown}{suffix}": _rounded(recent.quantile(0.95), factor, 3),
        f"p99_{shown}{suffix}": _rounded(recent.quantile(0.99), factor, 3),
        f"max_{shown}{suffix}": _rounded(recent.maximum(), factor, 3),
        f"{name}_window_count{suffix}": recent.count,
        f"{name}_count{suffix}": duration.lifetime.count,
    }


def _suffix(labels: LabelSet) -> str:
    parts = ",".join(f"{name}={_quoted(value)}" for name, value in labels)
    return f"{{{parts}}}" if parts else ""


def _quoted(value: str) -> str:
    """Return the value as it is, or in quotes if it could be misread."""
    return json.dumps(value, ensure_ascii=False) if _AMBIGUOUS.search(value) else value


def _milliseconds(seconds: float | None) -> float | None:
    return _rounded(seconds, 1000, 3)


def _rounded(value: float | None, factor: float, digits: int) -> float | None:
    return None if value is None else round(value * factor, digits)
