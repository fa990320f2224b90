"""What recording costs, how exact the percentiles are, and how much memory all that takes.

    pip install 'shared_sync[bench]'
    python benchmarks/bench_metrics.py [--brief]

Prints five tables: nanoseconds per recording call and per value of a batch, milliseconds per
reading, errors of percentiles, and bytes per metric; beside the same of prometheus_client, the
OpenTelemetry SDK and DDSketch where they have it. Calls are measured in turns, so that
other load of the machine affects all of them, and the best of several rounds counts. On a machine
that does other work too only the ratios mean something.

Exit status 1 if `increment_counter` is slower than prometheus_client's `inc`, or `record_duration`
than its `observe`, with one thread or with four. `--brief` takes seconds and shows that everything
works; its times mean nothing.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import random
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from math import ceil, inf, nan
from types import TracebackType
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import Metric

from shared_sync.metrics import MAX_LABEL_SETS, WorkerMetrics
from shared_sync.metrics.sliding_window import SLICES

THREADS = (1, 4)
BATCHES = (10, 100)
SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
ABSENT = "not installed"


def installed(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


OPENTELEMETRY = installed("opentelemetry.sdk.metrics")
DDSKETCH = installed("ddsketch")


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    calls: int = 100_000
    rounds: int = 7
    readings: int = 200
    sample: int = 100_000


BRIEF = Effort(calls=1000, rounds=2, readings=5, sample=20_000)


# --- calls ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """One thing to do, as a statement for each of three libraries."""

    ours: str
    theirs: str
    kept_child: str | None
    opentelemetry: str


CALLS = {
    "increment_counter": Call(
        'ours.increment_counter("jobs")', "counter.inc()", None, "otel_counter.add(1)"
    ),
    "increment_counter, 1 label": Call(
        'ours.increment_counter("audio", labels={"language": "en"})',
        'counters.labels(language="en").inc()',
        "counter_child.inc()",
        'otel_counter.add(1, {"language": "en"})',
    ),
    "record_duration": Call(
        'ours.record_duration("latency", 0.0123)',
        "histogram.observe(0.0123)",
        None,
        "otel_histogram.record(0.0123)",
    ),
    "record_duration, 1 label": Call(
        'ours.record_duration("decoding", 0.0123, labels={"language": "en"})',
        'histograms.labels(language="en").observe(0.0123)',
        "histogram_child.observe(0.0123)",
        'otel_histogram.record(0.0123, {"language": "en"})',
    ),
    "set_gauge": Call('ours.set_gauge("depth", 2.0)', "gauge.set(2.0)", None, "otel_gauge.set(2)"),
}
JUDGED = {"increment_counter": "inc", "record_duration": "observe"}


def instruments() -> dict[str, Any]:
    """Return what the statements of CALLS name."""
    registry = CollectorRegistry()
    counters = Counter("audio", "Audio.", ["language"], registry=registry)
    histograms = Histogram("decoding", "Decoding.", ["language"], registry=registry)
    names: dict[str, Any] = {
        "ours": WorkerMetrics("bench"),
        "counter": Counter("jobs", "Jobs.", registry=registry),
        "counters": counters,
        "counter_child": counters.labels(language="en"),
        "histogram": Histogram("latency", "Latency.", registry=registry),
        "histograms": histograms,
        "histogram_child": histograms.labels(language="en"),
        "gauge": Gauge("depth", "Depth.", registry=registry),
    }
    if OPENTELEMETRY:
        from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: PLC0415

        names["provider"] = MeterProvider(metric_readers=[InMemoryMetricReader()])
        meter = names["provider"].get_meter("bench")
        names["otel_counter"] = meter.create_counter("jobs")
        names["otel_histogram"] = meter.create_histogram("latency", unit="s")
        names["otel_gauge"] = meter.create_gauge("depth")
    return names


def loop(statement: str, names: dict[str, Any]) -> Callable[[int], None]:
    """Return a function that runs the statement so many times."""
    scope = dict(names)
    exec(f"def run(calls):\n    for _ in range(calls):\n        {statement}", scope)
    run: Callable[[int], None] = scope["run"]
    return run


def nanoseconds_per_call(work: Callable[[int], None], threads: int, calls: int) -> float:
    """Return the elapsed time of one round, divided by the calls that all threads made in it."""
    ready = threading.Barrier(threads + 1)

    def run() -> None:
        ready.wait()
        work(calls // threads)

    writers = [threading.Thread(target=run) for _ in range(threads)]
    for writer in writers:
        writer.start()
    ready.wait()
    began = time.perf_counter_ns()
    for writer in writers:
        writer.join()
    return (time.perf_counter_ns() - began) / calls


def in_turns(
    works: Iterable[Callable[[int], None]], threads: int, calls: int, rounds: int
) -> list[float]:
    """Return the best round of each."""
    works = list(works)
    turns = [[nanoseconds_per_call(work, threads, calls) for work in works] for _ in range(rounds)]
    return [min(side) for side in zip(*turns, strict=True)]


def print_calls(effort: Effort) -> list[str]:
    """Measure and print; return the bounds that were missed, as text."""
    print("Recording: ns per call (in brackets: ours divided by it)\n")
    print(f"{'':28}{'threads':>8}{'ours':>8}", end="")
    print(f"{'prometheus_client':>20}{'its kept child':>18}{'OpenTelemetry':>18}")
    missed = []
    names = instruments()
    for name, call in CALLS.items():
        statements = {"ours": call.ours, "theirs": call.theirs}
        if call.kept_child:
            statements["kept child"] = call.kept_child
        if OPENTELEMETRY:
            statements["opentelemetry"] = call.opentelemetry
        works = [loop(statement, names) for statement in statements.values()]
        for threads in THREADS:
            best = in_turns(works, threads, effort.calls, effort.rounds)
            took = dict(zip(statements, best, strict=True))
            ours = took["ours"]
            cells = {key: f"{ns:.0f} ({ours / ns:.2f})" for key, ns in took.items()}
            print(f"{name:28}{threads:8}{ours:8.0f}{cells['theirs']:>20}", end="")
            print(f"{cells.get('kept child', '-'):>18}{cells.get('opentelemetry', ABSENT):>18}")
            if name in JUDGED and ours > took["theirs"]:
                missed.append(
                    f"{name} is slower than {JUDGED[name]}, {ours / took['theirs']:.2f} times the "
                    f"time with {threads} threads"
                )
    return missed


def print_batches(effort: Effort) -> None:
    print("\nBatches: ns per value of record_batch with so many durations and two counters\n")
    print(f"{'durations':>10}{'one batch':>12}{'one by one':>12}{'ratio':>8}")
    ours = WorkerMetrics("bench")
    for size in BATCHES:
        lengths = [0.01 * 1.02**number for number in range(size)]
        counters = {"jobs": size, "audio": 1000}

        def batch(
            times: int, counters: dict[str, int] = counters, lengths: list[float] = lengths
        ) -> None:
            for _ in range(times):
                ours.record_batch(counters=counters, durations={"latency": lengths})

        def one_by_one(
            times: int, counters: dict[str, int] = counters, lengths: list[float] = lengths
        ) -> None:
            for _ in range(times):
                for name, growth in counters.items():
                    ours.increment_counter(name, growth)
                for length in lengths:
                    ours.record_duration("latency", length)

        calls = max(effort.calls // size, 10)
        values = size + len(counters)
        together, apart = (
            ns / values for ns in in_turns((batch, one_by_one), 1, calls, effort.rounds)
        )
        print(f"{size:10}{together:12.0f}{apart:12.0f}{together / apart:8.2f}")


# --- reading ----------------------------------------------------------------------------------


class MovableClock:
    """A monotonic clock that can be set forward."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


