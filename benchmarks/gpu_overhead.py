"""What `isolation="process"` costs: for each message, by size, and for the start of a child."""

from __future__ import annotations

import time
from typing import Any

from gpu_bench import PATIENCE_SECONDS, Bench
from measuring import SMALL_PAYLOAD, fill
from worker_reports import STREAM

THREAD, PROCESS = "thread", "process"
SIZES = {
    "100 B": ("us", 1e6, SMALL_PAYLOAD, 100_000, 20_000),
    "64 KB": ("us", 1e6, 64 * 1024, 4_000, 4_000),
    "10 MB": ("ms", 1e3, 10 * 1024**2, 20, 20),
}
"""A unit and how many of it are a second; the bytes of a message; how many messages a thread gets,
and how many a process."""
STARTS = 5
STARTED = "child, start-up"


def measure_overhead(bench: Bench) -> None:
    """Empty jobs of three sizes in a thread and in a child; then the start of a child."""
    for label, (unit, factor, payload, *numbers) in SIZES.items():
        for _ in range(bench.options.rounds):
            used = {}
            for isolation, number in zip((THREAD, PROCESS), numbers, strict=True):
                seconds = _seconds_a_message(bench, isolation, payload, number)
                used[isolation] = seconds * factor
            overhead = used[PROCESS] - used[THREAD]
            bench.measured.add(
                f"a message of {label}",
                {
                    f"thread {unit}": used[THREAD],
                    f"process {unit}": used[PROCESS],
                    f"overhead {unit}": overhead,
                },
            )
    fill(bench.client, 0)
    for _ in range(STARTS):
        with _worker(bench, PROCESS) as worker:
            worker.read("ready")
            worker.end_input()
            metrics = worker.read("metrics")["metrics"]
            worker.wait()
        bench.measured.add(STARTED, {"ms": metrics["max_processor_load_ms"]})


def _seconds_a_message(bench: Bench, isolation: str, payload: int, number: int) -> float:
    """Return the seconds for each message, from when the first are done until all are."""
    client = bench.client
    fill(client, number, payload_bytes=payload)
    with _worker(bench, isolation) as worker:
        first: tuple[float, int] | None = None
        left, deadline = number, time.monotonic() + PATIENCE_SECONDS
        while left:
            left = client.xlen(STREAM)
            now = time.monotonic()
            if first is None and left < number:
                first = (now, left)
            if now > deadline:
                raise SystemExit(f"{left} of {number} messages are left after {PATIENCE_SECONDS} s")
            time.sleep(0.001)
        assert first is not None
        worker.wait()
    return (now - first[0]) / first[1]


def _worker(bench: Bench, isolation: str) -> Any:
    return bench.worker(message_processor="gpu_processors:noop", isolation=isolation)
