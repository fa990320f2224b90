"""WorkerMetrics: what a worker counts, measures and reports.

Record from any thread, at well under a microsecond a call; read everything at once, as one
consistent picture:

    metrics = WorkerMetrics("stt-worker-1", service="stt")
    metrics.increment_counter("successful_transcriptions", labels={"language": "en"})
    metrics.set_gauge("model_replicas", 2)
    with metrics.timer("model_inference_time"):
        text = transcribe(audio)
    metrics.get_metrics_data()
"""

from __future__ import annotations

import re
import threading
import time
import weakref
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from math import log
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from shared_sync.common.fork import renew_in_forks
from shared_sync.errors import ConfigurationError
from shared_sync.metrics import alerts as metrics_alerts
from shared_sync.metrics import json_format
from shared_sync.metrics.alerts import Alerts, Threshold
from shared_sync.metrics.catalogue import KINDS, KNOWN, OWN, SERVICES, About, Kind, Ratio
from shared_sync.metrics.counter_window import CounterWindow
from shared_sync.metrics.error_categories import CATEGORIES, Categories
from shared_sync.metrics.histogram import (
    LONGEST_SECONDS,
    OFFSET,
    PER_LOG,
    SHORTEST_SECONDS,
    Histogram,
    SlidingHistogram,
    bucket_of,
)
from shared_sync.metrics.labels import (
    MAX_LABEL_SETS,
    OTHER,
    LabelSet,
    check_name,
    clean,
    folded,
    label_set,
    shown,
)
from shared_sync.metrics.resources import Resources
from shared_sync.metrics.snapshot import (
    LARGEST,
    CounterSnapshot,
    DurationSnapshot,
    MetricsSnapshot,
    within,
)

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["CATEGORIES", "MAX_ERROR_TYPES", "MAX_LABEL_SETS", "MetricsSnapshot", "WorkerMetrics"]

MAX_ERROR_TYPES = 100  # told apart; the rest is the type "other" of its category

Labels: TypeAlias = "Mapping[str, str] | None"
_Key: TypeAlias = "str | tuple[str, LabelSet]"  # of a series: its metric, and its labels if any
T = TypeVar("T")

_DROPPED = "metrics_dropped_label_sets"
_ERRORS = "errors."
_ONE = 1  # what nearly every call adds; all its like are one object in CPython
_EXACT = 2**53  # the largest int up to which floats have them all
_LONGEST_SECONDS = 1e15
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,200}")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.:-]")
_NAMESPACE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)?")
_UNIT_NAME = re.compile(r"[A-Za-z0-9_]{0,50}")
_UNIT = re.compile(r"(?<=.)(?:_ms|_milliseconds|_seconds)+$")
_HEALTH_KEYS = (
    *("instance_id", "uptime_seconds", "memory_usage_mb", "cpu_percent"),
    *("jobs_processed", "jobs_failed", "total_errors", "error_rate"),
)


