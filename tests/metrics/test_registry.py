"""What is recorded is what is shown, also under eight threads at once."""

from __future__ import annotations

import gc
import json
import random
import re
import subprocess
import sys
import threading
import weakref
from datetime import datetime, timedelta, timezone
from enum import Enum
from math import ceil
from types import FrameType
from typing import Any

import pytest
from helpers import Clock, in_a_fork
from registries import MEGABYTE, StillResources

from shared_sync.errors import ConfigurationError
from shared_sync.metrics import MAX_ERROR_TYPES, MAX_LABEL_SETS, WorkerMetrics
from shared_sync.metrics.cgroup import ContainerMemory
from shared_sync.metrics.gpu import GpuSample
from shared_sync.metrics.histogram import SlidingHistogram
from shared_sync.metrics.process import ProcessSample

NOT_COUNTABLE = [-1, -0.5, float("nan"), float("inf"), True, "3", None, 1j]


# What is shown


def test_a_new_worker_shows_zeros_and_never_fails(metrics: WorkerMetrics, clock: Clock) -> None:
    clock.now += 90
    assert metrics.get_metrics_data() == {
        "instance_id": "stt-1",
        "timestamp": "2023-11-14T22:13:20.250+00:00",
        "uptime_seconds": 90.0,
        "window_seconds": 300.0,
        "memory_usage_mb": 64.0,
        "memory_limit_mb": None,
        "memory_used_ratio": None,
        "cpu_percent": 12.3,
        "open_descriptors": 9,
        "threads": 4,
        "gc_collections": 17,
        "interpreter_stall_ms": 12.3,
        "errors": {},
        "errors_by_category": {},
        "total_errors": 0,
        "errors_per_second": 0.0,
        "error_rate": 0.0,
        "metrics_dropped_label_sets": 0,
        "metrics_dropped_label_sets_per_second": 0.0,
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


def test_figures_the_system_hides_are_null(
    metrics: WorkerMetrics, resources: StillResources
) -> None:
    resources.become(process=ProcessSample(None, None, None, None, None), stall_seconds=None)
    data = metrics.get_metrics_data()
    hidden = ("memory_usage_mb", "cpu_percent", "open_descriptors", "threads")
    assert [data[name] for name in (*hidden, "interpreter_stall_ms")] == [None] * 5


def test_the_memory_of_the_container_and_its_gpus_are_shown(
    metrics: WorkerMetrics, resources: StillResources
) -> None:
    resources.become(
        container=ContainerMemory(used_bytes=96 * MEGABYTE, limit_bytes=128 * MEGABYTE),
        gpus=(
            GpuSample(0, 1024 * MEGABYTE, 4096 * MEGABYTE, 0.5, 61.0),
            GpuSample(1, 0, 4096 * MEGABYTE, None, None),
        ),
    )
    data = metrics.get_metrics_data()
    assert (data["memory_limit_mb"], data["memory_used_ratio"]) == (128.0, 0.75)
    assert {key: value for key, value in data.items() if key.startswith("gpu")} == {
        "gpu_memory_used_mb{gpu=0}": 1024.0,
        "gpu_memory_total_mb{gpu=0}": 4096.0,
        "gpu_utilization_percent{gpu=0}": 50.0,
        "gpu_temperature_celsius{gpu=0}": 61.0,
        "gpu_memory_used_mb{gpu=1}": 0.0,
        "gpu_memory_total_mb{gpu=1}": 4096.0,
        "gpu_utilization_percent{gpu=1}": None,
        "gpu_temperature_celsius{gpu=1}": None,
    }


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


def test_a_gauge_can_be_moved(metrics: WorkerMetrics) -> None:
    metrics.adjust_gauge("clients_connected", 3)
    metrics.adjust_gauge("clients_connected", -1)
    assert metrics.get_metrics_data()["clients_connected"] == 2
    metrics.set_gauge("clients_connected", 10)
    metrics.adjust_gauge("clients_connected", 0.5)
    assert metrics.get_metrics_data()["clients_connected"] == 10.5


def test_a_sum_beyond_what_a_float_can_be_loses_nobodys_page(
    metrics: WorkerMetrics, clock: Clock
) -> None:
    for _ in range(2):
        metrics.increment_counter("jobs_sent", 10**308)
        metrics.increment_counter("jobs_sent", 0.5)
        metrics.increment_counter("errors.KeyError", 1e308)
        metrics.increment_counter("errors.IndexError", 1e308)
        metrics.adjust_gauge("level", 1e308)
        metrics.record_duration("work", 1e15)
        clock.now += 1
        data = metrics.get_metrics_data()
        assert json.loads(json.dumps(data, allow_nan=False)) == data
    largest = sys.float_info.max
    assert (data["jobs_sent"], data["level"], data["total_errors"]) == (largest,) * 3


@pytest.mark.parametrize("value", [10**400, 10**5000, -(10**5000)], ids=["400", "5000", "-5000"])
def test_a_number_that_no_float_can_be_is_refused(metrics: WorkerMetrics, value: int) -> None:
    for record in (metrics.increment_counter, metrics.set_gauge, metrics.record_duration):
        with pytest.raises(ConfigurationError, match="'x' takes a finite number"):
            record("x", value)
    with pytest.raises(ConfigurationError, match="takes one number"):
        metrics.alert("x", above=value)


def test_a_length_that_nothing_has_is_refused(metrics: WorkerMetrics) -> None:
    for record in (
        lambda: metrics.record_duration("work", 1e16),
        lambda: metrics.record_batch(durations={"work": [1e16]}),
    ):
        with pytest.raises(ConfigurationError, match="'work' takes at most 1e15 seconds"):
            record()


def test_numbers_of_numpy_are_taken_and_its_infinities_are_not(metrics: WorkerMetrics) -> None:
    """Here by a stand-in: a kind of number that compares as a small float does, and overflows."""

    class Float16(float):
        def __le__(self, other: float) -> bool:
            return True

        def __ge__(self, other: float) -> bool:
            return True

    metrics.set_gauge("level", Float16(1.5))
    metrics.increment_counter("sent", Float16(2.0))
    metrics.record_duration("work", Float16(0.5))
    data = metrics.get_metrics_data()
    assert (data["level"], data["sent"], data["work_ms"]) == (1.5, 2.0, 500.0)
    assert {type(data[name]) for name in ("level", "sent")} == {float}
    for record in (metrics.set_gauge, metrics.increment_counter, metrics.record_duration):
        with pytest.raises(ConfigurationError, match="takes a finite number"):
            record("level", Float16("inf"))


def test_a_name_that_is_a_member_of_an_enum_is_its_text(metrics: WorkerMetrics) -> None:
    class Name(str, Enum):
        SENT = "sent"
        LEVEL = "level"
        WORK = "work"

    metrics.increment_counter(Name.SENT, labels={"to": Name.LEVEL})
    metrics.set_gauge(Name.LEVEL, 1)
    metrics.record_duration(Name.WORK, 1)
    data = metrics.get_metrics_data()
    assert {"sent{to=level}", "sent_per_second", "level", "avg_work_ms"} <= data.keys()
    assert not [name for name in data if "Name" in name]


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
    for record in (metrics.set_gauge, metrics.update_gauge, metrics.adjust_gauge):
        with pytest.raises(ConfigurationError, match=r"'level' takes a finite number, not"):
            record("level", value)
    assert "level" not in metrics.get_metrics_data()


@pytest.mark.parametrize("name", ["", "with space", "émile", "a\n", "x" * 201, None, 3, ["x"]])
@pytest.mark.parametrize(
    "record",
    [
        WorkerMetrics.increment_counter,
        WorkerMetrics.set_gauge,
        WorkerMetrics.adjust_gauge,
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
        ("instance_id", "built-in value"),
        ("timestamp", "built-in value"),
        ("total_errors", "built-in value"),
        ("window_seconds", "built-in value"),
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
        "model_inference_time_window_count": 3,
        "model_inference_time_count": 3,
    }


@pytest.mark.parametrize("name", ["work", "work_ms", "work_milliseconds", "work_seconds"])
def test_a_unit_in_the_name_of_a_duration_is_dropped(metrics: WorkerMetrics, name: str) -> None:
    metrics.record_duration("work", 0.5)
    metrics.record_duration(name, 1.5)
    data = metrics.get_metrics_data()
    assert (data["avg_work_ms"], data["work_ms"], data["work_count"]) == (1000.0, 1500.0, 2)
    assert not [key for key in data if key.endswith("_ms_ms")]


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
    assert (data["work_ms"], data["work_window_count"], data["work_count"]) == (9000.0, 0, 1)
    metrics.record_duration("work", 1.0)
    data = metrics.get_metrics_data()
    assert (data["avg_work_ms"], data["max_work_ms"], data["work_count"]) == (1000.0, 1000.0, 2)
    assert data["work_window_count"] == 1
    assert metrics.snapshot().whole("work").lifetime.total == 10.0


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
    assert data["errors_by_category"] == {"bad_input": 3, "dependency": 2, "internal": 1}
    assert data["total_errors"] == 6
    assert not [key for key in data if key.startswith("errors.")]


def test_what_an_error_says_is_never_kept(metrics: WorkerMetrics) -> None:
    metrics.record_error(ValueError("password hunter2"))
    assert "hunter2" not in json.dumps(metrics.get_metrics_data())
    assert b"hunter2" not in metrics.render_prometheus()


def test_a_type_of_ones_own_can_be_given_a_category(metrics: WorkerMetrics) -> None:
    class CodecBroken(RuntimeError):
        pass

    class Mp3Broken(CodecBroken):
        pass

    metrics.record_error(Mp3Broken())
    metrics.register_error(CodecBroken, "bad_input")
    metrics.record_error(Mp3Broken())
    metrics.increment_counter("errors.CodecBroken")
    data = metrics.get_metrics_data()
    assert data["errors_by_category"] == {"internal": 1, "bad_input": 2}
    assert data["errors"] == {"Mp3Broken": 2, "CodecBroken": 1}
    with pytest.raises(ConfigurationError, match="category must be one of bad_input, timeout"):
        metrics.register_error(CodecBroken, "codec")
    with pytest.raises(ConfigurationError, match="an exception type is wanted"):
        metrics.register_error("CodecBroken", "bad_input")  # type: ignore[arg-type]


def test_a_type_with_an_odd_name_is_counted_under_a_cleaned_one(metrics: WorkerMetrics) -> None:
    metrics.record_error(type('Größe "x"\n', (Exception,), {}))
    metrics.record_error(type("E" * 500, (Exception,), {}))
    metrics.increment_counter("errors.")
    assert metrics.get_metrics_data()["errors"] == {"Gr__e__x__": 1, "E" * 100: 1, "other": 1}


def test_endless_error_types_end_up_in_other_of_their_category(metrics: WorkerMetrics) -> None:
    for number in range(3 * MAX_ERROR_TYPES):
        metrics.record_error(type(f"Type{number}", (OSError,), {}))
        metrics.increment_counter("errors.KeyError")
    data = metrics.get_metrics_data()
    assert len(data["errors"]) == MAX_ERROR_TYPES + 1
    assert data["errors"]["KeyError"] == 3 * MAX_ERROR_TYPES
    folded = 2 * MAX_ERROR_TYPES + 1
    assert data["errors"]["other"] == data["metrics_dropped_label_sets"] == folded
    assert data["errors_by_category"] == {
        "dependency": 3 * MAX_ERROR_TYPES,
        "internal": 3 * MAX_ERROR_TYPES,
    }
    assert data["total_errors"] == 6 * MAX_ERROR_TYPES


def test_errors_take_no_labels_but_their_own(metrics: WorkerMetrics) -> None:
    for name in ("errors", "errors.ValueError"):
        with pytest.raises(ConfigurationError, match="labels of its own, category and type"):
            metrics.increment_counter(name, labels={"language": "en"})


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
        ({"jobs_sent": 3, "errors.ValueError": 1}, 0.25),
        ({"jobs_sent": 99, "jobs_processed": 3, "errors.ValueError": 1}, 0.25),
        ({"cache_hits": 100, "errors.ValueError": 1}, None),
    ],
)
def test_the_error_rate_is_the_share_of_finished_attempts_that_failed(
    metrics: WorkerMetrics, counted: dict[str, int], rate: float | None
) -> None:
    for name, number in counted.items():
        metrics.increment_counter(name, number)
    assert metrics.get_metrics_data()["error_rate"] == rate
    assert metrics.get_basic_health_data()["error_rate"] == rate


