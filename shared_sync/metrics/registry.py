"""WorkerMetrics: what a worker counts, measures and reports.

Record from any thread, at well under a microsecond a call, and read everything at once, as of one
moment:

    metrics = WorkerMetrics("stt-worker-1", service="stt")
    metrics.increment_counter("successful_transcriptions", labels={"language": "en"})
    metrics.set_gauge("model_replicas", 2)
    with metrics.timer("model_inference_time"):
        text = transcribe(audio)
    metrics.get_metrics_data()
"""

from __future__ import annotations

import re
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from shared_sync.common.guarded import Logger
from shared_sync.errors import ConfigurationError
from shared_sync.metrics import alerts as metrics_alerts
from shared_sync.metrics import json_format
from shared_sync.metrics.alerts import Alerts, Threshold
from shared_sync.metrics.batches import BatchRecorder
from shared_sync.metrics.catalogue import KNOWN, OWN, REJECTED, SERVICES, Ratio
from shared_sync.metrics.double_counting import DoubleCounting
from shared_sync.metrics.histogram import Histogram
from shared_sync.metrics.labels import clean
from shared_sync.metrics.names import without_unit
from shared_sync.metrics.resources import Resources
from shared_sync.metrics.snapshot import MetricsSnapshot
from shared_sync.metrics.values import LARGEST

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_NAMESPACE: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)?")
_HEALTH_NAMES: Final = (
    *("instance_id", "uptime_seconds", "memory_usage_mb", "cpu_percent"),
    *("jobs_processed", "jobs_failed", "total_errors", "error_rate"),
)


