"""Messages that kill or hang their process, and processes that are killed."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from typing import Any

import psutil
from gpu_bench import RESULTS, Bench, must, value
from report import Bound

MESSAGES = 50
CULPRIT = 17
DEADLINE_SECONDS = 2.0
CHILDREN = 4
LEASE_SECONDS = 2.0
SHORT_DEADLINE_SECONDS = 0.2
"""Of the attempts that are killed by the hundreds."""

ALIKE: dict[str, Any] = {
    "isolation": "process",
    "threads": 2,
    "result_stream": RESULTS,
    "job_deadline_seconds": DEADLINE_SECONDS,
    "kill_grace_seconds": 0.5,
    "retry": {"max_attempts": 1},
}
SINGLY: dict[str, Any] = {"message_processor": "gpu_processors:act"}
IN_BATCHES: dict[str, Any] = {
    "batch_processor": "gpu_processors:act_in_batches",
    "batch": {"max_size": 8},
}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "1 of 50 segfaults": ("segfault", "crashed", SINGLY),
    "1 of 50 segfaults, batches of 8": ("segfault", "crashed", IN_BATCHES),
    "1 of 50 loops": ("loop", "deadline", SINGLY),
    "1 of 50 loops, batches of 8": ("loop", "deadline", IN_BATCHES),
}
KILLED, REPLACED = "SIGKILL of the parent", "deadline kills"


BOUNDS = (
    *(
        bound
        for label in CASES
        for bound in (
            Bound(f"{label}: results", value(label, "results"), at_least=MESSAGES - 1),
            Bound(f"{label}: the culprit dead", value(label, "culprit dead"), at_least=1),
            Bound(f"{label}: others charged", value(label, "others charged"), at_most=0),
            Bound(f"{label}: consumer ended", value(label, "consumer ended"), at_most=0),
        )
    ),
    Bound(f"{KILLED}: children left after 1 s", value(KILLED, "left after 1 s"), at_most=0),
    Bound(f"{KILLED}: lost", value(KILLED, "lost"), at_most=0),
    Bound(f"{KILLED}: results twice", value(KILLED, "twice"), at_most=0),
    Bound(f"{REPLACED}: descriptors more", value(REPLACED, "descriptors more"), at_most=2),
    Bound(f"{REPLACED}: threads more", value(REPLACED, "threads more"), at_most=0),
    Bound(f"{REPLACED}: children more", value(REPLACED, "children more"), at_most=0),
)


def measure_faults(bench: Bench) -> None:
    """One of 50 messages kills its process or never returns, singly and in batches."""
    for label, (fault, reason, processor) in CASES.items():
        ids = bench.publish(
            {"n": n, **({"do": fault} if n == CULPRIT else {})} for n in range(MESSAGES)
        )
        with bench.worker(**ALIKE, **processor) as worker:
            worker.read("ready")
            seconds = bench.wait_until_done()
            ended = 0 if psutil.pid_exists(worker.pid) else 1
            worker.wait()
        results, dead = bench.results(), bench.dead()
        is_culprit = [
            letter.message_id == ids[CULPRIT] and reason in f"{letter.reason} {letter.error_type}"
            for letter in dead
        ]
        charged = sum(result["attempt"] != "1" for result in results)
        bench.measured.add(
            label,
            {
                "results": len({result["message_id"] for result in results}),
                "culprit dead": sum(is_culprit),
                "others charged": charged + len(dead) - sum(is_culprit),
                "consumer ended": ended,
                "seconds": seconds,
            },
        )
        for letter in dead:
            print(f"{label}: {letter.reason}", flush=True)


def measure_kills(bench: Bench) -> None:
    """Kill a worker with its children at work; then let hundreds of attempts be killed."""
    kill_the_parent(bench)
    kill_attempts(bench)


def kill_the_parent(bench: Bench) -> None:
    alike = {
        "message_processor": "gpu_processors:sleep",
        "result_stream": RESULTS,
        "threads": CHILDREN,
        "lease_seconds": LEASE_SECONDS,
    }
    ids = bench.publish({"n": n, "seconds": 0.5} for n in range(24))
    with bench.worker("killed", isolation="process", **alike) as worker:
        worker.read("ready")
        must(bench.results, "the first results")
        children = psutil.Process(worker.pid).children(recursive=True)
        killed = time.monotonic()
        os.kill(worker.pid, signal.SIGKILL)
        left = None
        while alive := sum(map(_is_alive, children)):
            if left is None and time.monotonic() >= killed + 1.0:
                left = alive
            time.sleep(0.002)
        gone = time.monotonic() - killed
    with bench.worker("other", **alike) as worker:
        seconds = bench.wait_until_done()
        worker.wait()
    results = Counter(result["message_id"] for result in bench.results())
    bench.measured.add(
        KILLED,
        {
            "children": len(children),
            "left after 1 s": left or 0,
            "gone after s": gone,
            "lost": len(set(ids) - set(results)),
            "twice": sum(count > 1 for count in results.values()),
            "seconds": seconds,
        },
    )


def _is_alive(process: psutil.Process) -> bool:
    """Return whether a process runs; one that nobody has waited for yet does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_attempts(bench: Bench) -> None:
    """Let each attempt run past its deadline; compare what the worker has before and after."""
    kills = bench.options.kills
    bench.publish(())
    with bench.worker(
        message_processor="gpu_processors:endless",
        isolation="process",
        threads=CHILDREN,
        job_deadline_seconds=SHORT_DEADLINE_SECONDS,
        kill_grace_seconds=0.1,
        retry={"max_attempts": 1},
        max_failures_in_a_row=None,
    ) as worker:
        worker.read("ready")
        # The first replacements open what then stays open.
        bench.add({"n": n, "seconds": 600} for n in range(2 * CHILDREN))
        bench.wait_until_done()
        before = _resources(worker.pid)
        bench.add({"n": n, "seconds": 600} for n in range(kills))
        seconds = bench.wait_until_done(within=1.0 * kills + 60)
        after = _resources(worker.pid)
        worker.wait()
    bench.measured.add(
        REPLACED,
        {
            "kills": len(bench.dead()) - 2 * CHILDREN,
            **{f"{name} more": after[name] - before[name] for name in after},
            "seconds": seconds,
        },
    )


def _resources(pid: int) -> dict[str, int]:
    """Return what a worker has, once all of its children are there."""
    process = psutil.Process(pid)
    must(lambda: len(process.children()) >= CHILDREN, "all children are replaced")
    time.sleep(1.0)  # the last of them loads
    return {
        "descriptors": process.num_fds(),
        "threads": process.num_threads(),
        "children": len(process.children(recursive=True)),
    }
