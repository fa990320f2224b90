"""What a registry shows, what it is constructed with, and what importing it loads."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from helpers import Clock
from registries import MEGABYTE, StillResources

from shared_sync.errors import ConfigurationError
from shared_sync.metrics import WorkerMetrics
from shared_sync.metrics.cgroup import ContainerMemory
from shared_sync.metrics.gpu import GpuSample
from shared_sync.metrics.process import ProcessSample

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
        "metrics_rejected": 0,
        "metrics_rejected_per_second": 0.0,
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


def test_values_that_the_system_hides_are_null(
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
            GpuSample(
                *(0, 1024 * MEGABYTE, 4096 * MEGABYTE, 0.5, 61.0),
                uuid="GPU-8932",
                name="NVIDIA A100",
                process_memory_bytes=512 * MEGABYTE,
            ),
            GpuSample(1, 0, 4096 * MEGABYTE, None, None, mig_index=2),
        ),
    )
    data = metrics.get_metrics_data()
    assert (data["memory_limit_mb"], data["memory_used_ratio"]) == (128.0, 0.75)
    assert {key: value for key, value in data.items() if key.startswith("gpu")} == {
        "gpu_memory_used_mb{gpu=0}": 1024.0,
        "gpu_memory_total_mb{gpu=0}": 4096.0,
        "gpu_process_memory_used_mb{gpu=0}": 512.0,
        "gpu_uuid{gpu=0}": "GPU-8932",
        "gpu_name{gpu=0}": "NVIDIA A100",
        "gpu_utilization_percent{gpu=0}": 50.0,
        "gpu_temperature_celsius{gpu=0}": 61.0,
        "gpu_memory_used_mb{gpu=1:2}": 0.0,
        "gpu_memory_total_mb{gpu=1:2}": 4096.0,
        "gpu_process_memory_used_mb{gpu=1:2}": None,
        "gpu_uuid{gpu=1:2}": None,
        "gpu_name{gpu=1:2}": None,
        "gpu_utilization_percent{gpu=1:2}": None,
        "gpu_temperature_celsius{gpu=1:2}": None,
    }


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


def test_a_quantile_is_taken_from_enough_recordings_only(metrics: WorkerMetrics) -> None:
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


# Queues


def queue_of(data: dict[str, Any]) -> dict[str, Any]:
    return {name: data[name] for name in data if name.startswith(("queue_depth", "jobs_parked"))}


def test_the_sizes_of_one_queue_have_no_labels_in_json(metrics: WorkerMetrics) -> None:
    metrics.record_queue({"queue_depth": 7, "jobs_parked": 1}, stream="jobs", group="stt")
    metrics.record_queue({"queue_depth": 8, "jobs_parked": None}, stream="jobs", group="stt")
    assert queue_of(metrics.get_metrics_data()) == {"queue_depth": 8, "jobs_parked": 1}
    metrics.alert("queue_depth", above=7)
    assert metrics.get_basic_health_data()["status"] == "degraded"


def test_the_sizes_of_several_queues_are_shown_apart_and_added_up(metrics: WorkerMetrics) -> None:
    metrics.record_queue({"queue_depth": 7}, stream="jobs", group="stt")
    metrics.record_queue({"queue_depth": 2}, stream="texts", group="translation")
    assert queue_of(metrics.get_metrics_data()) == {
        "queue_depth": 9,
        "queue_depth{group=stt,stream=jobs}": 7,
        "queue_depth{group=translation,stream=texts}": 2,
    }


def test_a_queue_that_a_program_measures_itself_is_a_gauge_like_others(
    metrics: WorkerMetrics,
) -> None:
    metrics.set_gauge("queue_depth", 3)
    metrics.set_gauge("jobs_parked", 4, {"queue": "a"})
    assert queue_of(metrics.get_metrics_data()) == {"queue_depth": 3, "jobs_parked{queue=a}": 4}
    metrics.record_queue({"queue_depth": 7}, stream="jobs", group="stt")
    assert metrics.get_metrics_data()["queue_depth"] == 7