class TimedLock:
    """A lock that measures how long it is held."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since = 0
        self.held: list[int] = []

    def __enter__(self) -> None:
        self._lock.acquire()
        self._since = time.perf_counter_ns()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.held.append(time.perf_counter_ns() - self._since)
        self._lock.release()


def over_a_window(
    metrics: WorkerMetrics, clock: MovableClock, record: Callable[[int], None]
) -> None:
    """Let a whole window and a slice go by: record and read in each of its slices."""
    for number in range(SLICES + 1):
        record(number)
        metrics.get_metrics_data()
        if number < SLICES:
            clock.ahead += 300.0 / SLICES


def print_readings(effort: Effort) -> None:
    print("\nReading: ms for 20 counters, 10 gauges and 6 durations after a busy window\n")
    clock = MovableClock()
    metrics = WorkerMetrics("bench", clock=clock)
    sample = SAMPLES["lognormal"](effort.sample)

    def record(number: int) -> None:
        metrics.record_batch(
            counters={f"counter_{n}": n for n in range(20)},
            gauges={f"gauge_{n}": n for n in range(10)},
            durations={f"duration_{n}": sample[number :: SLICES + 1] for n in range(6)},
        )

    over_a_window(metrics, clock, record)
    lock = TimedLock()
    metrics._lock = lock  # type: ignore[assignment]
    longest = []
    for _ in range(effort.readings):
        lock.held.clear()
        metrics.snapshot()
        longest.append(max(lock.held) / 1e6)
    metrics._lock = threading.Lock()
    for name, read in {
        "snapshot": metrics.snapshot,
        "JSON": lambda: json.dumps(metrics.get_metrics_data()),
        "Prometheus": metrics.render_prometheus,
        "OpenMetrics": metrics.render_openmetrics,
    }.items():
        took = []
        for _ in range(effort.readings):
            began = time.perf_counter_ns()
            read()
            took.append((time.perf_counter_ns() - began) / 1e6)
        print(f"{name:28}{median(took):8.3f}")
    print(f"{'lock held by a snapshot':28}{median(longest):8.3f}   longest {max(longest):.3f}")
    # No other thread runs: beside busy ones, waits for the interpreter lock would be in it.


def median(numbers: list[float]) -> float:
    return sorted(numbers)[len(numbers) // 2]


# --- accuracy ---------------------------------------------------------------------------------


def lognormal(size: int) -> list[float]:
    chance = random.Random(1)
    return [chance.lognormvariate(-1, 0.7) for _ in range(size)]


def bimodal(size: int) -> list[float]:
    """Durations of cache hits and misses."""
    chance = random.Random(2)
    return [
        chance.gauss(0.05, 0.003) if chance.random() < 0.7 else chance.gauss(2, 0.1)
        for _ in range(size)
    ]


def constant(size: int) -> list[float]:
    return [0.123] * size


def heavy_tailed(size: int) -> list[float]:
    """Half are below 18 ms, and one of 100,000 takes more than two minutes."""
    chance = random.Random(3)
    return [0.01 * chance.paretovariate(1.2) for _ in range(size)]


SAMPLES = {
    "lognormal": lognormal,
    "bimodal": bimodal,
    "constant": constant,
    "heavy-tailed": heavy_tailed,
}


def from_buckets(families: Iterable[Metric], name: str, share: float) -> float:
    """Return what Prometheus's histogram_quantile makes of a histogram."""
    samples = chain.from_iterable(family.samples for family in families)
    buckets = sorted(
        (float(sample.labels["le"]), sample.value)
        for sample in samples
        if sample.name == f"{name}_bucket"
    )
    rank = share * buckets[-1][1]
    low, before = 0.0, 0.0
    for bound, count in buckets:
        if count >= rank:
            return low if bound == inf else low + (bound - low) * (rank - before) / (count - before)
        low, before = bound, count
    return nan