class WorkerMetrics:
    """Counters, gauges, durations and errors of one worker. Any thread may call any method.

    Metrics appear when they are declared or first recorded, and stay for the life of the object.
    Names are up to 200 ASCII letters, digits and `_ . : -`, and a name is of one kind for ever; it
    must never hold an id or other data that keeps changing. A call that breaks this, or gives a
    number that makes no sense, is a mistake in the program: it raises ConfigurationError and
    records nothing. Recording waits for nothing but the other threads' recordings and a reader's
    copy.

    `service` ("gateway", "stt" or "translation") declares the metrics such a service is known for,
    so that they are shown from the start; docs/metrics.md lists them.

    `labels`, such as `{"language": "en"}`, tell the parts of a metric from each other. All calls
    for one metric use the same label names. Values must come from a small set, never from ids: of
    each metric MAX_LABEL_SETS label sets are told apart, and recordings with others are counted
    under the value "other", and in the counter `metrics_dropped_label_sets`. Labels written in the
    order of their names are the fastest.

    `namespace` is put before all names in the formats for Prometheus only, and `bound_ratio` is how
    far apart the bounds of buckets are there: 1.05 keeps quantiles within 5 %, at some 400 time
    series for each series of durations; 1.2 needs a third of them and is good to 17 %.

    Averages, percentiles, maxima, rates and ratios look back over `window_seconds`, and up to a
    tenth of it further; rates and ratios to the start, as long as nobody has read the metrics. A
    series of durations takes 15 to 20 KB, anything else next to nothing. `clock` counts seconds and
    never runs backwards; `wall` tells the time in seconds since 1970; `resources` looks at the
    process and the machine, from a background thread that starts when the metrics are first read.
    """

    def __init__(
        self,
        instance_id: str,
        *,
        service: str | None = None,
        namespace: str = "",
        window_seconds: float = 300.0,
        bound_ratio: float = 1.05,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        resources: Resources | None = None,
    ) -> None:
        if not isinstance(instance_id, str) or not instance_id or clean(instance_id) != instance_id:
            raise ConfigurationError(
                f"instance_id must be a non-empty str of valid Unicode, not {instance_id!r}"
            )
        if service is not None and service not in SERVICES:
            raise ConfigurationError(
                f"service must be one of {', '.join(SERVICES)}, or None; not {service!r}"
            )
        if not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace):
            raise ConfigurationError(
                f"namespace takes letters, digits and _, not a digit first; not {namespace!r}"
            )
        if not 0 < window_seconds <= LARGEST:
            raise ConfigurationError(f"window_seconds must be more than 0, not {window_seconds!r}")
        if not 1.02 <= bound_ratio <= 10:
            raise ConfigurationError(
                f"bound_ratio must be a number from 1.02 to 10, not {bound_ratio!r}"
            )
        # Fixed after construction.
        self.instance_id = instance_id
        self._namespace = namespace
        self._window_seconds = window_seconds
        self._bound_ratio = bound_ratio
        self._clock = clock
        self._wall = wall
        self._started = clock()
        if resources is None:
            resources = Resources(
                clock=clock,
                window_seconds=window_seconds,
                on_tick=self._look,  # held weakly
            )
            weakref.finalize(self, resources.stop)
        self._resources = resources
        # Each safe by itself.
        self._categories = Categories()
        self._alerts = Alerts()
        # Guarded by the lock. While it is held for a recording, nothing is called: in a call Python
        # may switch threads, and all the others would then wait for one that does not run.
        # Series are only ever added, so looking for one needs no lock. It is re-entrant, because
        # a signal handler or a finalizer may record while its thread is in here.
        self._lock = threading.RLock()  # a new one in a forked process
        self._counters: dict[_Key, float] = {}
        self._gauges: dict[_Key, float] = {}
        self._durations: dict[_Key, SlidingHistogram] = {}
        self._durations_as_spelled: dict[_Key, SlidingHistogram] = {}  # with and without a unit
        self._counter_window: CounterWindow[_Key] = CounterWindow(window_seconds, self._started)
        self._kinds = dict.fromkeys(json_format.RESERVED, "built-in figure")
        self._about: dict[str, About] = {}
        self._ratios: dict[str, Ratio] = {}
        self._newest: dict[str, list[float | None]] = {}  # of each duration
        self._label_names: dict[str, tuple[str, ...]] = {"errors": ("category", "type")}
        self._label_sets: dict[str, set[LabelSet]] = {}  # those of each metric
        for metric in (*OWN, *SERVICES.get(service or "", ())):
            if isinstance(metric, Ratio):
                self._declare_ratio(metric)
            else:
                self._declare(metric)
        renew_in_forks(self, WorkerMetrics._renew_lock)

    # --- declaring ---

    def declare(
        self,
        name: str,
        kind: Kind,
        description: str,
        *,
        unit: str = "",
        labels: Iterable[str] = (),
    ) -> None:
        """Make a metric known before it is used: a "counter", a "gauge" or a "duration".

        It is shown at zero from then on; with the names of its `labels` given, each of its parts is
        shown from its first recording. `unit` says what the recorded numbers are ("seconds",
        "bytes", "milliseconds", "megabytes", "percent" or a word of your own); durations are always
        recorded in seconds. For Prometheus the numbers are turned into base units. Declaring the
        same again does nothing.
        """
        if kind not in KINDS:
            raise ConfigurationError(f"kind must be one of {', '.join(KINDS)}; not {kind!r}")
        if not isinstance(description, str):
            raise ConfigurationError(f"the description of {name!r} is a text, not {description!r}")
        if not isinstance(unit, str) or not _UNIT_NAME.fullmatch(unit):
            raise ConfigurationError(f"the unit of {name!r} is a word, such as bytes; not {unit!r}")
        if kind == "duration" and isinstance(name, str):
            name, unit = _UNIT.sub("", name), "seconds"
        self._declare(About(name, kind, clean(description), unit), labels)

    def declare_ratio(self, name: str, part: str, rest: str, description: str = "") -> None:
        """Show `part` / (`part` + `rest`), two counters, as a figure of its own.

        It is that of the last `window_seconds`, and None while neither counter grows. A gauge of
        the same name takes its place.
        """
        text = clean(description) or f"{part} / ({part} + {rest})."
        self._declare_ratio(Ratio(name, part, rest, text))

    def register_error(self, error_type: type[BaseException], category: str) -> None:
        """Count errors of this type, and of types derived from it, in one of the CATEGORIES."""
        self._categories.register(error_type, category)

    def alert(
        self,
        figure: str,
        *,
        above: float | None = None,
        below: float | None = None,
        for_seconds: float = 0.0,
        status: str = "degraded",
    ) -> None:
        """Watch a figure of `get_metrics_data`, which must not be beyond a limit for long.

        Once it has been `above` (or `below`) its limit for `for_seconds` without a break, the
        alert fires: `get_basic_health_data` tells its `status` ("degraded" or "unhealthy") and the
        reason, until the figure is back. It is looked at whenever the metrics are read, and from
        the first time on once a second. A figure that is None or not there is never beyond a limit.
        """
        if not isinstance(figure, str) or not figure:
            raise ConfigurationError(f"figure is the name of a figure, not {figure!r}")
        self._alerts.add(Threshold(figure, above, below, for_seconds, status))

    # --- recording ---

    def increment_counter(self, name: str, value: float = 1, labels: Labels = None) -> None:
        """Add `value`, 0 or more, to a counter.

        A counter `errors.ValueError` is the errors of type ValueError; plain `errors` are those of
        type "other". `record_error` knows more of an error than its name.
        """
        if value is not _ONE and (value.__class__ is not int or not 0 <= value <= _EXACT):
            value = _number(name, value, 0)
        try:
            key = name if labels is None else (name, tuple(labels.items()))
            with self._lock:
                self._counters[key] += value
        except (KeyError, TypeError, AttributeError):
            key = self._new_counter(name, labels)
            with self._lock:
                self._counters[key] += value

    def record_error(self, error: BaseException | type[BaseException]) -> None:
        """Count an error by category and type, never by its text.

        The category is that of the type, or of the nearest of its ancestors that is known. Only
        MAX_ERROR_TYPES types are told apart, the rest is type "other" of its category.
        """
        kind = error if isinstance(error, type) else type(error)
        key = self._error_key(self._categories.of(kind), kind.__name__)
        with self._lock:
            self._counters[key] += 1

    def record_duration(self, name: str, seconds: float, labels: Labels = None) -> None:
        """Record that something took `seconds`, 0 or more.

        A unit at the end of the name (`_ms`, `_milliseconds`, `_seconds`) is dropped, for the
        figures name their own; so `latency` and `latency_ms` are one duration, and both take
        seconds.
        """
        if seconds.__class__ is float and SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
            bucket = int(log(seconds) * PER_LOG + OFFSET)  # bucket_of, written out
        else:
            seconds = _length(name, seconds)
            bucket = bucket_of(seconds)
        try:
            series = self._durations_as_spelled[
                name if labels is None else (name, tuple(labels.items()))
            ]
        except (KeyError, TypeError, AttributeError):
            series = self._new_duration(name, labels)
        now = self._clock()
        with self._lock:
            if now >= series.ends:
                series.turn(now)  # once in a slice of the window
            # SlidingHistogram.record, written out to call nothing: not even min and max.
            series.counts[bucket] += 1
            series.total += seconds
            if seconds < series.low:  # noqa: PLR1730
                series.low = seconds
            if seconds > series.high:  # noqa: PLR1730
                series.high = seconds
            series.newest[0] = seconds

    @contextmanager
    def timer(self, name: str, labels: Labels = None) -> Iterator[None]:
        """Record how long the `with` block took, also if it raises. The name is checked before."""
        self._new_duration(name, labels, dropped=0)
        began = self._clock()
        try:
            yield
        finally:
            self.record_duration(name, self._clock() - began, labels)

    def set_gauge(self, name: str, value: float, labels: Labels = None) -> None:
        """Leave a gauge at `value`, any finite number."""
        if value.__class__ is not float or not -LARGEST <= value <= LARGEST:
            value = _number(name, value, -LARGEST)
        key: _Key = name
        if labels is not None or name.__class__ is not str or name not in self._gauges:
            key = self._gauge_key(name, labels)
        with self._lock:
            self._gauges[key] = value

    def update_gauge(self, name: str, value: float, labels: Labels = None) -> None:
        """Leave a gauge at `value`: another name for `set_gauge`."""
        self.set_gauge(name, value, labels)

    def adjust_gauge(self, name: str, delta: float, labels: Labels = None) -> None:
        """Move a gauge by `delta`, from 0 if it was never set."""
        delta = _number(name, delta, -LARGEST)
        key = self._gauge_key(name, labels)
        with self._lock:
            if key in self._gauges:
                self._gauges[key] += delta
            else:
                self._gauges[key] = delta

    def record_batch(
        self,
        *,
        counters: Mapping[str, float] | None = None,
        durations: Mapping[str, Iterable[float]] | None = None,
        gauges: Mapping[str, float] | None = None,
        labels: Labels = None,
    ) -> None:
        """Record many figures as one: a reader sees all of them or none of them.

        Each counter grows by its number, each duration takes in all its lengths in seconds, and
        each gauge is left at its value; all with the same `labels`. Takes the lock once. If one of
        the figures or names is refused, nothing is recorded.
        """
        levels = [
            (name, _number(name, level, -LARGEST))
            for name, level in (gauges.items() if gauges else ())
        ]
        growths = [
            (name, _number(name, growth, 0))
            for name, growth in (counters.items() if counters else ())
        ]
        checked = [
            (name, _lengths(name, several))
            for name, several in (durations.items() if durations else ())
        ]
        left = [(self._gauge_key(name, labels), level) for name, level in levels]
        added = [
            (
                name
                if labels is None and name in self._counters
                else self._new_counter(name, labels),
                growth,
            )
            for name, growth in growths
        ]
        lengths = self._placed(checked, labels)
        now = self._clock()
        with self._lock:
            for key, growth in added:
                self._counters[key] += growth
            for key, level in left:
                self._gauges[key] = level
            for series, bucket, seconds in lengths:  # each as in record_duration
                if now >= series.ends:
                    series.turn(now)
                series.counts[bucket] += 1
                series.total += seconds
                if seconds < series.low:  # noqa: PLR1730
                    series.low = seconds
                if seconds > series.high:  # noqa: PLR1730
                    series.high = seconds
                series.newest[0] = seconds

    # --- reading ---

    def snapshot(self) -> MetricsSnapshot:
        """Return everything as of one moment. Sums and sorting are done after the lock is free."""
        with suppress(RuntimeError):  # no more threads are to be had: then without what they watch
            self._resources.start()
        resources = self._resources.sample()
        now = self._clock()
        taken_at = self._wall()
        with self._lock:
            counters = self._counters.copy()
            gauges = self._gauges.copy()
            durations = {key: series.copy() for key, series in list(self._durations.items())}
            newest = {name: shared[0] for name, shared in list(self._newest.items())}
            kinds = self._kinds.copy()
            ratios = self._ratios.copy()
            about = self._about.copy()
            since, before = self._counter_window.base(now)
            self._mark(now, counters)
        return MetricsSnapshot(
            instance_id=self.instance_id,
            taken_at=taken_at,
            uptime_seconds=now - self._started,
            window_seconds=self._window_seconds,
            growth_seconds=now - since,
            counters=_by_name(
                (name for name, kind in kinds.items() if kind == "counter"),
                {
                    key: CounterSnapshot(within(total), within(total) - within(before.get(key, 0)))
                    for key, total in counters.items()
                },
            ),
            gauges=_by_name((), {key: within(level) for key, level in gauges.items()}),
            durations=_by_name(
                newest,
                {key: DurationSnapshot(*series.read(now)) for key, series in durations.items()},
            ),
            newest=newest,
            ratios=ratios,
            about=ChainMap(about, KNOWN),
            resources=resources,
        )

    def quantile_seconds(self, name: str, share: float, *, min_count: int = 1) -> float | None:
        """Return the length that `share` (0 to 1) of a duration's recordings do not exceed.

        It is that within the last `window_seconds` or that since the start, whichever is longer:
        what takes longer than both is unusual. Each is told from `min_count` recordings or more, of
        whatever labels; None if there are fewer. Costs far less than reading all metrics.
        """
        name = _UNIT.sub("", name)
        now = self._clock()
        with self._lock:
            parts = [
                series.copy()
                for key, series in list(self._durations.items())
                if name == (key if isinstance(key, str) else key[0])
            ]
        read = [part.read(now) for part in parts]
        wholes = [Histogram.merged(spans) for spans in zip(*read, strict=True)]
        told = [whole.quantile(share) for whole in wholes if whole.count >= max(1, min_count)]
        return max((seconds for seconds in told if seconds is not None), default=None)

    def get_metrics_data(self) -> dict[str, Any]:
        """Return all metrics as one flat dict, ready for JSON.

        Always there: `instance_id`, `timestamp` (ISO 8601, UTC), `uptime_seconds` (since this
        object was made), `window_seconds` (see below), `errors` and `errors_by_category` (dicts,
        number by type and by category), `total_errors`, `error_rate` as in
        `MetricsSnapshot.error_rate`, and of the process and its machine

        - `memory_usage_mb` (resident, of 1024 * 1024 bytes), `memory_limit_mb` (of the container)
          and `memory_used_ratio` (what the container uses of it, without what can be dropped);
        - `cpu_percent` (since the last look, 100 for one busy core), `threads`,
          `open_descriptors`, `gc_collections`;
        - `interpreter_stall_ms`: the longest within the window that no Python code could run,
          because a C extension held the interpreter lock or the process was frozen;
        - `gpu_memory_used_mb{gpu=0}`, `gpu_memory_total_mb{gpu=0}`,
          `gpu_utilization_percent{gpu=0}` and `gpu_temperature_celsius{gpu=0}` of each NVIDIA GPU,
          with nvidia-ml-py installed.

        Counters and gauges come under their own names, and each counter `x` with `x_per_second`,
        its growth within the window. A duration `x` gives `x_ms` (the last one), `avg_x_ms`,
        `p50_x_ms`, `p95_x_ms`, `p99_x_ms`, `max_x_ms` and `x_window_count` (within the window), and
        `x_count` (since the start). Parts with labels come as `x{language=en}` beside the whole of
        their counter or duration; gauges have no whole. Ratios come under their own names.

        The window is the last `window_seconds`, and up to a tenth more. What is not known is None:
        an average over a window in which nothing was recorded, or a figure that the system does not
        give away. A counter or gauge of the program's own that has the name of one of these figures
        takes its place, except for `instance_id`, `timestamp`, `window_seconds`, `errors`,
        `errors_by_category` and `total_errors`.
        """
        return json_format.flat(self.snapshot())

    def get_alerts(self) -> list[dict[str, Any]]:
        """Return the state of every alert as of now.

        Each is a dict of `figure`, its `value`, the limit (`above` or `below`), `for_seconds`,
        `beyond_seconds` (how long it has been beyond the limit), `status` ("healthy" unless it
        fires), and `reason` (None unless it fires).
        """
        return self._alerts.judge(self.get_metrics_data(), self._clock())

    def get_basic_health_data(self) -> dict[str, Any]:
        """Return the few figures for a health page, as in `get_metrics_data`.

        They are `instance_id`, `uptime_seconds`, `memory_usage_mb`, `cpu_percent`,
        `jobs_processed`, `jobs_failed`, `total_errors` and `error_rate`. A counter not used so far
        is 0. While an alert fires, `status` and `reasons` tell of it; `alerts` has the state of
        all, if there are any.
        """
        data = self.get_metrics_data()
        health = {key: data.get(key, 0) for key in _HEALTH_KEYS}
        if not self._alerts:
            return health
        states = self._alerts.judge(data, self._clock())
        return {**metrics_alerts.verdict(states), **health, "alerts": states}

    def collect(self) -> Iterator[Metric]:
        """Yield prometheus_client metric families of one snapshot.

        That makes this object a collector, to be registered in a `CollectorRegistry`: one of them
        in a registry, as two would yield the same names.
        """
        from shared_sync.metrics import prometheus  # noqa: PLC0415 (slow to load, and seldom used)

        return prometheus.families(self.snapshot(), self._namespace, self._bound_ratio)

    def render_prometheus(self) -> bytes:
        """Return all metrics in Prometheus's text format 0.0.4."""
        from shared_sync.metrics import prometheus  # noqa: PLC0415 (slow to load, and seldom used)

        return prometheus.render_text(self)

    def render_openmetrics(self) -> bytes:
        """Return all metrics in the text format of OpenMetrics 1.0."""
        from shared_sync.metrics import prometheus  # noqa: PLC0415 (slow to load, and seldom used)

        return prometheus.render_openmetrics(self)

    # --- inside ---

    def _renew_lock(self) -> None:
        """Replace the lock, which a thread of the parent process may hold."""
        self._lock = threading.RLock()

    def _look(self) -> None:
        """What has to be done now and then, also if nobody reads."""
        if self._alerts:
            self.get_alerts()
            return
        with self._lock:
            self._mark(self._clock(), self._counters)

    def _mark(self, now: float, counters: Mapping[_Key, float]) -> None:
        """Remember what the counters stand at, if it is time to. The caller holds the lock."""
        if self._counter_window.is_due(now):
            self._counter_window.add(now, dict(counters))

    def _declare_ratio(self, ratio: Ratio) -> None:
        for counter in (ratio.part, ratio.rest):
            self._new_counter(counter, None)
        with self._lock:
            if self._kinds.get(ratio.name) != "gauge":
                self._claim(ratio.name, "ratio")
            known = self._ratios.setdefault(ratio.name, ratio)
            if known != ratio:
                raise ConfigurationError(
                    f"{ratio.name!r} is declared already, as {known.part} against {known.rest}: "
                    f"{known.help!r}"
                )

    def _declare(self, metric: About, labels: Iterable[str] = ()) -> None:
        if isinstance(labels, str):
            raise ConfigurationError(f"labels of {metric.name!r} are several names: ({labels!r},)")
        names = tuple(sorted(labels))
        for name in names:
            check_name(metric.name, name)
        with self._lock:
            self._claim(metric.name, metric.kind)
            known = self._about.setdefault(metric.name, metric)
            if known != metric:
                raise ConfigurationError(
                    f"{metric.name!r} is declared already, as {known.kind} of unit "
                    f"{known.unit!r}: {known.help!r}"
                )
            if names:
                self._check_label_names(metric.name, names)
            if metric.kind == "duration":
                self._newest.setdefault(metric.name, [None])
        if names or metric.name == "errors":
            return
        if metric.kind == "counter":
            self._new_counter(metric.name, None)
        elif metric.kind == "gauge":
            self.adjust_gauge(metric.name, 0)
        else:
            self._new_duration(metric.name, None)

    def _new_counter(self, name: str, labels: Labels) -> _Key:
        """Make the series, unless it exists, and return the key to count under."""
        if isinstance(name, str) and (name == "errors" or name.startswith(_ERRORS)):
            if labels:
                raise ConfigurationError(f"{name!r} has labels of its own, category and type")
            error_type = name[len(_ERRORS) :]
            return self._error_key(self._categories.of_name(error_type), error_type)
        checked = label_set(name, labels) if labels is not None else ()
        with self._lock:
            name = self._claim(name, "counter")
            key = self._key(name, checked)
            self._counters.setdefault(key, 0)
        return key

    def _error_key(self, category: str, error_type: str) -> _Key:
        """The same for an error. Odd names are put right: reporting errors must not fail."""
        error_type = _NOT_IN_NAMES.sub("_", error_type)[:100] or OTHER
        key = ("errors", (("category", category), ("type", error_type)))
        with self._lock:
            if key not in self._counters and error_type != OTHER:
                known = self._label_sets.setdefault("errors", set())
                if len(known) < MAX_ERROR_TYPES:
                    known.add(key[1])
                else:
                    key = ("errors", (("category", category), ("type", OTHER)))
                    self._counters[_DROPPED] += 1
            self._counters.setdefault(key, 0)
        return key

    def _gauge_key(self, name: str, labels: Labels) -> _Key:
        if labels is None and isinstance(name, str) and name in self._gauges:
            return name
        checked = label_set(name, labels) if labels is not None else ()
        with self._lock:
            return self._key(self._claim(name, "gauge"), checked)

    def _new_duration(self, name: str, labels: Labels, *, dropped: int = 1) -> SlidingHistogram:
        """Return the series, made unless it exists; `dropped` are lost to "other" if it may not."""
        if labels is None and isinstance(name, str) and name in self._durations_as_spelled:
            return self._durations_as_spelled[name]
        now = self._clock()
        checked = label_set(name, labels) if labels is not None else ()
        with self._lock:
            without_unit = self._claim(
                _UNIT.sub("", name) if isinstance(name, str) else name, "duration"
            )
            name = self._claim(name, "duration")
            key = self._key(without_unit, checked, dropped)
            if key not in self._durations:
                newest = self._newest.setdefault(without_unit, [None])
                self._durations[key] = SlidingHistogram(self._window_seconds, now, newest)
            series = self._durations[key]
            if key == ((without_unit, checked) if checked else without_unit):
                self._durations_as_spelled[(name, checked) if checked else name] = series
        return series

    def _placed(
        self, durations: Iterable[tuple[str, list[float]]], labels: Labels
    ) -> list[tuple[SlidingHistogram, int, float]]:
        """Return each length with its series and its bucket."""
        lengths: list[tuple[SlidingHistogram, int, float]] = []
        for name, several in durations:
            series = self._durations_as_spelled.get(name) if labels is None else None
            if series is None:
                series = self._new_duration(name, labels, dropped=len(several))
            for each in several:
                if SHORTEST_SECONDS <= each <= LONGEST_SECONDS:
                    lengths.append((series, int(log(each) * PER_LOG + OFFSET), each))
                else:
                    lengths.append((series, bucket_of(each), each))
        return lengths

    def _key(self, metric: str, labels: LabelSet, dropped: int = 1) -> _Key:
        """Return the key for these labels, or for "other". The caller holds the lock."""
        if not labels:
            return metric
        self._check_label_names(metric, tuple(name for name, _ in labels))
        known = self._label_sets.setdefault(metric, set())
        if labels not in known:
            if len(known) >= MAX_LABEL_SETS:
                self._counters[_DROPPED] += dropped
                return (metric, folded(labels))
            known.add(labels)
        return (metric, labels)

    def _check_label_names(self, metric: str, names: tuple[str, ...]) -> None:
        """Raise if the metric has others already. The caller holds the lock."""
        known = self._label_names.setdefault(metric, names)
        if names != known:
            raise ConfigurationError(
                f"{metric!r} has the labels {', '.join(known)}, not {', '.join(names)}; "
                "use the same in every call"
            )

    def _claim(self, name: str, kind: str) -> str:
        """Note that `name` is of this kind and return it, or raise. The caller holds the lock."""
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"a metric's name is 1 to 200 ASCII letters, digits and _ . : -, not {shown(name)}"
            )
        if name.startswith(_ERRORS):
            raise ConfigurationError(f"{name!r} is a number of errors and cannot be a {kind}")
        name = str.__str__(name)  # a member of an Enum would be shown as another text
        known = self._kinds.setdefault(name, kind)
        if known == "ratio" and kind == "gauge":
            self._kinds[name] = kind  # a figure of the program's own takes its place
        elif known != kind:
            raise ConfigurationError(
                f"{name!r} is a {known} already and cannot be a {kind} too; choose another name"
            )
        return name