# Labels


def test_labels_tell_the_parts_of_a_metric_from_each_other(metrics: WorkerMetrics) -> None:
    metrics.increment_counter("transcripts", 2, labels={"language": "en"})
    metrics.increment_counter("transcripts", labels={"language": "de"})
    metrics.increment_counter("transcripts", labels={"language": "en"})
    metrics.increment_counter("transcripts", 5)
    metrics.set_gauge("replicas", 3, {"model": "small", "device": "cpu"})
    metrics.adjust_gauge("replicas", 1, {"device": "cpu", "model": "small"})
    data = metrics.get_metrics_data()
    assert {key: at for key, at in data.items() if key.startswith(("transcripts", "replicas"))} == {
        "transcripts": 9,
        "transcripts{language=en}": 3,
        "transcripts{language=de}": 1,
        "transcripts_per_second": 0.0,
        "replicas{device=cpu,model=small}": 4,
    }


def test_a_duration_has_figures_for_each_part_and_for_the_whole(metrics: WorkerMetrics) -> None:
    for _ in range(3):
        metrics.record_duration("work", 1.0, {"language": "en"})
    metrics.record_duration("work_ms", 3.0, {"language": "de"})
    with metrics.timer("work_seconds", {"language": "fr"}):
        pass
    data = metrics.get_metrics_data()
    assert data["work_ms"] == 0.0
    assert (data["work_count"], data["max_work_ms"]) == (5, 3000.0)
    assert data["p50_work_ms"] == pytest.approx(1000.0, rel=0.01)
    assert data["avg_work_ms{language=en}"] == 1000.0
    assert data["work_window_count{language=en}"] == data["work_count{language=en}"] == 3
    assert data["p99_work_ms{language=de}"] == 3000.0
    assert data["work_count{language=fr}"] == 1


