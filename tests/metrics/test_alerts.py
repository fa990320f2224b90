"""An alert fires while a value is beyond its limit for long enough."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import Clock

from shared_sync.errors import ConfigurationError
from shared_sync.metrics import WorkerMetrics


def test_an_alert_fires_once_its_value_has_been_beyond_the_limit_for_long(
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


def test_a_value_that_was_back_within_its_limit_starts_anew(
    metrics: WorkerMetrics, clock: Clock
) -> None:
    metrics.alert("queue_depth", above=100, for_seconds=60)
    metrics.set_gauge("queue_depth", 101)
    for level in (101, 5, 101):
        metrics.set_gauge("queue_depth", level)
        metrics.get_alerts()
        clock.now += 50
    assert [state["beyond_seconds"] for state in metrics.get_alerts()] == [50.0]


def test_of_several_alerts_the_worst_counts_and_all_are_shown(metrics: WorkerMetrics) -> None:
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


@pytest.mark.parametrize(
    ("figure", "meant"),
    [
        ("eror_rate", "error_rate"),
        ("memory_used_mb", "memory_usage_mb"),
        ("p99_procesing_latency_ms", "p99_processing_latency_ms"),
        ("job_failed_per_second", "jobs_failed_per_second"),
        ("gpu_memory_use_mb{gpu=0}", "gpu_memory_used_mb"),
        ("letters_writen", "letters_written"),
    ],
)
def test_a_slip_in_the_name_of_a_figure_is_refused_at_once(
    metrics: WorkerMetrics, figure: str, meant: str
) -> None:
    metrics.increment_counter("letters_written")
    with pytest.raises(ConfigurationError, match=f"did you mean '{meant}'"):
        metrics.alert(figure, above=1)
    metrics.alert(meant, above=1)


def test_a_metric_of_the_program_may_have_a_similar_name_once_it_is_there(
    metrics: WorkerMetrics,
) -> None:
    metrics.set_gauge("eror_rate", 5)
    metrics.alert("eror_rate", above=1)
    assert metrics.get_basic_health_data()["status"] == "degraded"


def test_every_number_in_the_json_can_be_watched(metrics: WorkerMetrics) -> None:
    metrics.increment_counter("a_counter", labels={"language": "en"})
    metrics.record_duration("a_duration", 1.0)
    metrics.set_gauge("a_gauge", 1.0)
    data = metrics.get_metrics_data()
    for figure in data:
        assert figure.partition("{")[0] in metrics._value_names() or not isinstance(
            data[figure], (int, float, type(None))
        )
        metrics.alert(figure, above=1)