def print_accuracy(effort: Effort) -> None:
    print(f"\nAccuracy: % that a percentile of {effort.sample:,} durations is off the exact one\n")
    print(f"{'':12}{'':>8}{'ours':>8}{'DDSketch':>15}{'our buckets':>13}{'default buckets':>17}")
    for name, draw in SAMPLES.items():
        sample = draw(effort.sample)
        metrics = WorkerMetrics("bench")
        metrics.record_batch(durations={"ours": sample})
        registry = CollectorRegistry()
        theirs = Histogram("theirs", "Theirs.", registry=registry)
        for seconds in sample:
            theirs.observe(seconds)
        ours = metrics.snapshot().whole("ours").recent
        in_order = sorted(sample)
        sketch = sketch_of(sample) if DDSKETCH else None
        for percentile, share in SHARES.items():
            exact = in_order[ceil(share * len(in_order)) - 1]
            cells = [
                ABSENT if estimate is None else f"{abs(estimate / exact - 1) * 100:.2f}"
                for estimate in (
                    ours.quantile(share),
                    sketch and sketch.get_quantile_value(share),
                    from_buckets(metrics.collect(), "ours_seconds", share),
                    from_buckets(registry.collect(), "theirs", share),
                )
            ]
            print("{:12}{:>8}{:>8}{:>15}{:>13}{:>17}".format(name, percentile, *cells))


