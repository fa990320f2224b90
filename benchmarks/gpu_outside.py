"""Faults that no message is to blame for: a broken GPU, and a dependency that is dead."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from gpu_bench import RESULTS, Bench, value
from gpu_processors import FAILURE_THRESHOLD
from report import Bound

JOBS, JOB_SECONDS = 200, 0.05
DEAD_SECONDS = 20.0
ASKING_JOBS = 100

BROKEN_CHILD = "the same in a child process"
BROKEN, DEAD = "a broken GPU beside a healthy one", "a dependency dead for 20 s"
BOUNDS = (
    *(
        bound
        for label in (BROKEN, BROKEN_CHILD)
        for bound in (
            Bound(f"{label}: results", value(label, "results"), at_least=JOBS),
            Bound(f"{label}: dead letters", value(label, "dead letters"), at_most=0),
            Bound(f"{label}: wasted", value(label, "wasted"), at_most=10),
            Bound(f"{label}: exit code", value(label, "exit code"), at_least=70),
        )
    ),
    Bound(f"{DEAD}: results", lambda found: found.median(DEAD, "results"), at_least=ASKING_JOBS),
    Bound(f"{DEAD}: dead letters", lambda found: found.highest(DEAD, "dead letters"), at_most=0),
    Bound(
        f"{DEAD}: most attempts in a second after it opened",
        lambda found: found.highest(DEAD, "attempts/s"),
        at_most=5,
    ),
    Bound(
        f"{DEAD}: seconds from recovery until all are done",
        lambda found: found.highest(DEAD, "done after s"),
        at_most=10,
    ),
)


def measure_broken(bench: Bench) -> None:
    """A worker whose GPU fails every message at once, and a healthy one."""
    for label, isolation in ((BROKEN, "thread"), (BROKEN_CHILD, "process")):
        bench.publish(())
        broken = bench.worker(
            "broken", message_processor="gpu_processors:broken_gpu", isolation=isolation
        )
        healthy = bench.worker(
            "healthy", message_processor="gpu_processors:sleep", result_stream=RESULTS
        )
        with broken, healthy:
            broken.read("ready")
            healthy.read("ready")
            bench.add({"n": n, "seconds": JOB_SECONDS} for n in range(JOBS))
            seconds = bench.wait_until_done()
            broken.end_input()
            metrics = broken.read("metrics")["metrics"]
            exit_code = broken.exit_status()
            healthy.wait()
        bench.measured.add(
            label,
            {
                "results": len({result["message_id"] for result in bench.results()}),
                "dead letters": len(bench.dead()),
                "wasted": metrics["worker_faults"] + metrics["jobs_failed"],
                "exit code": exit_code,
                "seconds": seconds,
            },
        )


def measure_breaker(bench: Bench) -> None:
    """A circuit breaker around a dependency that is dead, and then answers again."""
    with TemporaryDirectory() as folder:
        dead = Path(folder, "dead")
        dead.touch()
        bench.publish({"n": n, "dead_while": str(dead)} for n in range(ASKING_JOBS))
        with bench.worker(
            message_processor="gpu_processors:ask_dependency",
            threads=4,
            breaker=True,
            result_stream=RESULTS,
        ) as worker:
            worker.read("ready")
            threading.Event().wait(DEAD_SECONDS)
            dead.unlink()
            recovered = time.monotonic()
            seconds = bench.wait_until_done()
            worker.end_input()
            calls = [moment for moment, _ in worker.read("calls")["calls"]]
            worker.wait()
    opened = calls[FAILURE_THRESHOLD - 1]
    bench.measured.add(
        DEAD,
        {
            "results": len({result["message_id"] for result in bench.results()}),
            "dead letters": len(bench.dead()),
            "attempts/s": most_in_a_second([c for c in calls if opened < c < recovered]),
            "attempts in vain": sum(moment < recovered for moment in calls),
            "done after s": seconds,
        },
    )


def most_in_a_second(moments: list[float]) -> int:
    """Return the largest number of moments that lie within one second."""
    moments = sorted(moments)
    return max((sum(a <= b < a + 1 for b in moments) for a in moments), default=0)
