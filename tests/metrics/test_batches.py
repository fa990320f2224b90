"""Many values that are recorded at once are seen at once."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import Clock

from shared_sync.errors import ConfigurationError
from shared_sync.metrics import WorkerMetrics


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
def test_a_batch_with_one_wrong_value_records_nothing(
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


def test_a_batch_turns_the_slices_of_the_window_too(metrics: WorkerMetrics, clock: Clock) -> None:
    metrics.record_batch(durations={"work": [9.0]})
    clock.now += 331
    metrics.record_batch(durations={"work": [1.0]})
    data = metrics.get_metrics_data()
    assert (data["max_work_ms"], data["work_window_count"], data["work_count"]) == (1000.0, 1, 2)