def test_endless_label_sets_end_up_in_other(metrics: WorkerMetrics) -> None:
    more = 50
    for number in range(MAX_LABEL_SETS + more):
        labels = {"client": f"c{number}"}
        metrics.increment_counter("sent", 2, labels)
        metrics.set_gauge("level", number, labels)
        with metrics.timer("work", labels):
            pass
    metrics.increment_counter("sent", labels={"client": "c0"})
    snapshot = metrics.snapshot()
    other = (("client", "other"),)
    for parts in (snapshot.counters["sent"], snapshot.gauges["level"], snapshot.durations["work"]):
        assert len(parts) == MAX_LABEL_SETS + 1
    assert snapshot.counters["sent"][other].total == 2 * more
    assert snapshot.counters["sent"][("client", "c0"),].total == 3
    assert snapshot.gauges["level"][other] == MAX_LABEL_SETS + more - 1
    assert snapshot.durations["work"][other].lifetime.count == more
    assert snapshot.total("metrics_dropped_label_sets") == 3 * more


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        ({"language": 3}, "label 'language' of 'sent' is a str, not 3"),
        ({"le": "1"}, "'le' of 'sent' is set by the library itself"),
        ({"instance_id": "x"}, "'instance_id' of 'sent' is set by the library itself"),
        ({"__name__": "x"}, "a label's name is"),
        ({"1st": "x"}, "a label's name is"),
        ({3: "x"}, "a label's name is"),
        ({"region": "eu"}, "'sent' has the labels language, not region; use the same"),
        ({"language": "en", "region": "eu"}, "has the labels language, not language, region"),
        ("language", "labels of 'sent' are a dict such as"),
        ([("language", "en")], "labels of 'sent' are a dict such as"),
    ],
)
def test_labels_that_cannot_be_are_refused(
    metrics: WorkerMetrics, labels: Any, complaint: str
) -> None:
    metrics.increment_counter("sent", labels={"language": "en"})
    before = metrics.get_metrics_data()
    with pytest.raises(ConfigurationError, match=re.escape(complaint)):
        metrics.increment_counter("sent", labels=labels)
    assert metrics.get_metrics_data() == before


