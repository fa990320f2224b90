"""Metrics that a child records: collected there, and recorded again in the parent's registry."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from numbers import Real
from operator import itemgetter
from typing import Any, Final, TypeAlias

from shared_sync.isolation.error_description import bases_of, type_of

Labels: TypeAlias = "Mapping[str, str] | None"
_Labels: TypeAlias = "tuple[tuple[str, str], ...]"
_Key: TypeAlias = "tuple[str, _Labels]"
_METHODS: Final = (
    "increment_counter",
    "record_duration",
    "record_size",
    "set_gauge",
    "adjust_gauge",
)


LARGEST_EXACT: Final = 2**53
"""The largest integer up to which floats represent all of them."""

MAX_SHOWN_CHARS: Final = 200


class ChildRecorder:
    """Has the recording methods of a `WorkerMetrics`; the parent records what was collected here.

    What cannot be recorded is passed on as text, which the parent's registry refuses, counts and
    logs: no metric is worth a message. Any thread may call any method.
    """

    def __init__(self) -> None:
        # Guarded by the lock, which is re-entrant: a signal handler may record, too.
        self._lock = threading.RLock()
        self._counters: dict[_Key, float] = {}
        self._durations: dict[_Key, list[float]] = {}
        self._sizes: dict[_Key, list[float]] = {}
        self._gauges: dict[_Key, float] = {}
        self._deltas: dict[_Key, float] = {}
        self._refused: list[tuple[str, _Key, str]] = []
        """The method, and the text of a value that is no number."""
        self._errors: dict[tuple[str, ...], int] = {}

    def increment_counter(self, name: str, value: float = 1, labels: Labels = None) -> None:
        """Add `value` to a counter."""
        key, number = _key(name, labels), _number(value, 0)
        with self._lock:
            if isinstance(number, str):
                self._refused.append(("increment_counter", key, number))
            else:
                self._counters[key] = self._counters.get(key, 0) + number

    def record_duration(self, name: str, seconds: float, labels: Labels = None) -> None:
        """Record that something took so many seconds."""
        self._append("record_duration", self._durations, _key(name, labels), seconds)

    def record_size(self, name: str, size: float, labels: Labels = None) -> None:
        """Record one number of a distribution that is no duration."""
        self._append("record_size", self._sizes, _key(name, labels), size)

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
        key, number = _key(name, labels), _number(value)
        with self._lock:
            if isinstance(number, str):
                self._refused.append(("set_gauge", key, number))
            else:
                self._gauges[key] = number
                self._deltas.pop(key, None)

    def update_gauge(self, name: str, value: float, labels: Labels = None) -> None:
        """Set a gauge to `value`: another name for `set_gauge`."""
        self.set_gauge(name, value, labels)

    def adjust_gauge(self, name: str, delta: float, labels: Labels = None) -> None:
        """Add `delta` to a gauge."""
        key, number = _key(name, labels), _number(delta)
        with self._lock:
            if isinstance(number, str):
                self._refused.append(("adjust_gauge", key, number))
                return
            changed = self._gauges if key in self._gauges else self._deltas
            changed[key] = changed.get(key, 0) + number

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
                if isinstance(several, Iterable):
                    for seconds in several:
                        self.record_duration(name, seconds, labels)
                else:
                    self._refused.append(("record_duration", _key(name, labels), _shown(several)))
            for name, value in (gauges or {}).items():
                self.set_gauge(name, value, labels)

    def record_error(self, error: BaseException | type[BaseException]) -> None:
        """Count an error by its type."""
        key = tuple(bases_of(error if isinstance(error, type) else type(error)))
        with self._lock:
            self._errors[key] = self._errors.get(key, 0) + 1

    def take(self) -> dict[str, Any] | None:
        """Return what was collected since the last time, as plain data; None for nothing."""
        collected = (
            self._counters,
            self._durations,
            self._sizes,
            self._gauges,
            self._deltas,
            self._refused,
            self._errors,
        )
        if not any(collected):
            return None
        with self._lock:
            taken: dict[str, Any] = {
                "increment_counter": _each(self._counters),
                "record_duration": _each_of_several(self._durations),
                "record_size": _each_of_several(self._sizes),
                "set_gauge": _each(self._gauges),
                "adjust_gauge": _each(self._deltas),
                "errors": list(self._errors.items()),
            }
            for method, (name, labels), text in self._refused:
                taken[method].append((name, text, labels))
            for one in collected:
                one.clear()
        return taken

    def _append(
        self, method: str, collected: dict[_Key, list[float]], key: _Key, value: float
    ) -> None:
        number = _number(value, 0)
        with self._lock:
            if isinstance(number, str):
                self._refused.append((method, key, number))
            else:
                collected.setdefault(key, []).append(number)


def record_in(metrics: Any, taken: Mapping[str, Any]) -> None:
    """Record in the parent's registry what a child has taken out of its own. Never raises."""
    for method in _METHODS:
        record: Any = getattr(metrics, method, None)  # some registries have fewer methods
        for name, value, labels in taken[method]:
            with suppress(Exception):  # of any kind: no metric is worth a message
                record(name, value, **({"labels": dict(labels)} if labels else {}))
    for bases, count in taken["errors"]:
        for _ in range(count):
            with suppress(Exception):
                metrics.record_error(type_of(bases))


def _key(name: str, labels: Labels) -> _Key:
    """Return the name and the labels as they can be sent, whatever the program gave."""
    text = name if isinstance(name, str) else _shown(name)
    if not labels:
        return text, ()
    try:
        pairs = {str(label): "" if one is None else str(one) for label, one in labels.items()}
    except Exception:  # noqa: BLE001 - that of the user's own class, or no mapping
        pairs = {_shown(labels): ""}
    return text, tuple(sorted(pairs.items(), key=itemgetter(0)))


def _each(values: Mapping[_Key, float]) -> list[tuple[str, float, _Labels]]:
    return [(name, value, labels) for (name, labels), value in values.items()]


def _each_of_several(values: Mapping[_Key, list[float]]) -> list[tuple[str, float, _Labels]]:
    return [
        (name, value, labels) for (name, labels), several in values.items() for value in several
    ]


def _number(value: Any, least: float = -math.inf) -> float | str:
    """Return a number that can be summed up and sent; what is none becomes text."""
    try:
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if is_number:
            is_exact = isinstance(value, int) and abs(value) <= LARGEST_EXACT
            number: float = value if is_exact else float(value)
            if least <= number and math.isfinite(number):
                return number
    except Exception:  # noqa: BLE001, S110 - such as OverflowError, or of the number's own code
        pass
    return _shown(value)


def _shown(value: object) -> str:
    try:
        return repr(value)[:MAX_SHOWN_CHARS]
    except Exception:  # noqa: BLE001 - such as of an int with more digits than may be written
        return f"a {type(value).__name__}"