def _by_name(names: Iterable[str], series: Mapping[_Key, T]) -> dict[str, dict[LabelSet, T]]:
    """Sort series under their metrics; those of `names` are there even without a series."""
    metrics: dict[str, dict[LabelSet, T]] = {name: {} for name in names}
    for key, content in series.items():
        name, labels = (key, ()) if isinstance(key, str) else key
        metrics.setdefault(name, {})[labels] = content
    return metrics


def _number(name: str, value: float, least: float) -> float:
    """Return `value` as an int or float (numpy's numbers become these), or raise."""
    if value.__class__ is float and least <= value <= LARGEST:
        return value
    if value.__class__ is int and 0 <= value <= _EXACT:
        return value
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            # A large int becomes a float, so that sums with floats never fail.
            exact = isinstance(value, Integral) and -_EXACT <= value <= _EXACT
            number = int(value) if exact else float(value)
            if least <= number <= LARGEST:
                return number
        except (OverflowError, ValueError):
            pass
    limits = "a finite number" if least else "a finite number of 0 or more"
    raise ConfigurationError(f"{name!r} takes {limits}, not {shown(value)}")


def _length(name: str, seconds: float) -> float:
    """Return a length of time in seconds, or raise."""
    number = _number(name, seconds, 0)
    if number > _LONGEST_SECONDS:
        raise ConfigurationError(f"{name!r} takes at most 1e15 seconds, not {shown(seconds)}")
    return number


def _lengths(name: str, several: Iterable[float]) -> list[float]:
    """Return several lengths of time, each checked, or raise."""
    if several.__class__ is not list and not isinstance(several, Iterable):
        raise ConfigurationError(f"{name!r} takes several lengths in a batch, not {shown(several)}")
    return [
        each if each.__class__ is float and 0 <= each <= _LONGEST_SECONDS else _length(name, each)
        for each in several
    ]