def test_odd_values_of_labels_are_put_right(metrics: WorkerMetrics) -> None:
    odd = ["", "\ud800", "x" * 500, 'a"b\\c\n', "{language=en}"]
    for value in (*odd, *odd):
        metrics.increment_counter("sent", labels={"language": value})
    parts = metrics.snapshot().counters["sent"]
    assert {dict(labels)["language"]: part.total for labels, part in parts.items()} == {
        "unknown": 2,
        "?": 2,
        "x" * 200: 2,
        'a"b\\c\n': 2,
        "{language=en}": 2,
    }
    assert metrics.render_prometheus().decode().count("sent_total{") == 5


def test_no_two_label_sets_have_the_same_name_in_json(metrics: WorkerMetrics) -> None:
    metrics.increment_counter("x", 1, {"a": "1,b=2", "b": "3"})
    metrics.increment_counter("x", 2, {"a": "1", "b": "2,b=3"})
    metrics.increment_counter("x", 3, {"a": '"1"', "b": "en-GB"})
    data = metrics.get_metrics_data()
    assert data['x{a="1,b=2",b=3}'] == 1
    assert data['x{a=1,b="2,b=3"}'] == 2
    assert data['x{a="\\"1\\"",b=en-GB}'] == 3


def test_no_labels_at_all_are_the_same_as_none(metrics: WorkerMetrics) -> None:
    metrics.increment_counter("sent", labels={})
    metrics.increment_counter("sent")
    metrics.set_gauge("level", 1, {})
    metrics.record_duration("work", 1.0, {})
    data = metrics.get_metrics_data()
    assert (data["sent"], data["level"], data["work_count"]) == (2, 1, 1)
    assert not [key for key in data if "{" in key]


# Many at once


def test_a_batch_is_recorded_as_one(metrics: WorkerMetrics) -> None:
    metrics.increment_counter("jobs_processed", 2)
    metrics.record_batch(
        counters={"jobs_processed": 3, "errors.KeyError": 1},
        durations={"work": [0.5, 2, 1.0], "idle": []},
        gauges={"queue_depth": 7},
    )
    metrics.record_batch(counters={"sent": 4}, durations={"wait": [1e-9, 1e9]}, labels={"to": "a"})
    metrics.record_batch()
    data = metrics.get_metrics_data()
    assert (data["jobs_processed"], data["total_errors"], data["queue_depth"]) == (5, 1, 7)
    assert (data["work_count"], data["work_ms"]) == (3, 1000.0)
    assert (data["max_work_ms"], data["avg_work_ms"]) == (2000.0, pytest.approx(3500 / 3, abs=1e-3))
    assert (data["sent{to=a}"], data["wait_count{to=a}"], data["max_wait_ms"]) == (4, 2, 1e12)


@pytest.mark.parametrize(
    "wrong",
    [
        {"counters": {"jobs": -1}},
        {"counters": {"level": 1}},
        {"durations": {"work": [1.0, float("nan")]}},
        {"durations": {"jobs": [1.0]}},
        {"durations": {"work": 1.0}},
        {"gauges": {"level": "high"}},
        {"gauges": {"no good": 1}},
    ],
    ids=repr,
)
def test_a_batch_with_one_wrong_figure_records_nothing(
    metrics: WorkerMetrics, wrong: dict[str, Any]
) -> None:
    metrics.increment_counter("jobs")
    metrics.set_gauge("level", 1)
    metrics.record_duration("work", 1)
    before = metrics.get_metrics_data()
    right: dict[str, Any] = {
        "counters": {"jobs": 1},
        "durations": {"work": [1.0]},
        "gauges": {"level": 2},
    }
    for name, more in wrong.items():
        right[name] = right[name] | more
    with pytest.raises(ConfigurationError):
        metrics.record_batch(**right)
    assert metrics.get_metrics_data() == before


def test_a_batch_with_a_wrong_number_makes_no_new_names_known(metrics: WorkerMetrics) -> None:
    before = metrics.get_metrics_data()
    for wrong in ({"gauges": {"h": float("nan")}}, {"durations": {"d": [1.0, -1.0]}}):
        with pytest.raises(ConfigurationError):
            metrics.record_batch(counters={"n": 1}, **wrong)
    assert metrics.get_metrics_data() == before


def test_a_gauge_is_never_seen_at_a_value_it_was_not_given(metrics: WorkerMetrics) -> None:
    metrics._gauge_key("level", None)  # what a recording does before it takes the lock again
    assert "level" not in metrics.get_metrics_data()