def sketch_of(sample: list[float]) -> Any:
    from ddsketch import DDSketch  # noqa: PLC0415

    sketch = DDSketch(relative_accuracy=0.01)
    for seconds in sample:
        sketch.add(seconds)
    return sketch


# --- memory -----------------------------------------------------------------------------------


def bytes_of(make: Callable[[], object]) -> int:
    """Return how much more is allocated after a call, while its result is kept."""
    gc.collect()
    tracemalloc.start()
    kept = make()
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del kept
    return held


def bytes_over_a_window(record: Callable[[WorkerMetrics, int], None]) -> int:
    """Return what recording this in each slice of a window adds to a registry."""

    def grown(record: Callable[[WorkerMetrics, int], None]) -> int:
        clock = MovableClock()
        metrics = WorkerMetrics("bench", clock=clock)
        metrics.get_metrics_data()
        return bytes_of(
            lambda: over_a_window(metrics, clock, lambda number: record(metrics, number))
        )

    return grown(record) - grown(lambda metrics, number: None)


def print_memory(effort: Effort) -> None:
    print("\nMemory: bytes per metric after a busy window, as tracemalloc counts them\n")
    print(f"{'':28}{'ours':>8}{'prometheus_client':>20}")
    many = range(MAX_LABEL_SETS)
    names = [f"metric_{number}" for number in many]
    labels = [{"language": f"l{number}"} for number in many]
    registry = CollectorRegistry()
    parts = Counter("parts", "Parts.", ["language"], registry=registry)

    def record_parts(metrics: WorkerMetrics, _: int) -> None:
        for each in labels:
            metrics.increment_counter("parts", labels=each)

    rows: dict[str, tuple[Callable[[WorkerMetrics, int], None], Callable[[], object]]] = {
        "counter": (
            lambda metrics, _: metrics.record_batch(counters=dict.fromkeys(names, 1)),
            lambda: [Counter(name, "A counter.", registry=registry) for name in names],
        ),
        "gauge": (
            lambda metrics, at: metrics.record_batch(gauges=dict.fromkeys(names, at)),
            lambda: [Gauge(f"gauge_{name}", "A gauge.", registry=registry) for name in names],
        ),
        "label set of a counter": (
            record_parts,
            lambda: [parts.labels(**each) for each in labels],
        ),
    }
    for name, (record, make) in rows.items():
        ours, theirs = (held / len(many) for held in (bytes_over_a_window(record), bytes_of(make)))
        print(f"{name:28}{ours:8.0f}{theirs:20.0f}")
    theirs = bytes_of(lambda: Histogram("durations", "Durations.", registry=registry))
    for name, draw in SAMPLES.items():
        sample = draw(effort.sample)

        def fill(metrics: WorkerMetrics, number: int, sample: list[float] = sample) -> None:
            for seconds in sample[number :: SLICES + 1]:
                metrics.record_duration("duration", seconds)

        print(f"{f'duration, {name}':28}{bytes_over_a_window(fill):8.0f}{theirs:20.0f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--brief", action="store_true", help="only show that everything works")
    effort = BRIEF if parser.parse_args().brief else Effort()
    missed = print_calls(effort)
    print_batches(effort)
    print_readings(effort)
    print_accuracy(effort)
    print_memory(effort)
    fast = "increment_counter and record_duration take no longer than inc and observe"
    print("\nbounds:", f"MISSED: {'; '.join(missed)}" if missed else f"held: {fast}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
