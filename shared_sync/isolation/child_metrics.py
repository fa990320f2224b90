"""Metrics that a child records: collected there, and recorded again in the parent's registry."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

from shared_sync.isolation.error_description import bases_of, type_of

Labels: TypeAlias = "Mapping[str, str] | None"
_Key: TypeAlias = "tuple[str, tuple[tuple[str, str], ...]]"


class ChildRecorder:
    """Has the recording methods of a `WorkerMetrics`; the parent records what was collected here.

    Nothing is checked here: the parent's registry refuses, counts and logs what it does not take.
    Any thread may call any method.
    """

    def __init__(self) -> None:
        # Guarded by the lock, which is re-entrant: a signal handler may record, too.
        self._lock = threading.RLock()
        self._counters: dict[_Key, float] = {}
        self._durations: dict[_Key, list[float]] = {}
        self._gauges: dict[_Key, float] = {}
        self._deltas: dict[_Key, float] = {}
        self._errors: dict[tuple[str, ...], int] = {}

    def increment_counter(self, name: str, value: float = 1, labels: Labels = None) -> None:
        """Add `value` to a counter."""
        key = _key(name, labels)
        with self._lock:
            self._counters[key] = self._counters.get(key, 0) + value

    def record_duration(self, name: str, seconds: float, labels: Labels = None) -> None:
        """Record that something took so many seconds."""
        with self._lock:
            self._durations.setdefault(_key(name, labels), []).append(seconds)

    @contextmanager
    def timer(self, name: str, labels: Labels = None) -> Iterator[None]:
        """Record how long the `with` block took, also if it raises."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.record_duration(name, time.monotonic() - began, labels)

    def set_gauge(self, name: str, value: float, labels: Labels = None) -> None:
        """Set a gauge to `value`."""
        key = _key(name, labels)
        with self._lock:
            self._gauges[key] = value
            self._deltas.pop(key, None)

    def update_gauge(self, name: str, value: float, labels: Labels = None) -> None:
        """Set a gauge to `value`: another name for `set_gauge`."""
        self.set_gauge(name, value, labels)

    def adjust_gauge(self, name: str, delta: float, labels: Labels = None) -> None:
        """Add `delta` to a gauge."""
        key = _key(name, labels)
        with self._lock:
            if key in self._gauges:
                self._gauges[key] += delta
            else:
                self._deltas[key] = self._deltas.get(key, 0) + delta

    def record_batch(
        self,
        *,
        counters: Mapping[str, float] | None = None,
        durations: Mapping[str, Iterable[float]] | None = None,
        gauges: Mapping[str, float] | None = None,
        labels: Labels = None,
    ) -> None:
        """Record many values at once."""
        with self._lock:
            for name, value in (counters or {}).items():
                self.increment_counter(name, value, labels)
            for name, several in (durations or {}).items():
                self._durations.setdefault(_key(name, labels), []).extend(several)
            for name, value in (gauges or {}).items():
                self.set_gauge(name, value, labels)

    def record_error(self, error: BaseException | type[BaseException]) -> None:
        """Count an error by its type."""
        key = tuple(bases_of(error if isinstance(error, type) else type(error)))
        with self._lock:
            self._errors[key] = self._errors.get(key, 0) + 1

    def take(self) -> dict[str, Any] | None:
        """Return what was collected since the last time, as plain data; None for nothing."""
        if not (self._counters or self._durations or self._gauges or self._deltas or self._errors):
            return None
        with self._lock:
            taken = {
                "increment_counter": _plain(self._counters),
                "record_duration": [
                    (name, _number(seconds), labels)
                    for (name, labels), several in self._durations.items()
                    for seconds in several
                ],
                "set_gauge": _plain(self._gauges),
                "adjust_gauge": _plain(self._deltas),
                "errors": list(self._errors.items()),
            }
            for collected in (self._counters, self._durations, self._gauges, self._deltas):
                collected.clear()
            self._errors.clear()
        return taken


def record_in(metrics: Any, taken: Mapping[str, Any]) -> None:
    """Record in the parent's registry what a child has taken out of its own. Never raises."""
    for method in ("increment_counter", "record_duration", "set_gauge", "adjust_gauge"):
        record: Any = getattr(metrics, method, None)  # some registries have fewer methods
        for name, value, labels in taken[method]:
            with suppress(Exception):  # of any kind: no metric is worth a message
                record(name, value, **({"labels": dict(labels)} if labels else {}))
    for bases, count in taken["errors"]:
        for _ in range(count):
            with suppress(Exception):
                metrics.record_error(type_of(bases))


def _key(name: str, labels: Labels) -> _Key:
    return name, tuple(sorted(labels.items())) if labels else ()


def _plain(values: Mapping[_Key, float]) -> list[tuple[str, float, tuple[tuple[str, str], ...]]]:
    return [(name, _number(value), labels) for (name, labels), value in values.items()]


def _number(value: Any) -> Any:
    """Return a number as JSON has it; what is none becomes text, which the registry refuses."""
    if isinstance(value, (int, float)):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)
