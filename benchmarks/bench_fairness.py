"""How long short jobs wait behind long ones that were fetched before them.

    python benchmarks/bench_fairness.py [--jobs N] [--long-seconds S] [--runs N] [--seed N]
                                        [--prefetch auto|N] [--json FILE] [--redis-server PATH]

Two workers of 2 threads each share 1,000 jobs, which are all published at one moment while both
are idle. One in 50, drawn by chance, takes 2 s, and the others 1 ms. Whoever has fetched short jobs
together with a long one should not keep them: a free thread of the same process should run them,
and what is left should be handed back for the other process.

What is measured is defined in `fairness.py`: the longest that a short job waited behind a long one
while another thread of its own process was free (bound: 0.5 s), and the same while a thread of the
other process was (bound: 4 s). The exit status is 1 if a bound is missed in any run, or if a job
is lost. `busy` is the time that all jobs take by themselves, as a share of what the four threads
had from the first start to the last end.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import threading
import time
from collections import defaultdict
from contextlib import ExitStack
from math import inf
from typing import Any

import redis
from fairness import Owned, Run, longest_waits
from measuring import Worker, describe_machine, fill, pinned_redis
from report import Bound, Measurements, add_common_options, show_and_keep
from worker_reports import GROUP, STREAM, at_end_of_input, write_report

from shared_sync import RedisStreamConsumer, WorkerMetrics

THREADS = 2
WORKERS = ("left", "right")
LONG_SHARE = 50
SHORT_SECONDS = 0.001
POLL_SECONDS = 0.01
PATIENCE_SECONDS = 120.0

LABEL = "two workers"
BOUNDS = (
    Bound(
        "longest wait while a thread of its process is free, s",
        lambda found: found.highest(LABEL, "in its process s"),
        at_most=0.5,
    ),
    Bound(
        "longest wait while a thread of the other process is free, s",
        lambda found: found.highest(LABEL, "elsewhere s"),
        at_most=4.0,
    ),
)


# --- the worker process -------------------------------------------------------------------------


def work(url: str, name: str, prefetch: int | str) -> None:
    """Run jobs until the standard input is closed, then report the journal of all runs."""
    runs: list[tuple[str, str, str, float, float, bool]] = []
    end = threading.Event()

    def processor(message_id: str, job: dict[str, str]) -> None:
        began = time.monotonic()
        time.sleep(float(job["seconds"]))
        thread = threading.current_thread().name
        runs.append((message_id, name, thread, began, time.monotonic(), job["long"] == "1"))

    at_end_of_input(end.set)
    consumer = RedisStreamConsumer(
        url,
        STREAM,
        GROUP,
        name,
        logging.getLogger("bench"),
        processor,
        metrics=WorkerMetrics("bench"),
        threads=THREADS,
        prefetch=prefetch,
    )
    with consumer:
        write_report(ready=True)
        end.wait()
    write_report(runs=runs)


# --- the whole ----------------------------------------------------------------------------------


class OwnerLog:
    """Who owned each message and when, as the pending list says. For one thread."""

    def __init__(self, client: redis.Redis, jobs: int) -> None:
        self._client = client
        self._jobs = jobs
        self._seen: defaultdict[str, list[tuple[str, float]]] = defaultdict(list)

    def poll(self) -> int:
        """Read the pending list; return how many messages are pending."""
        rows: Any = self._client.xpending_range(STREAM, GROUP, "-", "+", self._jobs)
        now = time.monotonic()
        for row in rows:
            owner = row["consumer"].decode()
            seen = self._seen[row["message_id"].decode()]
            if not seen or seen[-1][0] != owner:
                seen.append((owner, now - row["time_since_delivered"] / 1000))
        return len(rows)

    def owners(self) -> dict[str, list[Owned]]:
        """Return the owners of each message in order; the last one had it for ever."""
        found = {}
        for message, seen in self._seen.items():
            ends = [moment for _, moment in seen[1:]] + [inf]
            found[message] = [
                Owned(owner, (begin, end)) for (owner, begin), end in zip(seen, ends, strict=True)
            ]
        return found


def publish(client: redis.Redis, options: argparse.Namespace, seed: int) -> list[str]:
    """Publish all jobs at one moment and return their ids."""
    lengths = [options.long_seconds] * (options.jobs // LONG_SHARE)
    lengths += [SHORT_SECONDS] * (options.jobs - len(lengths))
    random.Random(seed).shuffle(lengths)
    with client.pipeline() as pipeline:
        for seconds in lengths:
            fields: dict[Any, Any] = {"seconds": seconds, "long": int(seconds > SHORT_SECONDS)}
            pipeline.xadd(STREAM, fields)
        ids: Any = pipeline.execute()
    return [message_id.decode() for message_id in ids]


def measure(
    url: str, client: redis.Redis, options: argparse.Namespace, seed: int
) -> dict[str, float]:
    """One run."""
    fill(client, 0)
    log = OwnerLog(client, options.jobs)
    runs: list[Run] = []
    with ExitStack() as stack:
        workers = [
            stack.enter_context(
                Worker(
                    [sys.executable, __file__, "worker", json.dumps([url, name, options.prefetch])]
                )
            )
            for name in WORKERS
        ]
        for worker in workers:
            worker.read("ready")
        ids = publish(client, options, seed)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while log.poll() or client.xlen(STREAM):
            if time.monotonic() >= deadline:
                raise SystemExit(f"not all jobs were done within {PATIENCE_SECONDS:g} s")
            time.sleep(POLL_SECONDS)
        for worker in workers:
            worker.end_input()
            runs += [Run(*run) for run in worker.read("runs")["runs"]]
            worker.wait()
    if lost := set(ids) - {run.message for run in runs}:
        raise SystemExit(f"{len(lost)} jobs were lost")
    waits = longest_waits(runs, log.owners(), threads=THREADS)
    seconds = max(run.ended for run in runs) - min(run.began for run in runs)
    used = sum(run.ended - run.began for run in runs)
    return {
        "in its process s": waits.in_process,
        "elsewhere s": waits.elsewhere,
        "runs": len(runs),
        "busy": used / seconds / THREADS / len(WORKERS),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--long-seconds", type=float, default=2.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    add_common_options(parser)
    options = parser.parse_args()
    measured = Measurements()
    with (
        pinned_redis(options.redis_server) as server,
        redis.Redis.from_url(server.url, protocol=2) as client,
    ):
        facts: dict[str, object] = {**describe_machine(server)}
        for run in range(options.runs):
            measured.add(LABEL, measure(server.url, client, options, options.seed + run))
    facts["run"] = (
        f"{options.runs} runs, {options.jobs:,} jobs, long ones {options.long_seconds:g} s, "
        f"prefetch {options.prefetch}, seeds from {options.seed}"
    )
    return show_and_keep(measured, BOUNDS, facts, options.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        work(*json.loads(sys.argv[2]))
    else:
        sys.exit(main())
