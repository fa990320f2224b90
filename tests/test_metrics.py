"""What is recorded is what is shown: in JSON, in Prometheus, and under eight threads at once."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from datetime import datetime, timedelta, timezone
from math import ceil
from types import FrameType
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from shared_sync._histogram import SlidingHistogram
from shared_sync._process import ProcessSample
from shared_sync.errors import ConfigurationError
from shared_sync.metrics import MAX_ERROR_TYPES, WorkerMetrics

NOT_COUNTABLE = [-1, -0.5, float("nan"), float("inf"), True, "3", None, 1j]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class StillProbe:
    """Stands in for a ProcessProbe whose process never changes."""

    figures = ProcessSample(
        memory_bytes=64 * 1024**2,
        cpu_percent=12.34,
        cpu_seconds=5.5,
        open_descriptors=9,
        threads=4,
    )

    def sample(self) -> ProcessSample:
        return self.figures


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def probe() -> StillProbe:
    return StillProbe()


@pytest.fixture
def metrics(clock: Clock, probe: StillProbe) -> WorkerMetrics:
    return WorkerMetrics("stt-1", clock=clock, wall=lambda: 1_700_000_000.25, probe=probe)  # type: ignore[arg-type]


def prometheus(metrics: WorkerMetrics) -> dict[tuple[str, str], float]:
    """Return the samples of the text, by sample name and the label beside `instance_id`."""
    samples = {}
    for family in text_string_to_metric_families(metrics.render_prometheus().decode()):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("instance_id") == metrics.instance_id
            key = (sample.name, "".join(labels.values()))
            assert key not in samples
            samples[key] = sample.value
    return samples


# What is shown


def test_a_new_worker_shows_zeros_and_never_fails(metrics: WorkerMetrics, clock: Clock) -> None:
    clock.now += 90
    assert metrics.get_metrics_data() == {
        "instance_id": "stt-1",
        "timestamp": "2023-11-14T22:13:20.250+00:00",
        "uptime_seconds": 90.0,
        "memory_usage_mb": 64.0,
        "cpu_percent": 12.3,
        "open_descriptors": 9,
        "threads": 4,
        "errors": {},
        "total_errors": 0,
        "error_rate": 0.0,
    }
    assert metrics.get_basic_health_data() == {
        "instance_id": "stt-1",
        "uptime_seconds": 90.0,
        "memory_usage_mb": 64.0,
        "cpu_percent": 12.3,
        "jobs_processed": 0,
        "jobs_failed": 0,
        "total_errors": 0,
        "error_rate": 0.0,
    }


def test_the_timestamp_is_the_moment_in_utc_by_default() -> None:
    shown = datetime.fromisoformat(WorkerMetrics("w").get_metrics_data()["timestamp"])
    assert shown.utcoffset() == timedelta(0)
    assert abs(datetime.now(timezone.utc) - shown) < timedelta(minutes=1)


def test_everything_shown_is_strict_json(metrics: WorkerMetrics, clock: Clock) -> None:
    metrics.increment_counter("jobs_processed")
    metrics.record_duration("processing_latency", 0.25)
    metrics.set_gauge("cache_hit_ratio", 0.5)
    metrics.record_error(ValueError("bad audio"))
    clock.now += 10_000
    for data in (metrics.get_metrics_data(), metrics.get_basic_health_data()):
        assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_figures_the_system_hides_are_null(metrics: WorkerMetrics, probe: StillProbe) -> None:
    probe.figures = ProcessSample(None, None, None, None, None)
    data = metrics.get_metrics_data()
    hidden = ("memory_usage_mb", "cpu_percent", "open_descriptors", "threads")
    assert [data[name] for name in hidden] == [None] * 4
    assert ("cpu_seconds_total", "") not in prometheus(metrics)


# Counters and gauges


def test_counters_add_up_and_gauges_stay_where_they_were_left(metrics: WorkerMetrics) -> None:
    metrics.increment_counter("jobs_sent")
    metrics.increment_counter("jobs_sent", 4)
    metrics.increment_counter("audio_duration_processed_seconds", 2.5)
    metrics.increment_counter("jobs_dead", 0)
    metrics.set_gauge("clients_connected", 7)
    metrics.update_gauge("clients_connected", -2)
    data = metrics.get_metrics_data()
    assert data["jobs_sent"] == 5
    assert data["audio_duration_processed_seconds"] == 2.5
    assert data["jobs_dead"] == 0
    assert data["clients_connected"] == -2


@pytest.mark.parametrize("value", NOT_COUNTABLE, ids=repr)
def test_a_counter_refuses_what_cannot_be_added(metrics: WorkerMetrics, value: Any) -> None:
    metrics.increment_counter("jobs_sent", 2)
    with pytest.raises(ConfigurationError, match=r"'jobs_sent' takes a finite number of 0 or more"):
        metrics.increment_counter("jobs_sent", value)
    assert metrics.get_metrics_data()["jobs_sent"] == 2


@pytest.mark.parametrize("value", NOT_COUNTABLE, ids=repr)
def test_a_duration_refuses_what_is_not_a_length_of_time(
    metrics: WorkerMetrics, value: Any
) -> None:
    with pytest.raises(ConfigurationError, match=r"'work' takes a finite number of 0 or more"):
        metrics.record_duration("work", value)
    assert "work_count" not in metrics.get_metrics_data()


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 10**400, False, "3", None])
def test_a_gauge_refuses_what_json_cannot_hold(metrics: WorkerMetrics, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"'level' takes a finite number, not"):
        metrics.set_gauge("level", value)
    assert "level" not in metrics.get_metrics_data()


@pytest.mark.parametrize("name", ["", "with space", "émile", "a\n", "x" * 201, None, 3])
@pytest.mark.parametrize(
    "record",
    [
        WorkerMetrics.increment_counter,
        WorkerMetrics.set_gauge,
        WorkerMetrics.record_duration,
    ],
)
def test_a_bad_name_is_refused(metrics: WorkerMetrics, record: Any, name: Any) -> None:
    with pytest.raises(ConfigurationError, match="a metric's name is"):
        record(metrics, name, 1)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("jobs_sent", "counter"),
        ("clients_connected", "gauge"),
        ("latency", "duration"),
        ("latency_ms", "duration"),
        ("errors", "counter"),
        ("instance_id", "built-in figure"),
        ("timestamp", "built-in figure"),
        ("total_errors", "built-in figure"),
    ],
)
def test_a_name_keeps_its_kind(metrics: WorkerMetrics, name: str, kind: str) -> None:
    metrics.increment_counter("jobs_sent")
    metrics.set_gauge("clients_connected", 1)
    metrics.record_duration("latency_ms", 1)
    calls = {
        "counter": metrics.increment_counter,
        "gauge": metrics.set_gauge,
        "duration": metrics.record_duration,
    }
    before = metrics.get_metrics_data()
    for other in calls.keys() - {kind}:
        with pytest.raises(ConfigurationError, match=f"'{name}' is a {kind} already"):
            calls[other](name, 1)
    assert metrics.get_metrics_data() == before


def test_a_figure_of_ones_own_takes_the_place_of_a_derived_one(metrics: WorkerMetrics) -> None:
    metrics.set_gauge("memory_usage_mb", 5)
    metrics.set_gauge("avg_latency_ms", 6)
    metrics.record_duration("latency", 1)
    assert metrics.get_metrics_data()["memory_usage_mb"] == 5
    assert metrics.get_basic_health_data()["memory_usage_mb"] == 5
    assert metrics.get_metrics_data()["avg_latency_ms"] == 6


# Durations


def test_a_duration_given_in_seconds_is_shown_in_milliseconds(metrics: WorkerMetrics) -> None:
    for seconds in (0.1, 0.3, 0.2):
        metrics.record_duration("model_inference_time", seconds)
    data = metrics.get_metrics_data()
    shown = {key: value for key, value in data.items() if "model_inference" in key}
    assert shown.pop("p50_model_inference_time_ms") == pytest.approx(200, rel=0.01)
    assert shown == {
        "model_inference_time_ms": 200.0,
        "avg_model_inference_time_ms": 200.0,
        "p95_model_inference_time_ms": 300.0,
        "p99_model_inference_time_ms": 300.0,
        "max_model_inference_time_ms": 300.0,
        "model_inference_time_count": 3,
    }


@pytest.mark.parametrize("name", ["work", "work_ms", "work_milliseconds", "work_seconds"])
def test_a_unit_in_the_name_of_a_duration_is_dropped(metrics: WorkerMetrics, name: str) -> None:
    metrics.record_duration("work", 0.5)
    metrics.record_duration(name, 1.5)
    data = metrics.get_metrics_data()
    assert (data["avg_work_ms"], data["work_ms"], data["work_count"]) == (1000.0, 1500.0, 2)
    assert not [key for key in data if key.endswith("_ms_ms")]
    assert prometheus(metrics)["work_seconds_sum", ""] == 2.0


@pytest.mark.parametrize("name", ["x_ms_total", "_ms"])
def test_a_unit_is_dropped_only_after_something_and_at_the_end(
    metrics: WorkerMetrics, name: str
) -> None:
    metrics.record_duration(name, 1)
    assert metrics.get_metrics_data()[f"{name}_count"] == 1


def test_averages_and_percentiles_forget_after_the_window_and_counts_do_not(
    metrics: WorkerMetrics, clock: Clock
) -> None:
    metrics.record_duration("work", 9.0)
    clock.now += 331
    data = metrics.get_metrics_data()
    windowed = [data[f"{figure}_work_ms"] for figure in ("avg", "p50", "p95", "p99", "max")]
    assert windowed == [None] * 5
    assert (data["work_ms"], data["work_count"]) == (9000.0, 1)
    metrics.record_duration("work", 1.0)
    data = metrics.get_metrics_data()
    assert (data["avg_work_ms"], data["max_work_ms"], data["work_count"]) == (1000.0, 1000.0, 2)
    assert prometheus(metrics)["work_seconds_sum", ""] == 10.0


def test_percentiles_are_within_one_percent(metrics: WorkerMetrics) -> None:
    chance = random.Random(4)
    durations = [chance.lognormvariate(-1, 1) for _ in range(5000)]
    for seconds in durations:
        metrics.record_duration("work", seconds)
    data = metrics.get_metrics_data()
    durations.sort()
    for percent in (50, 95, 99):
        exact = 1000 * durations[ceil(percent / 100 * len(durations)) - 1]
        assert data[f"p{percent}_work_ms"] == pytest.approx(exact, rel=0.01)
    assert data["max_work_ms"] == pytest.approx(1000 * durations[-1])


def test_the_timer_records_how_long_its_block_took(metrics: WorkerMetrics, clock: Clock) -> None:
    with metrics.timer("model_inference_time"):
        clock.now += 0.25
    assert metrics.get_metrics_data()["model_inference_time_ms"] == 250.0


def test_the_timer_records_a_block_that_raises(metrics: WorkerMetrics, clock: Clock) -> None:
    def fail() -> None:
        clock.now += 2
        raise ValueError("bad audio")

    with pytest.raises(ValueError, match="bad audio"), metrics.timer("work"):
        fail()
    assert metrics.get_metrics_data()["work_ms"] == 2000.0


def test_the_timer_refuses_a_bad_name_before_the_work_is_done(metrics: WorkerMetrics) -> None:
    worked = []
    with (
        pytest.raises(ConfigurationError, match="a metric's name"),
        metrics.timer("no good"),
    ):
        worked.append(1)
    assert not worked


# Errors


def test_errors_are_counted_by_type(metrics: WorkerMetrics) -> None:
    metrics.record_error(ValueError("one"))
    metrics.record_error(ValueError)
    metrics.increment_counter("errors.ValueError")
    metrics.increment_counter("errors.RedisUnavailable", 2)
    metrics.increment_counter("errors")
    data = metrics.get_metrics_data()
    assert data["errors"] == {"ValueError": 3, "RedisUnavailable": 2, "other": 1}
    assert data["total_errors"] == 6
    assert not [key for key in data if key.startswith("errors.")]


def test_a_type_with_an_odd_name_is_counted_under_a_cleaned_one(metrics: WorkerMetrics) -> None:
    metrics.record_error(type('Größe "x"\n', (Exception,), {}))
    metrics.record_error(type("E" * 500, (Exception,), {}))
    metrics.increment_counter("errors.")
    assert metrics.get_metrics_data()["errors"] == {"Gr__e__x__": 1, "E" * 100: 1, "other": 1}


def test_endless_error_types_end_up_in_other(metrics: WorkerMetrics) -> None:
    for number in range(3 * MAX_ERROR_TYPES):
        metrics.increment_counter(f"errors.Type{number}")
        metrics.increment_counter("errors.Type0")
    errors = metrics.get_metrics_data()["errors"]
    assert len(errors) == MAX_ERROR_TYPES
    assert errors["Type0"] == 3 * MAX_ERROR_TYPES + 1
    assert errors["other"] == 2 * MAX_ERROR_TYPES + 1
    assert metrics.get_metrics_data()["total_errors"] == 6 * MAX_ERROR_TYPES


@pytest.mark.parametrize(
    ("counted", "rate"),
    [
        ({}, 0.0),
        ({"jobs_processed": 0}, 0.0),
        ({"jobs_processed": 8}, 0.0),
        ({"jobs_processed": 3, "jobs_failed": 1}, 0.25),
        ({"jobs_failed": 2}, 1.0),
        ({"jobs_processed": 3, "jobs_failed": 1, "errors.ValueError": 9}, 0.25),
        ({"jobs_processed": 3, "errors.ValueError": 1}, 0.25),
        ({"jobs_sent": 100, "errors.ValueError": 1}, None),
    ],
)
def test_the_error_rate_is_the_share_of_finished_attempts_that_failed(
    metrics: WorkerMetrics, counted: dict[str, int], rate: float | None
) -> None:
    for name, number in counted.items():
        metrics.increment_counter(name, number)
    assert metrics.get_metrics_data()["error_rate"] == rate
    assert metrics.get_basic_health_data()["error_rate"] == rate


# Prometheus


def test_prometheus_reads_back_what_was_recorded(metrics: WorkerMetrics, clock: Clock) -> None:
    metrics.increment_counter("jobs_processed", 3)
    metrics.increment_counter("bytes_total", 10)
    metrics.record_error(ValueError("x"))
    metrics.set_gauge("cache.hit-ratio", 0.5)
    for seconds in (0.02, 0.3, 7000.0):
        metrics.record_duration("processing_latency", seconds)
    clock.now += 60
    samples = prometheus(metrics)
    assert samples["jobs_processed_total", ""] == 3
    assert samples["bytes_total", ""] == 10
    assert samples["errors_total", "ValueError"] == 1
    assert samples["cache_hit_ratio", ""] == 0.5
    assert samples["uptime_seconds", ""] == 60
    assert samples["memory_usage_bytes", ""] == 64 * 1024**2
    assert samples["cpu_seconds_total", ""] == 5.5
    assert samples["open_descriptors", ""] == 9
    assert samples["threads", ""] == 4
    assert samples["processing_latency_seconds_count", ""] == 3
    assert samples["processing_latency_seconds_sum", ""] == pytest.approx(7000.32)
    buckets = {
        bound: number
        for (name, bound), number in samples.items()
        if name == "processing_latency_seconds_bucket"
    }
    assert [buckets[bound] for bound in ("0.01", "0.025", "0.5", "3600.0", "+Inf")] == [
        *(0, 1, 2, 2, 3)
    ]


def test_prometheus_shows_the_types_and_the_namespace() -> None:
    metrics = WorkerMetrics("w", namespace="worker")
    metrics.increment_counter("2nd.try")
    metrics.set_gauge("level", 1)
    metrics.record_duration("work", 1)
    types = {
        family.name: family.type
        for family in text_string_to_metric_families(metrics.render_prometheus().decode())
    }
    assert types["worker_2nd_try"] == types["worker_errors"] == "counter"
    assert types["worker_level"] == "gauge"
    assert types["worker_work_seconds"] == "histogram"
    assert all(name.startswith("worker_") for name in types)


def test_names_that_prometheus_cannot_tell_apart_stay_apart(metrics: WorkerMetrics) -> None:
    metrics.increment_counter("a.b", 1)
    metrics.increment_counter("a-b", 2)
    metrics.increment_counter("3d", 3)
    metrics.increment_counter("sent", 5)
    metrics.increment_counter("sent_total", 6)
    metrics.set_gauge("threads", 4)
    samples = prometheus(metrics)
    assert samples["a_b_total", ""] == 1
    assert samples["a_b__total", ""] == 2
    assert samples["_3d_total", ""] == 3
    assert (samples["sent_total", ""], samples["sent__total", ""]) == (5, 6)
    assert samples["threads_", ""] == 4


def test_a_strange_instance_id_survives_as_a_label() -> None:
    prometheus(WorkerMetrics('w"\\\n{}é'))


def test_the_metrics_can_be_registered_as_a_collector(metrics: WorkerMetrics) -> None:
    registry = CollectorRegistry(auto_describe=True)
    registry.register(metrics)
    metrics.increment_counter("jobs_processed", 3)
    assert registry.get_sample_value("jobs_processed_total", {"instance_id": "stt-1"}) == 3


# Threads


def test_eight_threads_lose_nothing_and_a_reader_never_sees_half(clock: Clock) -> None:
    metrics = WorkerMetrics("w", clock=clock)
    rounds, threads = 20_000, 8
    ready = threading.Barrier(threads + 1)

    def write(number: int) -> None:
        ready.wait(timeout=30)
        for turn in range(rounds):
            metrics.increment_counter("jobs_processed")
            metrics.record_duration("work", 0.001 * (turn % 1000))
            if turn % 100 == 0:
                metrics.record_error(ValueError)
            if number == 0 and turn % 200 == 0:
                clock.now += 7  # so that slices turn and expire while others write

    writers = [threading.Thread(target=write, args=(number,)) for number in range(threads)]
    for writer in writers:
        writer.start()
    ready.wait(timeout=30)
    seen = 0
    while any(writer.is_alive() for writer in writers):
        snapshot = metrics.snapshot()
        if work := snapshot.durations.get("work"):
            assert work.lifetime.count == sum(work.lifetime.counts)
            assert work.recent.count == sum(work.recent.counts)
            assert seen <= work.lifetime.count
            # A writer is at most one call ahead with its counter.
            ahead = snapshot.counters["jobs_processed"] - work.lifetime.count
            assert 0 <= ahead <= threads
            seen = work.lifetime.count
    for writer in writers:
        writer.join(timeout=30)

    snapshot = metrics.snapshot()
    whole = snapshot.durations["work"].lifetime
    assert snapshot.counters["jobs_processed"] == rounds * threads
    assert snapshot.errors == {"ValueError": rounds * threads // 100}
    assert whole.count == sum(whole.counts) == rounds * threads
    assert whole.total == pytest.approx(threads * rounds * 0.4995)
    assert (whole.low, whole.high) == (0.0, 0.999)


def test_shared_state_is_touched_only_under_the_lock(
    metrics: WorkerMetrics, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Guarded(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            assert metrics._lock.locked()
            return super().__getitem__(name)

        def __setitem__(self, name: str, value: Any) -> None:
            assert metrics._lock.locked()
            super().__setitem__(name, value)

        def copy(self) -> dict[str, Any]:
            assert metrics._lock.locked()
            return super().copy()

        def items(self) -> Any:
            assert metrics._lock.locked()
            return super().items()

    class GuardedSeries(SlidingHistogram):
        def __setattr__(self, name: str, value: Any) -> None:
            assert metrics._lock.locked()
            super().__setattr__(name, value)

    monkeypatch.setattr("shared_sync.metrics.SlidingHistogram", GuardedSeries)
    for name in ("_counters", "_gauges", "_durations"):
        monkeypatch.setattr(metrics, name, Guarded())
    for _ in range(2):
        metrics.increment_counter("jobs_sent")
        metrics.record_error(ValueError)
        metrics.set_gauge("level", 1)
        metrics.record_duration("work", 1)
        clock.now += 1000
    assert metrics.get_metrics_data()["work_count"] == 2


def test_nothing_is_called_while_a_recording_holds_the_lock(metrics: WorkerMetrics) -> None:
    def record() -> None:
        metrics.increment_counter("jobs_sent")
        metrics.set_gauge("level", 1.5)
        metrics.record_duration("work", 1.5)

    called = set()

    def watch(frame: FrameType, event: str, function: Any) -> None:
        if event in ("call", "c_call") and metrics._lock.locked():
            called.add(function.__name__ if event == "c_call" else frame.f_code.co_name)

    record()
    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        record()
    finally:
        sys.setprofile(before)
    assert called <= {"__exit__"}  # of the lock itself


def test_a_snapshot_does_not_change_afterwards(metrics: WorkerMetrics) -> None:
    metrics.increment_counter("jobs_sent")
    metrics.record_duration("work", 1)
    snapshot = metrics.snapshot()
    metrics.increment_counter("jobs_sent")
    metrics.record_duration("work", 1)
    metrics.record_error(ValueError)
    assert snapshot.counters == {"jobs_sent": 1}
    assert snapshot.durations["work"].lifetime.count == 1
    assert snapshot.total_errors == 0


# Construction and import


@pytest.mark.parametrize(
    "arguments",
    [
        {"instance_id": ""},
        {"instance_id": None},
        {"namespace": "1st"},
        {"namespace": "a-b"},
        {"window_seconds": 0},
        {"window_seconds": float("nan")},
        {"window_seconds": float("inf")},
    ],
    ids=repr,
)
def test_arguments_that_cannot_work_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(arguments))):
        WorkerMetrics(**{"instance_id": "w", **arguments})


def test_recording_loads_neither_redis_nor_flask_nor_prometheus() -> None:
    program = (
        "import sys\n"
        "from shared_sync.metrics import WorkerMetrics\n"
        "metrics = WorkerMetrics('w')\n"
        "metrics.increment_counter('jobs_sent')\n"
        "metrics.get_metrics_data()\n"
        "print(sorted({'redis', 'flask', 'waitress', 'prometheus_client'} & set(sys.modules)))\n"
        "metrics.render_prometheus()\n"
        "print(sorted({'redis', 'flask', 'waitress', 'prometheus_client'} & set(sys.modules)))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout.splitlines() == ["[]", "['prometheus_client']"]
