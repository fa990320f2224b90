"""One worker process of a soak, and the jobs that it is given.

    python benchmarks/soak_worker.py URL NAME JOURNAL SEED LEASE PREFETCH [ISOLATION]

The worker writes a journal, a file that outlives it: a line `event number attempt thread moment`
when a run begins and one when it ends, unless the process ends first. It works with any release of
shared_sync that Python finds, see rolling_upgrade.py.
"""

from __future__ import annotations

import json
import logging
import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

from worker_reports import at_end_of_input

from shared_sync import RedisStreamConsumer, Reject, RetryPolicy, WorkerMetrics, current_message
from shared_sync.errors import ConsumerBroken, RedisUnavailable

STREAM, GROUP, RESULTS = "soak", "workers", "soak:results"
THREADS = 4
DRAIN_SECONDS = 5.0
RETRY = RetryPolicy(max_attempts=5, base_seconds=0.1, max_seconds=1.0)

TOLD = "SOAK_WORKER"
"""The variable of the environment that tells children whose they are."""

# Exit statuses.
CRASHED = 77
"""A message took the process down, as it is meant to."""
UNAVAILABLE = 75
"""Redis was not reachable when the worker started."""
BROKEN = 70
"""The consumer could not go on, because another process holds its name, for example."""

KILLER_EVERY = 2000
"""One message in so many takes its process down: the worker, or the child that runs it."""
FAILING = 0.1
"""The share of runs that fail by chance."""
ACTS = {"work": 0.94, "stubborn": 0.03, "reject": 0.02, "hopeless": 0.01}


def job(seed: int, number: int) -> dict[str, object]:
    """Return the message of that number; the same for the same seed."""
    chance = random.Random(f"{seed}/{number}")
    (act,) = chance.choices(list(ACTS), list(ACTS.values()))
    if number % KILLER_EVERY == KILLER_EVERY // 10:
        act = "kill"
    long = chance.random() < 0.03
    return {
        "n": number,
        "act": act,
        "seconds": round(chance.uniform(0.2, 1.0) if long else chance.uniform(0.002, 0.04), 4),
        "failures": chance.randint(1, 3) if act == "stubborn" else 0,
    }


class Journal:
    """The file with the runs of this worker. Safe from any thread; its children append to it, too.

    `reader` stands for the name of the thread, which says nothing in a child.
    """

    def __init__(self, path: Path, reader: str = "") -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._reader = reader

    def note(self, event: str, number: int = 0, attempt: int = 0) -> None:
        thread = self._reader or threading.current_thread().name
        line = f"{event} {number} {attempt} {thread} {time.monotonic():.3f}\n"
        os.write(self._file, line.encode())


class Processor:
    def __init__(self, name: str, seed: int, journal: Journal) -> None:
        self._name = name
        self._seed = seed
        self._journal = journal

    def __call__(self, _message_id: str, job: dict[str, str]) -> dict[str, str]:
        number, act = int(job["n"]), job["act"]
        attempt = current_message().attempt
        self._journal.note("run", number, attempt)
        time.sleep(float(job["seconds"]))
        if act == "kill":
            os._exit(CRASHED)
        if act == "reject":
            self._journal.note("rejected", number, attempt)
            raise Reject("as it is meant to")
        unlucky = random.Random(f"{self._seed}/{number}/{attempt}").random() < FAILING
        if act == "hopeless" or attempt <= int(job["failures"]) or unlucky:
            self._journal.note("failed", number, attempt)
            raise RuntimeError("as it is meant to")
        self._journal.note("done", number, attempt)
        return {"by": self._name}


def make_processor(context: Any) -> Processor:
    """Make the processor of a child process, which is told with the environment who it is."""
    name, journal_path, seed = json.loads(os.environ[TOLD])
    return Processor(name, int(seed), Journal(Path(journal_path), f"reader-{context.reader}"))


def main(
    url: str,
    name: str,
    journal_path: str,
    seed: str,
    lease: str,
    prefetch: str,
    isolation: str = "thread",
) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    journal = Journal(Path(journal_path))
    os.environ[TOLD] = json.dumps([name, journal_path, seed])
    runs: dict[str, Any] = {"message_processor": Processor(name, int(seed), journal)}
    if isolation == "process":
        runs = {"processor_factory": "soak_worker:make_processor", "isolation": isolation}
    consumer = RedisStreamConsumer(
        url,
        STREAM,
        GROUP,
        name,
        logging.getLogger(name),
        **runs,
        metrics=WorkerMetrics(name),
        threads=THREADS,
        prefetch=int(prefetch) if prefetch.isdigit() else prefetch,
        result_stream=RESULTS,
        carry_fields=("n",),
        lease_seconds=float(lease),
        retry=RETRY,
        drain_seconds=DRAIN_SECONDS,
    )
    at_end_of_input(lambda: os._exit(1))  # it does not outlive the program that started it
    threading.Thread(
        target=_note_when_ready, args=(consumer, journal), name="ready", daemon=True
    ).start()
    try:
        consumer.start_consuming()
    except RedisUnavailable:
        logging.exception("the worker cannot start")
        return UNAVAILABLE
    except ConsumerBroken:
        logging.exception("the worker cannot go on")
        return BROKEN
    return 0


def _note_when_ready(consumer: RedisStreamConsumer, journal: Journal) -> None:
    """Note the moment from which on SIGTERM drains."""
    while consumer.state != "running":
        time.sleep(0.01)
    journal.note("ready")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
