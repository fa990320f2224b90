"""What several workers report, merged into one report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from shared_sync.common import queue_metrics

_LARGEST: Final = re.compile(
    r"(p50|p95|p99|max)_.*|.*_ms|uptime_seconds|window_seconds|longest_.*|oldest_.*|memory_limit_mb"
    r"|memory_used_ratio|gpu_(?!process_).*|batch_ceiling|.*_paused"
)
"""Values of which the largest counts: sums of them mean nothing. Other numbers are added."""

_SHARE: Final = re.compile(r"error_rate|.*_(ratio|rate)")
_AVERAGE: Final = re.compile(r"avg_(?P<name>.*?)(_ms)?(?P<labels>\{.*\})?")
_FAMILY: Final = re.compile(r"# (?:HELP|TYPE|UNIT) (\S+)")
_PROBES: Final = ("live", "ready", "started")


def health(reported: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the values of the health data of several workers together.

    Without their status and their reasons, which each worker has for itself.
    """
    left_out = ("status", "reasons", "details", "alerts", "instance_id", *_PROBES)
    merged: dict[str, Any] = {}
    for data in reported:
        for key, value in data.items():
            if key in left_out:
                continue
            merged[key] = value if key not in merged else _joined(key, merged[key], value)
    return merged


def tables(by_worker: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the tables of several workers as one.

    The names of readers begin with that of their worker already; circuit breakers get it here."""
    merged: dict[str, list[Any]] = {"readers": [], "jobs": []}
    for worker, view in by_worker.items():
        for name, rows in view.items():
            if isinstance(rows, list):
                named = (
                    rows
                    if name != "circuit_breakers"
                    else [_of_worker(row, worker) for row in rows]
                )
                merged.setdefault(name, []).extend(named)
    return merged


def metrics(by_worker: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return flat metrics of several workers as one mapping.

    Counters and rates are added, averages are weighted with their counts, shares are averages over
    the workers. The percentiles and the largest values are those of the worker that has the
    largest. A queue is the same for all.
    """
    all_data = list(by_worker)
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for data in all_data for key in data):
        if key in ("instance_id", "timestamp"):
            continue
        values = [data[key] for data in all_data if data.get(key) is not None]
        if average := _AVERAGE.fullmatch(key):
            merged[key] = _average(all_data, key, average)
        elif _SHARE.fullmatch(key) and all(isinstance(one, (int, float)) for one in values):
            merged[key] = round(sum(values) / len(values), 6) if values else None
        else:
            merged[key] = None
            for value in values:
                before = merged[key]
                merged[key] = value if before is None else _joined(key, before, value)
    return merged


def exposition(texts: Iterable[str], *, end: str = "") -> bytes:
    """Return several texts in a format of Prometheus as one, each family once.

    The series must differ by a label. `end` is what each text ends with.
    """
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for text in texts:
        family = ""
        new: set[str] = set()
        for line in text.removesuffix(end).splitlines(keepends=True):
            if found := _FAMILY.match(line):
                family = found[1]
                if family not in heads:
                    heads[family] = []
                    new.add(family)
                if family in new:
                    heads[family].append(line)
            else:
                samples.setdefault(family, []).append(line)
    lines = [line for family, head in heads.items() for line in (*head, *samples.get(family, ()))]
    return ("".join(lines) + end).encode()


def _joined(key: str, one: Any, other: Any) -> Any:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}
    if isinstance(one, bool) or isinstance(other, bool):
        return one or other
    if not isinstance(one, (int, float)) or not isinstance(other, (int, float)):
        words = dict.fromkeys([*str(one).split(", "), str(other)])
        return other if one is None else one if other is None else ", ".join(words)
    name = key.partition("{")[0]
    if name in queue_metrics.DESCRIPTIONS or _LARGEST.fullmatch(name):
        return max(one, other)
    return one + other


def _average(
    all_data: Iterable[Mapping[str, Any]], key: str, average: re.Match[str]
) -> float | None:
    count_key = f"{average['name']}_window_count{average['labels'] or ''}"
    pairs = [
        (data[key], data[count_key])
        for data in all_data
        if data.get(key) is not None and data.get(count_key)
    ]
    count = sum(number for _, number in pairs)
    return round(sum(value * number for value, number in pairs) / count, 3) if count else None


def _of_worker(breaker: Mapping[str, Any], worker: str) -> dict[str, Any]:
    """Return the row of a circuit breaker, of which each worker has one, named apart."""
    return {**breaker, "name": f"{breaker.get('name')} of {worker}"}
