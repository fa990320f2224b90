"""What several workers report, merged: sums, weighted averages, and the worst."""

from __future__ import annotations

from typing import Any

from helpers import Clock
from registries import StillResources, registry

from shared_sync.cli.worker import merging


def filled(name: str, durations: list[float], failures: int) -> Any:
    metrics = registry(name, Clock(), StillResources())
    for seconds in durations:
        metrics.record_duration("inference", seconds)
        metrics.increment_counter("jobs_processed")
    for _ in range(failures):
        metrics.record_error("ValueError")
        metrics.increment_counter("jobs_failed")
    metrics.set_gauge("model_replicas", 1)
    metrics.set_gauge("queue_depth", 7, labels={"stream": "jobs", "group": "g"})
    return metrics


def test_metrics_of_workers_are_those_of_one_that_has_done_all() -> None:
    workers = [filled("w-1", [0.1] * 3, 1), filled("w-2", [0.5], 0)]
    merged = merging.metrics(one.get_metrics_data() for one in workers)
    whole = filled("w", [0.1] * 3 + [0.5], 1).get_metrics_data()
    for name in (
        *("jobs_processed", "jobs_failed", "errors", "errors_by_category", "total_errors"),
        *("inference_count", "inference_window_count", "avg_inference_ms", "max_inference_ms"),
        *("queue_depth", "window_seconds"),
    ):
        assert merged[name] == whole[name], name
    assert merged["model_replicas"] == 2
    assert merged["p99_inference_ms"] == workers[1].get_metrics_data()["p99_inference_ms"]
    assert "instance_id" not in merged


def test_series_stand_below_one_head_for_each_family() -> None:
    first, second = (
        f'# HELP jobs Jobs.\n# TYPE jobs counter\njobs_total{{i="{name}"}} 1\n{more}# EOF\n'
        for name, more in (("a", ""), ("b", '# TYPE late gauge\nlate{i="b"} 2\n'))
    )
    assert merging.exposition([first, second], end="# EOF\n").decode() == (
        '# HELP jobs Jobs.\n# TYPE jobs counter\njobs_total{i="a"} 1\njobs_total{i="b"} 1\n'
        '# TYPE late gauge\nlate{i="b"} 2\n# EOF\n'
    )


def test_health_keeps_what_is_the_same_and_adds_up_the_rest() -> None:
    one = {"queue_depth": 5, "jobs_in_flight": 2, "redis_connected": False, "ready": True}
    states = ({"consumer_state": word} for word in ("running", "draining", "running"))
    merged = merging.health({**one, **state, "longest_job_seconds": 1.5} for state in states)
    assert merged == {
        "queue_depth": 5,
        "jobs_in_flight": 6,
        "redis_connected": False,
        "consumer_state": "running, draining",
        "longest_job_seconds": 1.5,
    }