def test_a_batch_turns_the_slices_of_the_window_too(metrics: WorkerMetrics, clock: Clock) -> None:
    metrics.record_batch(durations={"work": [9.0]})
    clock.now += 331
    metrics.record_batch(durations={"work": [1.0]})
    data = metrics.get_metrics_data()
    assert (data["max_work_ms"], data["work_window_count"], data["work_count"]) == (1000.0, 1, 2)


# Over the window


def test_a_rate_is_the_growth_within_the_window(metrics: WorkerMetrics, clock: Clock) -> None:
    metrics.increment_counter("sent", 600)
    clock.now += 100
    assert metrics.get_metrics_data()["sent_per_second"] == 6.0
    for _ in range(20):
        metrics.increment_counter("sent", 30, {"to": "a"})
        clock.now += 30
        data = metrics.get_metrics_data()
    assert data["sent_per_second"] == 1.0
    assert data["sent"] == 1200
    for _ in range(11):
        clock.now += 30
        data = metrics.get_metrics_data()
    assert data["sent_per_second"] == 0.0


def test_a_rate_is_that_of_the_window_also_after_a_time_in_which_nobody_read(
    metrics: WorkerMetrics, clock: Clock
) -> None:
    metrics.increment_counter("sent", 10**6)
    for _ in range(1000):
        clock.now += 1
        metrics._tick()
    metrics.increment_counter("sent", 300)
    assert metrics.get_metrics_data()["sent_per_second"] == pytest.approx(1.0, rel=0.1)


def test_the_growth_is_that_of_the_window_and_at_most_a_tenth_more(
    metrics: WorkerMetrics, clock: Clock
) -> None:
    for _ in range(500):
        clock.now += 7
        metrics.increment_counter("sent", 7)
        snapshot = metrics.snapshot()
        assert snapshot.growth("sent") == snapshot.growth_seconds
        if snapshot.uptime_seconds > 330:
            assert 300 <= snapshot.growth_seconds <= 337


def test_the_error_rate_forgets_what_has_left_the_window(
    metrics: WorkerMetrics, clock: Clock
) -> None:
    metrics.increment_counter("jobs_failed", 5)
    metrics.increment_counter("jobs_processed", 5)
    assert metrics.get_metrics_data()["error_rate"] == 0.5
    for _ in range(12):
        clock.now += 30
        metrics.increment_counter("jobs_processed", 10)
        rate = metrics.get_metrics_data()["error_rate"]
    assert rate == 0.0


def test_a_ratio_is_declared_once_and_shown_over_the_window(
    metrics: WorkerMetrics, clock: Clock
) -> None:
    metrics.declare_ratio("cache_hit_ratio", "cache_hits", "cache_misses")
    data = metrics.get_metrics_data()
    assert (data["cache_hit_ratio"], data["cache_hits"], data["cache_misses"]) == (None, 0, 0)
    metrics.increment_counter("cache_hits", 2)
    metrics.increment_counter("cache_hits", 1, {"language": "en"})
    metrics.increment_counter("cache_misses")
    assert metrics.get_metrics_data()["cache_hit_ratio"] == 0.75
    for _ in range(12):
        clock.now += 30
        ratio = metrics.get_metrics_data()["cache_hit_ratio"]
    assert ratio is None


def test_a_gauge_of_ones_own_takes_the_place_of_a_ratio(metrics: WorkerMetrics) -> None:
    metrics.declare_ratio("cache_hit_ratio", "cache_hits", "cache_misses")
    metrics.increment_counter("cache_hits")
    metrics.set_gauge("cache_hit_ratio", 0.5)
    assert metrics.get_metrics_data()["cache_hit_ratio"] == 0.5
    assert metrics.render_prometheus().count(b"\ncache_hit_ratio{") == 1
    with pytest.raises(ConfigurationError, match="'cache_hit_ratio' is a gauge already"):
        metrics.increment_counter("cache_hit_ratio")
    metrics.set_gauge("share", 0.25)
    metrics.declare_ratio("share", "cache_hits", "cache_misses")
    assert metrics.get_metrics_data()["share"] == 0.25
    with pytest.raises(ConfigurationError, match="'share' is declared already, as cache_hits"):
        metrics.declare_ratio("share", "cache_misses", "cache_hits")


def test_a_ratio_is_no_counter_and_made_of_counters(metrics: WorkerMetrics) -> None:
    metrics.declare_ratio("cache_hit_ratio", "cache_hits", "cache_misses")
    with pytest.raises(ConfigurationError, match="'cache_hit_ratio' is a ratio already"):
        metrics.increment_counter("cache_hit_ratio")
    metrics.set_gauge("level", 1)
    with pytest.raises(ConfigurationError, match="'level' is a gauge already"):
        metrics.declare_ratio("share", "level", "cache_misses")


# Declaring


