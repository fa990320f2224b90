"""What the dashboards of the tests show: a busy worker, its jobs and readers, and its group."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dashboards import Worker

TIMES = "\N{MULTIPLICATION SIGN}"


def wave(place: int, length: float) -> float:
    return math.sin(place / length) + 0.35 * math.sin(place / length * 3.7 + 1)


def busy(worker: Worker) -> None:
    """An hour of a speech worker's life, with a bad quarter of an hour."""
    processed = failed = dead = 0.0

    def values(place: int) -> dict[str, float | None]:
        nonlocal processed, failed, dead
        is_bad = 480 <= place < 620
        processed += (42 + 9 * wave(place, 60) - (18 if is_bad else 0)) * 5
        failed += (0.4 + 0.3 * wave(place, 25) + (6 if is_bad else 0)) * 5
        dead += 1 if is_bad and place % 12 == 0 else 0
        latency = 210 + 30 * wave(place, 40) + (340 if is_bad else 0)
        return {
            "jobs_processed": round(processed),
            "jobs_failed": round(failed),
            "jobs_dead": dead,
            "p50_processing_latency_ms": round(latency, 1),
            "p95_processing_latency_ms": round(latency * 2.3 + 20 * wave(place, 9), 1),
            "p99_processing_latency_ms": round(latency * 3.4 + 60 * wave(place, 7), 1),
            "queue_depth": max(0, round(120 + 60 * wave(place, 90) + max(0, place - 480) * 2.4)),
            "queue_waiting": max(0, round(90 + 60 * wave(place, 90) + max(0, place - 480) * 2.2)),
            "jobs_parked": 12 + (place - 480) // 8 if is_bad else 12,
            "memory_usage_mb": round(1210 + 160 * wave(place, 130) + place * 0.2, 1),
            "cpu_percent": round(164 + 40 * wave(place, 22), 1),
            "gpu_utilization_percent{gpu=0}": round(min(100, 71 + 18 * wave(place, 31)), 1),
            "gpu_memory_used_mb{gpu=0}": 5120 + round(60 * wave(place, 50)),
            "gpu_process_memory_used_mb{gpu=0}": 4096 + round(60 * wave(place, 50)),
            "uptime_seconds": 86_400 + place * 5,
        }

    worker.past(values)
    worker.metrics |= {
        "errors": {"ValueError": 3, "TimeoutError": 11},
        "error_rate": 0.0123,
        "window_seconds": 60.0,
        "gpu_temperature_celsius{gpu=0}": 71,
        "gpu_uuid{gpu=0}": "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6",
        "gpu_name{gpu=0}": "NVIDIA A100-SXM4-40GB",
    }
    worker.health = {
        "status": "degraded",
        "reasons": ["reader stt-1-reader-2 runs message 1767225600122-0 for 133 s, not 60 s"],
        "live": True,
        "redis_connected": True,
        "consumer_state": "running",
        "jobs_in_flight": 3,
        "queue_depth": worker.metrics["queue_depth"],
        "longest_job_seconds": 133.2,
    }
    worker.checks = {
        "model": {"model_loaded": True, "warm_up_seconds": 12.4},
        "disk": {"status": "degraded", "reasons": ["only 4 % of the disk are free"]},
    }
    worker.check_options = {
        "model": {"startup": True, "timeout_seconds": 0.2},
        "disk": {"critical": False, "readiness": True},
    }
    worker.options = {"details": True}
    of = {"stream": "audio:jobs", "group": "stt-workers"}
    worker.views = {
        "readers": {
            **of,
            "readers": READERS,
            "jobs": JOBS,
            "batches": BATCHES,
            "circuit_breakers": BREAKERS,
        },
        "group": {
            **of,
            "consumers": CONSUMERS,
            "consumers_total": 3,
            "parked": PARKED,
            "parked_total": 29,
            "dead_letters": LETTERS,
            "dead_letters_total": 214,
        },
    }


def job(number: int, state: str = "running", **facts: Any) -> dict[str, Any]:
    return {
        "reader": f"stt-1-reader-{number}",
        "message_id": f"176722560012{number}-0",
        "attempt": 1,
        "age_seconds": 2.0 * number,
        "budget_seconds": 60.0,
        "limit_seconds": 90.0,
        "state": state,
        **facts,
    }


def letter(number: int, fingerprint: str = "3fa91c07", **facts: Any) -> dict[str, Any]:
    return {
        "id": f"17672256{number:05}-0",
        "message_id": f"17672251{number:05}-0",
        "reason": "failed 5 times",
        "error_type": "ValueError",
        "fingerprint": fingerprint,
        "attempts": 5,
        "seconds_ago": 73.0 * number,
        "details": "cannot read 7 bytes of audio: no RIFF header",
        **facts,
    }


READERS = [
    {"name": "stt-1-reader-1", "state": "running", "seconds": 2.2},
    {"name": "stt-1-reader-2", "state": "late", "seconds": 133.2},
    {"name": "stt-1-reader-3", "state": "running", "seconds": 14.0},
    {"name": "stt-1-reader-4", "state": "waiting", "seconds": 0.7},
]
BATCHES = [
    {
        "reader": f"stt-1-reader-{number}",
        "runs": 12_408,
        "extra_runs": 31,
        "mean_size": 13.4,
        "ceiling": 8 if number == 2 else 16,
        "base_ms": 20.1,
        "message_ms": 1.04,
    }
    for number in range(1, 5)
]
JOBS = [job(1), job(2, "late", age_seconds=133.2, attempt=2), job(3, budget_seconds=None)]
BREAKERS = [
    {
        "name": "translator",
        "state": "half-open",
        "failures": 5,
        "trial_in_seconds": 0.0,
        "openings": 2,
        "refused": 31,
    },
    {
        "name": "storage",
        "state": "closed",
        "failures": 0,
        "trial_in_seconds": None,
        "openings": 0,
        "refused": 0,
    },
]
CONSUMERS = [
    {
        "name": "stt-1",
        "present": True,
        "lease_seconds_left": 21.3,
        "pending": 3,
        "idle_seconds": 0.4,
        "host": "gpu-7",
        "pid": 4711,
    },
    {
        "name": "stt-2",
        "present": False,
        "lease_seconds_left": None,
        "pending": 2,
        "idle_seconds": 94.0,
        "host": "gpu-8",
        "pid": 81,
    },
    {
        "name": "import-script",
        "present": None,
        "lease_seconds_left": None,
        "pending": 0,
        "idle_seconds": 5400.0,
        "host": None,
        "pid": None,
    },
]
PARKED = [
    {
        "message_id": f"176722559{number}000-0",
        "due_in_seconds": 14.0 * number - 14,
        "failures": 2,
        "crashes": 1 if number == 3 else 0,
        "error_type": "TimeoutError",
        "details": "no answer of the model within 30 s",
    }
    for number in range(1, 4)
]
LETTERS = [
    *(letter(number) for number in range(1, 5)),
    letter(9, "b1e77d20", error_type="", reason="crashed 3 times", attempts=3, details=""),
]
