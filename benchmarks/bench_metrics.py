"""What one recording costs, beside the same by prometheus_client.

    python benchmarks/bench_metrics.py

Prints nanoseconds per call, the best of several rounds, with one thread and with four that all
write to the same metric, and the ratio to prometheus_client in the same run. Only the ratios mean
something on a machine that does other work too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Histogram

from shared_sync.metrics import WorkerMetrics

CALLS = 100_000
ROUNDS = 7


def nanoseconds_per_call(work: Callable[[int], None], threads: int) -> float:
    """Return the elapsed time of one round, divided by the calls that all threads made in it."""
    ready = threading.Barrier(threads + 1)

    def run() -> None:
        ready.wait()
        work(CALLS // threads)

    writers = [threading.Thread(target=run) for _ in range(threads)]
    for writer in writers:
        writer.start()
    ready.wait()
    began = time.perf_counter_ns()
    for writer in writers:
        writer.join()
    return (time.perf_counter_ns() - began) / CALLS


def main() -> None:
    metrics = WorkerMetrics("bench")
    registry = CollectorRegistry()
    counter = Counter("jobs", "Jobs.", registry=registry)
    histogram = Histogram("latency", "Latency.", registry=registry)

    def increment_counter(calls: int) -> None:
        for _ in range(calls):
            metrics.increment_counter("jobs")

    def inc(calls: int) -> None:
        for _ in range(calls):
            counter.inc()

    def record_duration(calls: int) -> None:
        for _ in range(calls):
            metrics.record_duration("latency", 0.0123)

    def observe(calls: int) -> None:
        for _ in range(calls):
            histogram.observe(0.0123)

    print(f"{'':18}{'threads':>8}{'ours':>8}{'theirs':>8}{'ratio':>7}   (ns per call)")
    for ours, theirs in ((increment_counter, inc), (record_duration, observe)):
        for threads in (1, 4):
            # In turns, so that both see the same weather.
            pairs = [
                (nanoseconds_per_call(ours, threads), nanoseconds_per_call(theirs, threads))
                for _ in range(ROUNDS)
            ]
            mine, yours = (min(side) for side in zip(*pairs, strict=True))
            print(f"{ours.__name__:18}{threads:8}{mine:8.0f}{yours:8.0f}{mine / yours:7.2f}")


if __name__ == "__main__":
    main()
