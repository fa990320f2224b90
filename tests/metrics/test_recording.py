"""What is recorded is what is shown; what cannot be recorded is refused."""

from __future__ import annotations

import json
import random
import sys
from enum import Enum
from math import ceil
from typing import Any

import pytest
from helpers import Clock

from shared_sync.errors import ConfigurationError
from shared_sync.metrics import WorkerMetrics

NOT_COUNTABLE = [-1, -0.5, float("nan"), float("inf"), True, "3", None, 1j]


# Counters, gauges and names


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


def test_a_sum_beyond_what_a_float_can_be_breaks_no_page(
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


def test_a_gauge_of_ones_own_takes_the_place_of_a_derived_one(metrics: WorkerMetrics) -> None:
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
    windowed = [data[f"{kind}_work_ms"] for kind in ("avg", "p50", "p95", "p99", "max")]
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


def test_a_gauge_is_never_seen_at_a_value_it_was_not_given(metrics: WorkerMetrics) -> None:
    metrics._gauge_key("level", None)  # what a recording does before it takes the lock again
    assert "level" not in metrics.get_metrics_data()


# Distributions


def test_a_distribution_is_shown_in_plain_numbers(metrics: WorkerMetrics) -> None:
    for size in (16, 16, 4):
        metrics.record_size("batch_size", size)
    data = metrics.get_metrics_data()
    assert data["batch_size"] == 4
    assert data["avg_batch_size"] == 12
    assert (data["max_batch_size"], data["batch_size_count"]) == (16, 3)
    assert data["p50_batch_size"] == pytest.approx(16, rel=0.01)
    assert not [name for name in data if "batch_size" in name and name.endswith("_ms")]


def test_a_name_is_either_a_duration_or_a_distribution(metrics: WorkerMetrics) -> None:
    metrics.record_size("batch_size", 1)
    with pytest.raises(ConfigurationError, match="'batch_size' is a distribution already"):
        metrics.record_duration("batch_size", 1.0)
    metrics.record_duration("model_inference_time", 1.0)
    with pytest.raises(ConfigurationError, match="'model_inference_time' is a duration already"):
        metrics.record_size("model_inference_time", 1)
    data = metrics.get_metrics_data()
    assert (data["batch_size_count"], data["model_inference_time_count"]) == (1, 1)


def test_a_declared_distribution_is_shown_before_its_first_number(metrics: WorkerMetrics) -> None:
    metrics.declare("batch_size", "distribution", "Messages in one run.", unit="messages")
    assert metrics.get_metrics_data()["avg_batch_size"] is None


@pytest.mark.parametrize("size", NOT_COUNTABLE)
def test_a_size_that_makes_no_sense_is_refused(metrics: WorkerMetrics, size: Any) -> None:
    with pytest.raises(ConfigurationError, match="'batch_size' takes a finite number"):
        metrics.record_size("batch_size", size)


def test_a_distribution_may_be_watched(metrics: WorkerMetrics) -> None:
    metrics.record_size("batch_size", 16)
    metrics.alert("avg_batch_size", above=8)
    (alert,) = metrics.get_alerts()
    assert alert["status"] == "degraded"