class WorkerMetrics(BatchRecorder):
    """Counters, gauges, durations and errors of one worker. Any thread may call any method.

    A metric appears when it is declared or first recorded, and stays for the life of the object.
    Its name is up to 200 ASCII letters, digits and `_ . : -`, and is of one kind for ever; it must
    never contain an id or other data that keeps changing.

    **No value costs work.** A call that records never raises. What cannot be recorded is dropped: a
    number that makes no sense (NaN, or less than 0 for a counter or a duration), a name that cannot
    be one or is of another kind, other label names than before. It counts in `metrics_rejected`,
    with the name of the metric as the label `name`, and is logged once for each name. In tests,
    `strict=True` lets these calls raise ConfigurationError. Declarations and alerts always raise
    it, because they are made when the program starts.

    `labels`, such as `{"language": "en"}`, tell the series of one metric from each other. All calls
    for one metric use the same label names. Values must come from a small set, never from ids: for
    each metric MAX_LABEL_SETS label sets are distinguished. Recordings with others count under the
    value "other", and in the counter `metrics_dropped_label_sets`. A value that is no text counts
    under its text, such as "200", and None under "unknown". Labels written in the order of their
    names are the fastest.

    Averages, percentiles, maxima, rates and ratios cover the last `window_seconds`, and up to a
    tenth more; rates and ratios cover the time since the start until the metrics are read for the
    first time. A series of durations takes 15 to 20 KB, any other series next to nothing.

    Args:
        instance_id: The name of this worker, which everything that is shown includes.
        service: "gateway", "stt" or "translation" declares the metrics that such a service is
            known for, so that they are shown from the start; docs/metrics.md lists them.
        namespace: Put before all names in the formats for Prometheus, and only there.
        window_seconds: Length of the window.
        bound_ratio: How far apart the bounds of Prometheus's buckets are. 1.1 puts them 8 % apart,
            so that quantiles are within 8 %, at some 210 time series for each series of durations;
            1.05 puts them 4 % apart at some 400, and 1.2 17 % apart at some 120.
        strict: Whether calls that record raise ConfigurationError instead of dropping what cannot
            be recorded. For tests.
        logger: Where to log what was dropped; None for the logger of `shared_sync.metrics`.
        clock: Counts seconds and never runs backwards.
        wall: Returns the time in seconds since 1970.
        resources: Observes the process and the machine, from a background thread that starts when
            the metrics are first read.

    Raises:
        ConfigurationError: An argument that cannot work.
    """

    def __init__(
        self,
        instance_id: str,
        *,
        service: str | None = None,
        namespace: str = "",
        window_seconds: float = 300.0,
        bound_ratio: float = 1.1,
        strict: bool = False,
        logger: Logger | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        resources: Resources | None = None,
    ) -> None:
        _check_arguments(instance_id, service, namespace, window_seconds, bound_ratio)
        super().__init__(
            window_seconds=window_seconds, clock=clock, strict=bool(strict), logger=logger
        )
        # Fixed after construction.
        self.instance_id = instance_id
        self._namespace = namespace
        self._bound_ratio = bound_ratio
        self._wall = wall
        if resources is None:
            resources = Resources(
                clock=clock,
                window_seconds=window_seconds,
                on_tick=self._tick,  # held weakly
            )
            weakref.finalize(self, resources.stop)
        self._resources = resources
        self._alerts = Alerts()  # guards itself
        self._double_counting = DoubleCounting(logger)  # guards itself
        for metric in (*OWN, *SERVICES.get(service or "", ())):
            if isinstance(metric, Ratio):
                self._declare_ratio(metric)
            else:
                self._declare(metric, ("name",) if metric is REJECTED else ())

    # --- alerts and health ---

    def alert(
        self,
        figure: str,
        *,
        above: float | None = None,
        below: float | None = None,
        for_seconds: float = 0.0,
        status: str = "degraded",
    ) -> None:
        """Watch a value of `get_metrics_data`, which must not stay beyond a limit.

        Once the value named `figure` has been `above` (or `below`) its limit for `for_seconds`
        without a break, the alert fires: until the value is back, `get_basic_health_data` includes
        the `status` ("degraded" or "unhealthy") and the reason. Alerts are checked whenever the
        metrics are read, and from the first time on once a second. A value that is None or missing
        is never beyond a limit. Raises ConfigurationError for arguments that make no sense, and for
        a name that is not known and seems to be a known one misspelled.
        """
        if not isinstance(figure, str) or not figure:
            raise ConfigurationError(f"figure is the name of a value, not {figure!r}")
        metrics_alerts.check_spelling(figure, self._value_names())
        self._alerts.add(Threshold(figure, above, below, for_seconds, status))

    def _value_names(self) -> set[str]:
        """Return the names of all values that are or may be shown, without labels."""
        with self._lock:
            kinds = {name: metric.kind for name, metric in KNOWN.items()} | self._names.kinds()
        shown = (json_format.value_names(name, kind) for name, kind in kinds.items())
        return {*json_format.BUILT_IN, *chain.from_iterable(shown)}

    def get_alerts(self) -> list[dict[str, Any]]:
        """Return the current state of every alert.

        Each is a dict of `figure`, its `value`, the limit (`above` or `below`), `for_seconds`,
        `beyond_seconds` (how long the value has been beyond the limit), `status` ("healthy" unless
        the alert fires), and `reason` (None unless it fires).
        """
        return self._alerts.check(self.get_metrics_data(), self._clock())

    def get_basic_health_data(self) -> dict[str, Any]:
        """Return the few values for a health page, as in `get_metrics_data`.

        They are `instance_id`, `uptime_seconds`, `memory_usage_mb`, `cpu_percent`,
        `jobs_processed`, `jobs_failed`, `total_errors` and `error_rate`. A counter that was never
        used is 0. If there are alerts, `alerts` is the state of all of them; while one fires,
        `status` and `reasons` are included.
        """
        data = self.get_metrics_data()
        health = {name: data.get(name, 0) for name in _HEALTH_NAMES}
        if not self._alerts:
            return health
        states = self._alerts.check(data, self._clock())
        return {**metrics_alerts.health_of(states), **health, "alerts": states}

    # --- reading ---

    def snapshot(self) -> MetricsSnapshot:
        """Return everything as of one moment. Sorts and adds up after the lock is released."""
        with suppress(RuntimeError):  # no more threads: then without what a thread must observe
            self._resources.start()
        resources = self._resources.sample()
        now = self._clock()
        taken_at = self._wall()
        series = self._copy(now)
        snapshot = MetricsSnapshot.of(
            series,
            now,
            instance_id=self.instance_id,
            taken_at=taken_at,
            uptime_seconds=now - self._started,
            window_seconds=self._window_seconds,
            resources=resources,
        )
        self._double_counting.check(snapshot, series.by_consumers)
        return snapshot

    def quantile_seconds(self, name: str, share: float, *, min_count: int = 1) -> float | None:
        """Return the duration in seconds that `share` (0 to 1) of all recordings do not exceed.

        It is the quantile of the last `window_seconds` or that of the time since the start,
        whichever is longer: what takes longer than both is unusual. Each is taken from recordings
        with any labels, `min_count` at least; None if there are fewer in both. Costs far less than
        reading all metrics.
        """
        wholes = self._spans(name)
        quantiles = [whole.quantile(share) for whole in wholes if whole.count >= max(1, min_count)]
        return max((seconds for seconds in quantiles if seconds is not None), default=None)

    def recent_durations(self, name: str) -> dict[str, Any] | None:
        """Return the durations of the last `window_seconds` in a compact form for JSON.

        It has the buckets of a histogram, so that those of several workers can be added up, and as
        `seconds` the length of the window. Recordings with any labels count; None without any.
        """
        spans = self._spans(name)
        if not spans or not spans[0].count:
            return None
        return {"seconds": self._window_seconds, **spans[0].to_dict()}

    def _spans(self, name: str) -> list[Histogram]:
        """Return the durations of the window, and those since the start; nothing if unknown."""
        metric = without_unit(name)
        now = self._clock()
        with self._lock:
            parts = [
                series.copy()
                for key, series in list(self._durations.items())
                if metric == (key if isinstance(key, str) else key[0])
            ]
        read = [part.read(now) for part in parts]
        return [Histogram.merged(spans) for spans in zip(*read, strict=True)]

    def get_metrics_data(self) -> dict[str, Any]:
        """Return all metrics as one flat dict, ready for JSON.

        Always included are `instance_id`, `timestamp` (ISO 8601, UTC), `uptime_seconds` (since
        construction), `window_seconds` (see below), `errors` and `errors_by_category` (dicts of
        numbers by type and by category), `total_errors`, `error_rate` as in
        `MetricsSnapshot.error_rate`, and of the process and its machine

        - `memory_usage_mb` (resident, of 1024 * 1024 bytes), `memory_limit_mb` (of the container)
          and `memory_used_ratio` (what the container uses of it, without what can be dropped);
        - `cpu_percent` (since the sample before, 100 for one busy core), `threads`,
          `open_descriptors`, `gc_collections`;
        - `interpreter_stall_ms`: the longest time within the window in which no Python code could
          run, because a C extension held the interpreter lock or the process was frozen;
        - `gpu_memory_used_mb{gpu=0}`, `gpu_memory_total_mb{gpu=0}`,
          `gpu_process_memory_used_mb{gpu=0}` (of this process and its descendants),
          `gpu_utilization_percent{gpu=0}`, `gpu_temperature_celsius{gpu=0}`, `gpu_uuid{gpu=0}` and
          `gpu_name{gpu=0}` of each NVIDIA GPU that this process may use, with nvidia-ml-py
          installed.

        Counters and gauges have their own names, and each counter `x` also has `x_per_second`, its
        growth within the window. A duration `x` gives `x_ms` (the newest one), `avg_x_ms`,
        `p50_x_ms`, `p95_x_ms`, `p99_x_ms`, `max_x_ms` and `x_window_count` (within the window), and
        `x_count` (since the start). Series with labels come as `x{language=en}`, beside the sum of
        all series of their counter or duration; gauges have no sum. Ratios have their own names.

        The window is the last `window_seconds`, and up to a tenth more. What is not known is None:
        an average over a window in which nothing was recorded, or a value that the system does not
        reveal. A counter or gauge of the program that has the name of one of these values takes its
        place, except for `instance_id`, `timestamp`, `window_seconds`, `errors`,
        `errors_by_category` and `total_errors`.
        """
        return json_format.to_dict(self.snapshot())

    # --- for Prometheus ---

    def collect(self) -> Iterator[Metric]:
        """Yield prometheus_client metric families of one snapshot.

        So this object is a collector, and can be registered in a `CollectorRegistry`. Register only
        one in each: two would yield the same names.
        """
        from shared_sync.metrics import prometheus  # noqa: PLC0415 - slow to load, seldom used

        return prometheus.families(self.snapshot(), self._namespace, self._bound_ratio)

    def render_prometheus(self) -> bytes:
        """Return all metrics in Prometheus's text format 0.0.4."""
        from shared_sync.common import exposition  # noqa: PLC0415 - slow to load, seldom used

        return exposition.render_text(self)

    def render_openmetrics(self) -> bytes:
        """Return all metrics in the text format of OpenMetrics 1.0."""
        from shared_sync.common import exposition  # noqa: PLC0415 - slow to load, seldom used

        return exposition.render_openmetrics(self)

    # --- from the background thread ---

    def _tick(self) -> None:
        """Do what has to be done about once a second, also if nobody reads."""
        if self._alerts:
            self.get_alerts()  # which reads the metrics, and so remembers the totals
        else:
            self._remember_totals()


def _check_arguments(
    instance_id: str,
    service: str | None,
    namespace: str,
    window_seconds: float,
    bound_ratio: float,
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
