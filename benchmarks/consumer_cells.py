"""What bench_consumer.py measures: its cells, the workers of each, and the bounds."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import redis
from measuring import (
    STREAM,
    THIS_PACKAGE,
    Worker,
    commands_sent,
    cpu_seconds,
    environment_with,
    fill,
    pending,
    resident_megabytes,
)
from opponents import SENT, WorkerSpec
from report import AUTO, Bound, Measurements, percentile

from shared_sync.connection.embedded import EmbeddedRedis

BENCHMARKS = Path(__file__).parent
LARGE_PAYLOAD = 65_536
JOB_SECONDS = 0.02
LATENCY_RATE = 100
"""Messages a second of the latency cell."""
WARM_UP = 20
"""Messages that are left out of the latencies: connections and caches are new."""
IDLE_BLOCK_SECONDS = 1.0
"""How long a read of an idle loop waits, as ours does by default."""
SETTLE_SECONDS = 2.0
"""How long a worker has been idle before it is measured: its start is over by then."""
MAYU = (
    *("-m", "mayu", "worker", "mayu_worker:app", "--mode", "thread", "--threads", "4"),
    *("--prefetch-multiplier", "64", "--log-level", "ERROR"),
)

RAW, PIPED, SAME_WORK = "one XACK a read", "one XACK a message", "XACK and XDEL"


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    messages: int
    """Empty messages of the fastest workers; the slower ones get a share of them."""

    memory_messages: int
    jobs: int
    latency_seconds: float
    idle_seconds: float
    automatic: int | str
    """The prefetch where it is to be automatic: `auto`, or a number for a release without it."""

    python_313: str | None
    """An interpreter that has mayu, dramatiq and what shared_sync needs."""


@dataclass(frozen=True)
class Bench:
    """The server and the effort."""

    server: EmbeddedRedis
    client: redis.Redis
    effort: Effort


@dataclass(frozen=True)
class Candidate:
    """A worker in a cell: its label in the tables, and how one round is measured."""

    label: str
    measure: Callable[[Bench], dict[str, float]]
    once: bool = False
    """Measured in the first round only, because it takes long."""

    package: str = ""
    """What has to be installed for it."""


# --- how each quantity is measured --------------------------------------------------------------


def throughput(
    spec: WorkerSpec, *, share: float, payload_bytes: int | None = None, on_313: bool = False
) -> Callable[[Bench], dict[str, float]]:
    """Messages per second from the first message to the last, of a stream that is full before."""

    def measure(bench: Bench) -> dict[str, float]:
        messages = max(100, round(bench.effort.messages * share))
        if payload_bytes is None:
            fill(bench.client, messages)
        else:
            fill(bench.client, messages, payload_bytes=payload_bytes)
        with start(bench, replace(spec, messages=messages), on_313=on_313) as worker:
            report = worker.read("ended")
            worker.wait()
        check_settled(bench, spec)
        return rates(report, messages)

    return measure


def rates(report: dict[str, Any], messages: int) -> dict[str, float]:
    return {
        "messages/s": messages / (report["ended"] - report["began"]),
        "CPU us/message": report["cpu"] / messages * 1e6,
    }


def efficiency(spec: WorkerSpec) -> Callable[[Bench], dict[str, float]]:
    """The time that jobs take by themselves, as a share of the time that they took here."""

    def measure(bench: Bench) -> dict[str, float]:
        jobs = bench.effort.jobs
        fill(bench.client, jobs)
        with start(bench, replace(spec, messages=jobs, job_seconds=JOB_SECONDS)) as worker:
            report = worker.read("ended")
            worker.wait()
        seconds = report["ended"] - report["began"]
        return {"efficiency": jobs * JOB_SECONDS / spec.threads / seconds}

    return measure


def latency(spec: WorkerSpec) -> Callable[[Bench], dict[str, float]]:
    """From just before XADD is sent until the processor is called, at a steady rate."""

    def measure(bench: Bench) -> dict[str, float]:
        messages = WARM_UP + max(20, round(bench.effort.latency_seconds * LATENCY_RATE))
        fill(bench.client, 0)
        with start(bench, replace(spec, messages=messages, latencies=True)) as worker:
            begin = time.monotonic() + 0.5
            for number in range(messages):
                time.sleep(max(0.0, begin + number / LATENCY_RATE - time.monotonic()))
                fields: dict[Any, Any] = {SENT: time.monotonic_ns(), "data": "x" * 88}
                bench.client.xadd(STREAM, fields)
            latencies = worker.read("ended")["latencies"][WARM_UP:]
            worker.wait()
        return {
            "latency p50 ms": percentile(latencies, 0.5) * 1000,
            "latency p99 ms": percentile(latencies, 0.99) * 1000,
        }

    return measure


def idle_cost(spec: WorkerSpec) -> Callable[[Bench], dict[str, float]]:
    """The CPU time and the commands of a worker that has nothing to do."""

    def measure(bench: Bench) -> dict[str, float]:
        fill(bench.client, 0)
        seconds = bench.effort.idle_seconds
        with start(bench, replace(spec, block_seconds=IDLE_BLOCK_SECONDS)) as worker:
            time.sleep(min(SETTLE_SECONDS, seconds))
            began, before = time.monotonic(), cpu_seconds(worker.pid)
            commands = commands_sent(bench.server.port, seconds)
            used, seconds = cpu_seconds(worker.pid) - before, time.monotonic() - began
            worker.wait()
        return {"idle % of a core": used / seconds * 100, "idle commands/s": commands / seconds}

    return measure


def memory(spec: WorkerSpec) -> Callable[[Bench], dict[str, float]]:
    """The memory of a worker over a long run, from its first tenth on."""

    def measure(bench: Bench) -> dict[str, float]:
        messages = bench.effort.memory_messages
        fill(bench.client, messages)
        with start(bench, replace(spec, messages=messages)) as worker:
            samples: list[float] = []

            def sample() -> None:
                samples.append(resident_megabytes(worker.pid))

            worker.read("ended", meanwhile=sample)
            sample()
            worker.wait()
        early = samples[len(samples) // 10]
        return {
            "MB after a tenth": early,
            "MB at the end": samples[-1],
            "MB growth": max(samples[len(samples) // 10 :]) / early,
        }

    return measure


def start_up(spec: WorkerSpec) -> Callable[[Bench], dict[str, float]]:
    """From the start of the process until it runs its first message."""

    def measure(bench: Bench) -> dict[str, float]:
        fill(bench.client, 1)
        with start(bench, replace(spec, messages=1)) as worker:
            report = worker.read("ended")
            worker.wait()
            return {"start-up s": report["began"] - worker.started}

    return measure


def start(bench: Bench, spec: WorkerSpec, *, on_313: bool = False) -> Worker:
    """A worker that is connected and reads."""
    count = bench.effort.automatic if spec.count == AUTO else spec.count
    spec = replace(spec, url=bench.server.url, count=count)
    python = bench.effort.python_313 if on_313 else None
    worker = Worker(spec.command(python) if python else spec.command())
    worker.read("ready")
    return worker


def check_settled(bench: Bench, spec: WorkerSpec) -> None:
    """End the program if the worker has not done all that it has to do."""
    left = pending(bench.client)
    kept = 0 if spec.kind in {RAW, PIPED} else bench.client.xlen(STREAM)
    if left or kept:
        raise SystemExit(f"{spec.kind} left {left} pending messages and {kept} entries")


def dramatiq(bench: Bench) -> dict[str, float]:
    messages = max(100, round(bench.effort.messages * 0.05))
    script = BENCHMARKS / "dramatiq_worker.py"
    rest = (bench.server.url, str(messages))
    bench.client.flushall()
    publish([script, "publish", *rest], bench, {})
    with Worker([python_313(bench), script, "work", *rest]) as worker:
        report = worker.read("ended")
        worker.wait()
    return rates(report, messages)


def mayu(bench: Bench) -> dict[str, float]:
    messages = max(100, round(bench.effort.messages * 0.2))
    settings = {
        "MAYU_BROKER": bench.server.url,
        "MAYU_RESULT_TTL": "0",
        "BENCH_MESSAGES": str(messages),
    }
    bench.client.flushall()
    publish([BENCHMARKS / "mayu_worker.py"], bench, settings)
    with Worker([python_313(bench), *MAYU], environment=settings) as worker:
        report = worker.read("ended")
        worker.wait()
    return rates(report, messages)


def publish(arguments: list[str | Path], bench: Bench, settings: dict[str, str]) -> None:
    command = [python_313(bench), *arguments]
    subprocess.run(command, check=True, env=environment_with(THIS_PACKAGE, settings))


def python_313(bench: Bench) -> str:
    assert bench.effort.python_313 is not None
    return bench.effort.python_313


# --- the cells ----------------------------------------------------------------------------------

SHARES: dict[int | str, float] = {AUTO: 1.0, 100: 1.0, 10: 0.4, 1: 0.05}
"""How many messages a worker gets by its prefetch, so that each runs for seconds."""


def worker(label: str, kind: str, count: int | str, **options: Any) -> Candidate:
    share = SHARES[count] * (0.5 if options.get("results") else 1.0)
    return Candidate(label, throughput(WorkerSpec(kind, count=count, **options), share=share))


def large(label: str, kind: str, count: int | str) -> Candidate:
    spec = WorkerSpec(kind, count=count)
    return Candidate(label, throughput(spec, share=0.02, payload_bytes=LARGE_PAYLOAD))


def cell_empty() -> Iterator[Candidate]:
    for count in (AUTO, 100, 10, 1):
        yield worker(f"ours, {count}", "ours", count)
    for count in (100, 10, 1):
        yield worker(f"{RAW}, {count}", RAW, count)
    yield worker(f"{PIPED}, 100", PIPED, 100)
    yield worker(f"{SAME_WORK}, 100", SAME_WORK, 100)


def cell_results() -> Iterator[Candidate]:
    yield worker("ours, 100, results", "ours", 100, results=True)
    yield worker(f"{RAW}, 100", RAW, 100)
    yield worker("XACK, XDEL and XADD, 100", "XACK, XDEL and XADD", 100, results=True)


def cell_64k() -> Iterator[Candidate]:
    yield large("ours, auto, 64 KB", "ours", AUTO)
    yield large(f"{RAW}, 10, 64 KB", RAW, 10)


def cell_queues() -> Iterator[Candidate]:
    spec = WorkerSpec("ours", count=AUTO)
    yield Candidate("ours, auto, Python 3.13", throughput(spec, share=1.0, on_313=True))
    yield Candidate("dramatiq, Python 3.13", dramatiq, package="dramatiq")
    yield Candidate("mayu, Python 3.13", mayu, package="mayu")


def cell_pair(
    name: str, measure: Callable[[WorkerSpec], Callable[[Bench], dict[str, float]]]
) -> Callable[[], Iterator[Candidate]]:
    """A cell that compares the library as it is with the loop that reads one message at a time."""

    def candidates() -> Iterator[Candidate]:
        yield Candidate(f"ours, auto, {name}", measure(WorkerSpec("ours", count=AUTO)))
        yield Candidate(f"{RAW}, 1, {name}", measure(WorkerSpec(RAW, count=1)))

    return candidates


def cell_memory() -> Iterator[Candidate]:
    yield Candidate("ours, auto, memory", memory(WorkerSpec("ours", count=AUTO)), once=True)
    yield Candidate(f"{RAW}, 100, memory", memory(WorkerSpec(RAW, count=100)), once=True)


CELLS: dict[str, Callable[[], Iterator[Candidate]]] = {
    "empty": cell_empty,
    "results": cell_results,
    "64k": cell_64k,
    "queues": cell_queues,
    "20ms": cell_pair("20 ms jobs", efficiency),
    "latency": cell_pair("latency", latency),
    "idle": cell_pair("idle", idle_cost),
    "startup": cell_pair("start-up", start_up),
    "memory": cell_memory,
}


def candidates_of(cells: list[str], missing: Container[str] = ()) -> list[Candidate]:
    """Return the workers of these cells in order; one that several cells need comes once.

    Those that need a missing package are left out.
    """
    found: dict[str, Candidate] = {}
    for cell in cells:
        for candidate in CELLS[cell]():
            if candidate.package not in missing:
                found.setdefault(candidate.label, candidate)
    return list(found.values())


# --- the bounds ---------------------------------------------------------------------------------


def ratio(ours: str, theirs: str, quantity: str = "messages/s") -> Callable[[Measurements], float]:
    return lambda found: found.median(ours, quantity) / found.median(theirs, quantity)


def difference(ours: str, theirs: str, quantity: str) -> Callable[[Measurements], float]:
    return lambda found: found.median(ours, quantity) - found.median(theirs, quantity)


def value(label: str, quantity: str) -> Callable[[Measurements], float]:
    return lambda found: found.median(label, quantity)


def _bounds() -> Iterator[Bound]:
    for count in (AUTO, 100):
        ours = f"ours, {count}"
        yield Bound(f"{ours} / {RAW}, 100", ratio(ours, f"{RAW}, 100"), at_least=0.5)
        yield Bound(f"{ours} / {SAME_WORK}, 100", ratio(ours, f"{SAME_WORK}, 100"), at_least=0.8)
        yield Bound(f"{ours} / {PIPED}, 100", ratio(ours, f"{PIPED}, 100"), at_least=1.2)
    for count, least in ((10, 0.9), (1, 1.0)):
        ours, theirs = f"ours, {count}", f"{RAW}, {count}"
        yield Bound(f"{ours} / {theirs}", ratio(ours, theirs), at_least=least)
    ours = "ours, 100, results"
    yield Bound(f"{ours} / {RAW}, 100", ratio(ours, f"{RAW}, 100"), at_least=0.35)
    ours, theirs = "ours, auto, 64 KB", f"{RAW}, 10, 64 KB"
    yield Bound(f"{ours} / {theirs}", ratio(ours, theirs), at_least=0.9)
    ours = "ours, auto, Python 3.13"
    for theirs, least in (("dramatiq, Python 3.13", 15), ("mayu, Python 3.13", 4)):
        yield Bound(f"{ours} / {theirs}", ratio(ours, theirs), at_least=least)
    ours, theirs = "ours, auto, 20 ms jobs", f"{RAW}, 1, 20 ms jobs"
    yield Bound(f"{ours} - {theirs}", difference(ours, theirs, "efficiency"), at_least=-0.01)
    ours, theirs = "ours, auto, latency", f"{RAW}, 1, latency"
    yield Bound(f"{ours} p50 / {theirs}", ratio(ours, theirs, "latency p50 ms"), at_most=1.3)
    ours = "ours, auto, idle"
    yield Bound(f"{ours}: % of a core", value(ours, "idle % of a core"), at_most=0.5)
    yield Bound(f"{ours}: commands/s", value(ours, "idle commands/s"), at_most=6)
    ours = "ours, auto, memory"
    yield Bound(f"{ours}: growth", value(ours, "MB growth"), at_most=1.02)


BOUNDS = tuple(_bounds())
