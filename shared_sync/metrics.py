"""WorkerMetrics: what a worker counts, measures and reports.

Record from any thread, at about a microsecond a call; read everything at once, as one consistent
picture:

    metrics = WorkerMetrics("stt-worker-1")
    metrics.increment_counter("successful_transcriptions")
    metrics.set_gauge("cache_hit_ratio", 0.93)
    with metrics.timer("model_inference_time"):
        text = transcribe(audio)
    metrics.get_metrics_data()
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from shared_sync._histogram import SlidingHistogram, bucket_of
from shared_sync._process import ProcessProbe
from shared_sync._snapshot import DurationSnapshot, MetricsSnapshot
from shared_sync.errors import ConfigurationError

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["MAX_ERROR_TYPES", "MetricsSnapshot", "WorkerMetrics"]

MAX_ERROR_TYPES = 100  # told apart; one of them is "other", which takes the rest
_ERRORS = "errors."
_OTHER = "other"
_LARGEST = sys.float_info.max
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,200}")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.:-]")
_NAMESPACE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)?")
_UNIT = re.compile(r"(?<=.)(?:_ms|_milliseconds|_seconds)+$")
_HEALTH_KEYS = (
    *("instance_id", "uptime_seconds", "memory_usage_mb", "cpu_percent"),
    *("jobs_processed", "jobs_failed", "total_errors", "error_rate"),
)


class WorkerMetrics:
    """Counters, gauges, durations and errors of one worker. Any thread may call any method.

    Metrics appear when they are first recorded and stay for the life of the object, so a name must
    never hold an id or other data that keeps changing. Names are up to 200 ASCII letters, digits
    and `_ . : -`, and a name is of one kind for ever. A call that breaks this, or gives a number
    that makes no sense, is a mistake in the program: it raises ConfigurationError and records
    nothing. Recording waits for nothing but the other threads' recordings and a reader's copy.

    `namespace` is put before all names in the Prometheus format only. Averages, percentiles and
    maxima look back over `window_seconds`, and up to a tenth of it further. A duration takes up to
    130 KB, anything else next to nothing. `clock` counts seconds and never runs backwards; `wall`
    tells the time in seconds since 1970; `probe` looks at the process.
    """

    def __init__(
        self,
        instance_id: str,
        *,
        namespace: str = "",
        window_seconds: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        probe: ProcessProbe | None = None,
    ) -> None:
        if not isinstance(instance_id, str) or not instance_id:
            raise ConfigurationError(f"instance_id must be a non-empty str, not {instance_id!r}")
        if not _NAMESPACE.fullmatch(namespace):
            raise ConfigurationError(
                f"namespace takes letters, digits and _, not a digit first; not {namespace!r}"
            )
        if not 0 < window_seconds <= _LARGEST:
            raise ConfigurationError(f"window_seconds must be more than 0, not {window_seconds!r}")
        # Fixed after construction.
        self.instance_id = instance_id
        self._namespace = namespace
        self._window_seconds = window_seconds
        self._clock = clock
        self._wall = wall
        self._started = clock()
        self._probe = ProcessProbe(clock=clock) if probe is None else probe
        # Guarded by the lock. While it is held for a recording, nothing is called: in a call Python
        # may switch threads, and all the others would then wait for one that does not run.
        # Names are only ever added, so looking for one needs no lock.
        self._lock = threading.Lock()
        self._counters: dict[str, float] = {}
        self._gauges: dict[str, float] = {}
        self._durations: dict[str, SlidingHistogram] = {}
        self._durations_as_spelled: dict[str, SlidingHistogram] = {}  # with and without a unit
        self._error_types = 0
        self._kinds = {
            "instance_id": "built-in figure",
            "timestamp": "built-in figure",
            "total_errors": "built-in figure",
            "errors": "counter",
        }

    def increment_counter(self, name: str, value: float = 1) -> None:
        """Add `value`, 0 or more, to a counter.

        A counter `errors.ValueError` is the errors of type ValueError; plain `errors` are those of
        type "other". Only MAX_ERROR_TYPES types are told apart, the rest is "other" too.
        """
        if value.__class__ is not int or value < 0:
            value = _number(name, value, 0)
        if name not in self._counters:
            name = self._new_counter(name)
        with self._lock:
            self._counters[name] += value

    def record_error(self, error: BaseException | type[BaseException]) -> None:
        """Count an error by the name of its type: the same as counter `errors.<type>`."""
        kind = error if isinstance(error, type) else type(error)
        self.increment_counter(_ERRORS + kind.__name__)

    def record_duration(self, name: str, seconds: float) -> None:
        """Record that something took `seconds`, 0 or more.

        A unit at the end of the name (`_ms`, `_milliseconds`, `_seconds`) is dropped, for the
        figures name their own; so `latency` and `latency_ms` are one duration, and both take
        seconds.
        """
        if seconds.__class__ is not float or not 0 <= seconds <= _LARGEST:
            seconds = _number(name, seconds, 0)
        series = self._durations_as_spelled.get(name) or self._new_duration(name)
        bucket = bucket_of(seconds)
        now = self._clock()
        with self._lock:
            if now >= series.ends:
                series.turn(now)  # once in a slice of the window
            # Histogram.record, written out to call nothing: not even min and max.
            current = series.current
            current.counts[bucket] += 1
            current.count += 1
            current.total += seconds
            if seconds < current.low:  # noqa: PLR1730
                current.low = seconds
            if seconds > current.high:  # noqa: PLR1730
                current.high = seconds
            series.last = seconds

    @contextmanager
    def timer(self, name: str) -> Iterator[None]:
        """Record how long the `with` block took, also if it raises. The name is checked before."""
        if name not in self._durations_as_spelled:
            self._new_duration(name)
        began = self._clock()
        try:
            yield
        finally:
            self.record_duration(name, self._clock() - began)

    def set_gauge(self, name: str, value: float) -> None:
        """Leave a gauge at `value`, any finite number."""
        if value.__class__ is not float or not -_LARGEST <= value <= _LARGEST:
            value = _number(name, value, -_LARGEST)
        if name not in self._gauges:
            self._new_gauge(name)
        with self._lock:
            self._gauges[name] = value

    def update_gauge(self, name: str, value: float) -> None:
        """Leave a gauge at `value`: another name for `set_gauge`."""
        self.set_gauge(name, value)

    def snapshot(self) -> MetricsSnapshot:
        """Return everything as of one moment. Sums and sorting are done after the lock is free."""
        process = self._probe.sample()
        now = self._clock()
        taken_at = self._wall()
        with self._lock:
            counters = self._counters.copy()
            gauges = self._gauges.copy()
            durations = {name: series.copy() for name, series in self._durations.items()}
        return MetricsSnapshot(
            instance_id=self.instance_id,
            taken_at=taken_at,
            uptime_seconds=now - self._started,
            counters={k: v for k, v in counters.items() if not k.startswith(_ERRORS)},
            errors={k[len(_ERRORS) :]: v for k, v in counters.items() if k.startswith(_ERRORS)},
            gauges=gauges,
            durations={
                name: DurationSnapshot(series.last, series.recent(now), series.lifetime())
                for name, series in durations.items()
            },
            process=process,
        )

    def get_metrics_data(self) -> dict[str, Any]:
        """Return all metrics as one flat dict, ready for JSON.

        Always there: `instance_id`, `timestamp` (ISO 8601, UTC), `uptime_seconds` (since this
        object was made), `memory_usage_mb` (resident, of 1024 * 1024 bytes), `cpu_percent` (since
        the last look, 100 for one busy core), `open_descriptors`, `threads`, `errors` (a dict,
        number by type), `total_errors`, and `error_rate` as in `MetricsSnapshot.error_rate`.

        Counters and gauges come under their own names. A duration `x` gives `x_ms` (the last one),
        `avg_x_ms`, `p50_x_ms`, `p95_x_ms`, `p99_x_ms` and `max_x_ms` (within the window), and
        `x_count` (since the start). What is not known is None: an average over a window in which
        nothing was recorded, or a figure that the system does not give away. A counter or gauge of
        the program's own that has the name of one of these figures takes its place, except for
        `instance_id`, `timestamp`, `errors` and `total_errors`.
        """
        snapshot = self.snapshot()
        process = snapshot.process
        data: dict[str, Any] = {
            "instance_id": snapshot.instance_id,
            "timestamp": datetime.fromtimestamp(snapshot.taken_at, timezone.utc).isoformat(
                timespec="milliseconds"
            ),
            "uptime_seconds": round(snapshot.uptime_seconds, 3),
            "memory_usage_mb": _rounded(process.memory_bytes, 1 / 1024**2, 2),
            "cpu_percent": _rounded(process.cpu_percent, 1, 1),
            "open_descriptors": process.open_descriptors,
            "threads": process.threads,
            "errors": dict(snapshot.errors),
            "total_errors": snapshot.total_errors,
            "error_rate": snapshot.error_rate,
        }
        for name, duration in snapshot.durations.items():
            recent = duration.recent
            data |= {
                f"{name}_ms": _milliseconds(duration.last_seconds),
                f"avg_{name}_ms": _milliseconds(recent.mean()),
                f"p50_{name}_ms": _milliseconds(recent.quantile(0.50)),
                f"p95_{name}_ms": _milliseconds(recent.quantile(0.95)),
                f"p99_{name}_ms": _milliseconds(recent.quantile(0.99)),
                f"max_{name}_ms": _milliseconds(recent.maximum()),
                f"{name}_count": duration.lifetime.count,
            }
        return data | dict(snapshot.counters) | dict(snapshot.gauges)

    def get_basic_health_data(self) -> dict[str, Any]:
        """Return the few figures for a health page, as in `get_metrics_data`.

        They are `instance_id`, `uptime_seconds`, `memory_usage_mb`, `cpu_percent`,
        `jobs_processed`, `jobs_failed`, `total_errors` and `error_rate`. A counter not used so far
        is 0.
        """
        data = self.get_metrics_data()
        return {key: data.get(key, 0) for key in _HEALTH_KEYS}

    def collect(self) -> Iterator[Metric]:
        """Yield prometheus_client metric families of one snapshot.

        That makes this object a collector, to be registered in a `CollectorRegistry`: one of them
        in a registry, as two would yield the same names.
        """
        from shared_sync import _exposition  # noqa: PLC0415 (slow to load, and seldom used)

        return _exposition.families(self.snapshot(), self._namespace)

    def render_prometheus(self) -> bytes:
        """Return all metrics in Prometheus's text format 0.0.4."""
        from shared_sync import _exposition  # noqa: PLC0415 (slow to load, and seldom used)

        return _exposition.render(self)

    def _new_counter(self, name: str) -> str:
        """Make the counter, unless it exists, and return the name to count under."""
        if isinstance(name, str) and (name == "errors" or name.startswith(_ERRORS)):
            return self._new_error_type(name[len(_ERRORS) :])
        with self._lock:
            self._claim(name, "counter")
            self._counters.setdefault(name, 0)
        return name

    def _new_error_type(self, error_type: str) -> str:
        """The same for an error type. Odd ones are put right: reporting errors must not fail."""
        name = _ERRORS + (_NOT_IN_NAMES.sub("_", error_type)[:100] or _OTHER)
        with self._lock:
            if name not in self._counters and self._error_types >= MAX_ERROR_TYPES - 1:
                name = _ERRORS + _OTHER
            self._claim(name, "counter")
            if name not in self._counters:
                self._error_types += 1
                self._counters[name] = 0
        return name

    def _new_gauge(self, name: str) -> None:
        with self._lock:
            self._claim(name, "gauge")

    def _new_duration(self, name: str) -> SlidingHistogram:
        now = self._clock()
        with self._lock:
            self._claim(name, "duration")
            without_unit = _UNIT.sub("", name)
            self._claim(without_unit, "duration")
            if without_unit not in self._durations:
                self._durations[without_unit] = SlidingHistogram(self._window_seconds, now)
            series = self._durations_as_spelled[name] = self._durations[without_unit]
        return series

    def _claim(self, name: str, kind: str) -> None:
        """Note that `name` is of this kind, or raise. The caller holds the lock."""
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"a metric's name is 1 to 200 ASCII letters, digits and _ . : -, not {name!r}"
            )
        known = self._kinds.setdefault(name, kind)
        if known != kind:
            raise ConfigurationError(
                f"{name!r} is a {known} already and cannot be a {kind} too; choose another name"
            )


def _number(name: str, value: float, least: float) -> float:
    """Return `value` as an int or float (numpy's numbers become these), or raise."""
    if isinstance(value, bool) or not isinstance(value, Real) or not least <= value <= _LARGEST:
        limits = "a finite number" if least else "a finite number of 0 or more"
        raise ConfigurationError(f"{name!r} takes {limits}, not {value!r}")
    return int(value) if isinstance(value, Integral) else float(value)


def _milliseconds(seconds: float | None) -> float | None:
    return _rounded(seconds, 1000, 3)


def _rounded(figure: float | None, factor: float, digits: int) -> float | None:
    return None if figure is None else round(figure * factor, digits)