def test_what_is_declared_is_there_from_the_start_at_zero(metrics: WorkerMetrics) -> None:
    metrics.declare("chunks", "counter", "Chunks of audio.")
    metrics.declare("chunks", "counter", "Chunks of audio.")
    metrics.declare("sessions", "gauge", "Open sessions.")
    metrics.declare("decoding_ms", "duration", "Decoding.")
    metrics.declare("words", "counter", "Words heard.", labels=["language", "accent"])
    metrics.declare("pause", "duration", "Pauses.", labels=["language"])
    metrics.declare("load", "gauge", "Load.", labels=["language"])
    data = metrics.get_metrics_data()
    assert [data[name] for name in ("chunks", "sessions", "decoding_count", "words")] == [0] * 4
    assert (data["avg_decoding_ms"], data["decoding_ms"]) == (None, None)
    assert (data["pause_count"], data["pause_ms"]) == (0, None)
    assert "load" not in data
    metrics.increment_counter("words", labels={"accent": "scots", "language": "en"})
    assert metrics.get_metrics_data()["words{accent=scots,language=en}"] == 1
    with pytest.raises(ConfigurationError, match="'words' has the labels accent, language"):
        metrics.increment_counter("words", labels={"language": "en"})


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("x", "histogram", "X."), "kind must be one of counter, gauge, duration"),
        (("no good", "counter", "X."), "a metric's name is"),
        (("errors", "gauge", "X."), "'errors' is a counter already"),
        (("chunks", "gauge", "Chunks."), "'chunks' is a counter already"),
        (("chunks", "counter", "Pieces."), "'chunks' is declared already, as counter"),
        (("x", "counter", None), "the description of 'x' is a text, not None"),
        (("errors.KeyError", "gauge", "X."), "'errors.KeyError' is a number of errors"),
    ],
)
def test_a_declaration_that_contradicts_is_refused(
    metrics: WorkerMetrics, arguments: Any, complaint: str
) -> None:
    metrics.declare("chunks", "counter", "Chunks.")
    with pytest.raises(ConfigurationError, match=re.escape(complaint)):
        metrics.declare(*arguments)
    with pytest.raises(ConfigurationError, match="labels of 'x' are several names: "):
        metrics.declare("x", "counter", "X.", labels="language")
    with pytest.raises(ConfigurationError, match="the unit of 'x' is a word, such as bytes"):
        metrics.declare("x", "counter", "X.", unit="per cent")


def test_a_service_shows_its_metrics_from_the_start() -> None:
    promised = {
        "gateway": "clients_connected total_clients_served jobs_sent results_received errors "
        "uptime_seconds redis_operations audio_bytes_processed avg_processing_latency_ms",
        "stt": "jobs_processed successful_transcriptions failed_transcriptions "
        "avg_transcription_time_ms model_inference_time_ms audio_duration_processed_seconds",
        "translation": "jobs_processed successful_translations failed_translations "
        "avg_translation_time_ms text_chars_processed cache_hit_ratio",
    }
    for service, names in promised.items():
        data = WorkerMetrics("w", service=service).get_metrics_data()
        for name in (*names.split(), "memory_usage_mb", "error_rate"):
            assert name in data
        counted = [name for name in names.split() if f"{name}_per_second" in data]
        assert counted
        assert all(not data[name] for name in counted)


# Alerts


def test_an_alert_fires_once_its_figure_has_been_beyond_the_limit_for_long(
    metrics: WorkerMetrics, clock: Clock
) -> None:
    metrics.alert("queue_depth", above=100, for_seconds=60)
    metrics.set_gauge("queue_depth", 101)
    assert "status" not in metrics.get_basic_health_data()
    clock.now += 59
    (state,) = metrics.get_alerts()
    assert (state["status"], state["beyond_seconds"], state["reason"]) == ("healthy", 59.0, None)
    clock.now += 1
    health = metrics.get_basic_health_data()
    assert health["status"] == "degraded"
    assert health["reasons"] == ["queue_depth is 101, above 100 for 60 s"]
    assert health["alerts"] == [
        {
            "figure": "queue_depth",
            "value": 101,
            "above": 100,
            "below": None,
            "for_seconds": 60,
            "beyond_seconds": 60.0,
            "status": "degraded",
            "reason": "queue_depth is 101, above 100 for 60 s",
        }
    ]
    metrics.set_gauge("queue_depth", 100)
    health = metrics.get_basic_health_data()
    assert "status" not in health
    assert health["alerts"][0]["beyond_seconds"] == 0.0


def test_a_figure_that_was_back_for_a_moment_starts_anew(
    metrics: WorkerMetrics, clock: Clock
) -> None:
    metrics.alert("queue_depth", above=100, for_seconds=60)
    metrics.set_gauge("queue_depth", 101)
    for level in (101, 5, 101):
        metrics.set_gauge("queue_depth", level)
        metrics.get_alerts()
        clock.now += 50
    assert [state["beyond_seconds"] for state in metrics.get_alerts()] == [50.0]


def test_of_several_alerts_the_worst_counts_and_all_are_told(metrics: WorkerMetrics) -> None:
    metrics.alert("cache_hit_ratio", below=0.5)
    metrics.alert("error_rate", above=0.05, status="unhealthy")
    metrics.alert("avg_work_ms", above=1)
    metrics.alert("never_heard_of", above=1)
    metrics.declare_ratio("cache_hit_ratio", "cache_hits", "cache_misses")
    metrics.declare("work", "duration", "Work.")
    assert "status" not in metrics.get_basic_health_data()
    metrics.increment_counter("cache_misses")
    metrics.increment_counter("jobs_failed")
    health = metrics.get_basic_health_data()
    assert health["status"] == "unhealthy"
    assert health["reasons"] == [
        "cache_hit_ratio is 0, below 0.5 for 0 s",
        "error_rate is 1, above 0.05 for 0 s",
    ]
    assert [state["value"] for state in health["alerts"]] == [0.0, 1.0, None, None]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({}, "takes one number, as above= or as below="),
        ({"above": 1, "below": 2}, "takes one number"),
        ({"above": "1"}, "takes one number"),
        ({"above": float("nan")}, "takes one number"),
        ({"above": 1, "for_seconds": -1}, "for_seconds must be a number of 0 or more"),
        ({"above": 1, "status": "healthy"}, "status must be 'degraded' or 'unhealthy'"),
        ({"figure": "", "above": 1}, "figure is the name of a value"),
    ],
)
def test_an_alert_that_makes_no_sense_is_refused(
    metrics: WorkerMetrics, arguments: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        metrics.alert(**{"figure": "error_rate", **arguments})


def test_a_finalizer_or_signal_handler_may_record_and_read_while_its_thread_does(
    metrics: WorkerMetrics,
) -> None:
    """They run in the middle of anything; here in each call that a recording or reading makes."""
    metrics.alert("level", above=1)
    metrics.increment_counter("sent")
    within = False

    def interrupt(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal within
        if event == "call" and not within:
            within = True
            metrics.increment_counter("interruptions")
            metrics.set_gauge(f"gauge_{number}", 1)
            metrics.get_basic_health_data()
            within = False

    before = sys.getprofile()
    for number in range(3):
        sys.setprofile(interrupt)
        try:
            metrics.record_duration(f"work_{number}", 1)
            metrics.get_basic_health_data()
        finally:
            sys.setprofile(before)
    assert metrics.get_metrics_data()["interruptions"] > 100


def test_what_rates_need_stays_bounded_while_nobody_reads(
    metrics: WorkerMetrics, clock: Clock
) -> None:
    metrics.get_metrics_data()
    for _ in range(10_000):
        clock.now += 10
        metrics._tick()
    assert len(metrics._counter_window._window.slices) <= 12


def test_alerts_and_rates_are_kept_up_also_while_nobody_reads() -> None:
    """By the background thread, which the first reading has started."""
    metrics = WorkerMetrics("w", window_seconds=1.0)
    metrics.alert("level", above=1, for_seconds=0)
    metrics.get_metrics_data()
    judged = threading.Event()
    metrics._alerts.check = lambda _data, _now: judged.set() or []  # type: ignore[func-returns-value,method-assign]
    assert judged.wait(15)


def test_a_forked_process_records_and_reads_although_a_lock_was_held() -> None:
    metrics = WorkerMetrics("w")
    metrics.increment_counter("sent")

    def record_and_read() -> None:
        metrics.increment_counter("sent")
        assert metrics.get_metrics_data()["sent"] == 2
        assert metrics.get_alerts()[0]["value"] == 2

    metrics.alert("sent", above=100)
    with metrics._lock, metrics._alerts._lock:
        in_a_fork(record_and_read)
    assert metrics.get_metrics_data()["sent"] == 1


def test_without_threads_to_be_had_the_figures_are_shown_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    metrics = WorkerMetrics("w")
    metrics.increment_counter("sent")
    monkeypatch.setattr(threading.Thread, "start", refuse)
    data = metrics.get_metrics_data()
    assert (data["sent"], data["interpreter_stall_ms"]) == (1, None)


def test_a_registry_that_is_dropped_leaves_no_thread_behind() -> None:
    metrics = WorkerMetrics("w")
    before = set(threading.enumerate())
    metrics.get_metrics_data()
    (detector,) = set(threading.enumerate()) - before
    reference = weakref.ref(metrics)
    del metrics
    gc.collect()
    assert reference() is None
    detector.join(timeout=15)
    assert not detector.is_alive()


# Threads


def test_eight_threads_lose_nothing_and_a_reader_never_sees_half(
    metrics: WorkerMetrics, clock: Clock
) -> None:
    rounds, threads = 35_000, 8  # of three recordings and more each
    names = [f"t{number}" for number in range(threads)]
    ready = threading.Barrier(threads + 1)

    def write(number: int) -> None:
        ready.wait(timeout=30)
        for turn in range(rounds):
            metrics.increment_counter("jobs_processed")
            metrics.record_duration("work", 0.001 * (turn % 1000))
            metrics.increment_counter("words", labels={"thread": names[number]})
            if turn % 100 == 0:
                metrics.record_error(ValueError)
                metrics.record_batch(counters={"batches": 1}, durations={"batch": [0.5, 0.5]})
            if number == 0 and turn % 200 == 0:
                clock.now += 7  # so that slices turn and expire while others write

    writers = [threading.Thread(target=write, args=(number,)) for number in range(threads)]
    for writer in writers:
        writer.start()
    ready.wait(timeout=30)
    seen = 0
    while any(writer.is_alive() for writer in writers):
        snapshot = metrics.snapshot()
        for name in snapshot.durations:
            work = snapshot.whole(name)
            for part in (work.recent, work.lifetime):
                assert part.count == part.up_to([10**6])[0]
                if name == "batch":
                    assert part.total == part.count * 0.5, "count and sum are of one moment"
        if "work" in snapshot.durations:
            count = snapshot.whole("work").lifetime.count
            assert seen <= count
            # A writer is at most one call ahead with its counter, and one behind with the next.
            assert 0 <= snapshot.total("jobs_processed") - count <= threads
            assert 0 <= count - snapshot.total("words") <= threads
            seen = count
        if "batch" in snapshot.durations:
            assert 2 * snapshot.total("batches") == snapshot.whole("batch").lifetime.count
    for writer in writers:
        writer.join(timeout=30)

    snapshot = metrics.snapshot()
    whole = snapshot.whole("work").lifetime
    assert snapshot.total("jobs_processed") == snapshot.total("words") == rounds * threads
    assert [part.total for part in snapshot.counters["words"].values()] == [rounds] * threads
    assert snapshot.errors_by("type") == {"ValueError": rounds * threads // 100}
    assert whole.count == whole.up_to([10**6])[0] == rounds * threads
    assert whole.total == pytest.approx(threads * rounds * 0.4995)
    assert (whole.low, whole.high) == (0.0, 0.999)


def test_shared_state_is_touched_only_under_the_lock(
    metrics: WorkerMetrics, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Guarded(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            assert metrics._lock._is_owned()
            return super().__getitem__(name)

        def __setitem__(self, name: str, value: Any) -> None:
            assert metrics._lock._is_owned()
            super().__setitem__(name, value)

        def copy(self) -> dict[str, Any]:
            assert metrics._lock._is_owned()
            return super().copy()

        def items(self) -> Any:
            assert metrics._lock._is_owned()
            return super().items()

    class GuardedSeries(SlidingHistogram):
        def __setattr__(self, name: str, value: Any) -> None:
            assert metrics._lock._is_owned()
            super().__setattr__(name, value)

    monkeypatch.setattr("shared_sync.metrics.series.SlidingHistogram", GuardedSeries)
    for name in ("_counters", "_gauges", "_durations"):
        monkeypatch.setattr(metrics, name, Guarded())
    for _ in range(2):
        for labels in (None, {"language": "en"}):
            metrics.increment_counter("jobs_sent", labels=labels)
            metrics.set_gauge("level", 1, labels)
            metrics.adjust_gauge("level", 1, labels)
            metrics.record_duration("work", 1, labels)
            metrics.record_batch(durations={"work": [1.0]}, labels=labels)
        metrics.record_error(ValueError)
        clock.now += 1000
    assert metrics.get_metrics_data()["work_count"] == 8


def test_nothing_is_called_while_a_recording_holds_the_lock(metrics: WorkerMetrics) -> None:
    def record() -> None:
        metrics.increment_counter("jobs_sent")
        metrics.set_gauge("level", 1.5)
        metrics.record_duration("work", 1.5)
        metrics.increment_counter("words", labels={"language": "en"})
        metrics.record_duration("words_time", 1.5, {"language": "en"})

    called = set()

    def watch(frame: FrameType, event: str, function: Any) -> None:
        if event in ("call", "c_call") and metrics._lock._is_owned():
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
    assert snapshot.total("jobs_sent") == 1
    assert snapshot.whole("work").lifetime.count == 1
    assert snapshot.errors_by("type") == {}
    assert snapshot.newest == {"work": 1}


# Construction and import


@pytest.mark.parametrize(
    "arguments",
    [
        {"instance_id": ""},
        {"instance_id": None},
        {"namespace": "1st"},
        {"namespace": "a-b"},
        {"service": "stt-worker"},
        {"window_seconds": 0},
        {"window_seconds": float("nan")},
        {"window_seconds": float("inf")},
        {"bound_ratio": 1.0},
        {"bound_ratio": float("nan")},
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


# A quantile by itself


def test_a_quantile_is_that_of_the_window_or_of_the_whole_life_whichever_is_longer(
    metrics: WorkerMetrics, clock: Clock
) -> None:
    metrics.record_batch(durations={"latency": [1.0] * 99 + [8.0]})
    assert metrics.quantile_seconds("latency", 0.5) == pytest.approx(1, rel=0.01)
    assert metrics.quantile_seconds("latency", 1.0) == 8
    clock.now += 1000
    metrics.record_batch(durations={"latency": [3.0] * 50})
    assert metrics.quantile_seconds("latency", 0.5) == pytest.approx(3, rel=0.01)
    assert metrics.quantile_seconds("latency", 1.0) == 8
    clock.now += 1000
    assert metrics.quantile_seconds("latency", 0.5) == pytest.approx(1, rel=0.01)


def test_a_quantile_is_told_from_enough_recordings_only(metrics: WorkerMetrics) -> None:
    assert metrics.quantile_seconds("latency", 0.99) is None
    metrics.declare("latency", "duration", "How long it took.")
    assert metrics.quantile_seconds("latency", 0.99) is None
    metrics.record_duration("latency", 2.0)
    assert metrics.quantile_seconds("latency", 0.99) == 2
    assert metrics.quantile_seconds("latency", 0.99, min_count=2) is None


def test_a_quantile_is_that_of_all_labels_and_spellings(metrics: WorkerMetrics) -> None:
    metrics.record_duration("latency_ms", 2.0, {"language": "en"})
    metrics.record_duration("latency", 5.0, {"language": "de"})
    metrics.record_duration("another", 9.0)
    assert metrics.quantile_seconds("latency_seconds", 1.0, min_count=2) == 5
