"""A worker that fails every message at once costs the group next to nothing."""

from __future__ import annotations

import os
import time
from collections import Counter

import pytest
from faults.acts import DEVICE_FAULT
from faults.crew import Crew, ProcessLedger, WorkerProcess
from helpers import eventually

JOBS = int(os.environ.get("BROKEN_WORKER_JOBS", "60"))
JOB_SECONDS = 0.02 if JOBS < 200 else 0.05
"""With `BROKEN_WORKER_JOBS=200` the figures are those of the documentation."""
AS_USERS_HAVE_IT = {"max_attempts": 5, "base_seconds": 1.0, "max_seconds": 300.0}
"""The retries of a `RetryPolicy()`, not those that the other tests hasten."""
MOST_WASTED = 10


def run(crew: Crew, books: ProcessLedger, act: str, **options: object) -> WorkerProcess:
    """Have a worker that fails all, and one that is well, do the jobs together."""
    retry = {"retry": AS_USERS_HAVE_IT}
    broken = crew.start("broken", acts=act, **retry, **options)
    healthy = crew.start("healthy", acts=f"sleep {JOB_SECONDS}", **retry)
    for worker in (broken, healthy):
        worker.says("processes jobs")
    began = time.monotonic()
    books.publish(JOBS)
    books.settle()
    answers = Counter(answer["worker"] for answer in books.answers())
    assert answers == {"healthy": JOBS}
    print(f"{JOBS} jobs in {time.monotonic() - began:.1f} s")
    return broken


def wasted(books: ProcessLedger) -> int:
    return len(books.run_by("broken"))


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_a_worker_with_a_fault_of_its_device_ends_and_charges_nothing(
    crew: Crew, books: ProcessLedger, isolation: str
) -> None:
    broken = run(crew, books, "fault", isolation=isolation)
    # Its second child may have loaded too late to get any of the messages.
    eventually(lambda: not broken.alive or not books.publish(1))
    books.settle()
    assert broken.status() == 70
    assert DEVICE_FAULT in broken.report()["text"]
    print(f"{wasted(books)} attempts on the broken worker")
    assert wasted(books) <= {"thread": 1, "process": 2}[isolation]
    charged = broken.report()["counters"].get("jobs_retried", 0)
    assert charged == 0


def test_a_worker_that_fails_everything_for_an_unknown_reason_pauses(
    crew: Crew, books: ProcessLedger
) -> None:
    broken = run(crew, books, "fail")
    broken.says("no messages are taken: 5 failures in a row here, the last with ValueError")
    print(f"{wasted(books)} attempts on the broken worker")
    assert wasted(books) <= MOST_WASTED
    assert broken.alive
    assert max(Counter(books.run_by("broken")).values()) == 1


def test_a_message_that_breaks_every_worker_ends_as_a_dead_letter_and_the_others_as_results(
    crew: Crew, books: ProcessLedger
) -> None:
    """Three workers, which a supervisor starts again."""
    names = iter(range(100))
    running = [crew.start(f"w{next(names)}", acts="sleep 0.02") for _ in range(3)]
    for worker in running:
        worker.says("processes jobs")
    others = books.publish(10)
    (poison,) = books.publish(1, acts="fault")
    others += books.publish(9)
    broke = 0

    def supervise() -> bool:
        nonlocal broke
        for place, worker in enumerate(running):
            if not worker.alive:
                assert worker.status() == 70
                broke += 1
                running[place] = crew.start(f"w{next(names)}", acts="sleep 0.02")
        return bool(books.client.xlen("{jobs}:workers:dead"))

    eventually(supervise, within=60)
    books.settle()
    ((_, letter),) = books.client.xrange("{jobs}:workers:dead")
    assert letter[b"dead.id"].decode() == poison
    done = {answer["message_id"] for answer in books.answers() if answer["status"] == "done"}
    assert done == set(others)
    assert broke <= 7


def test_with_child_processes_a_message_that_breaks_them_ends_no_consumer(
    crew: Crew, books: ProcessLedger
) -> None:
    worker = crew.start("w1", acts="sleep 0.02", isolation="process", prefetch=1)
    worker.says("processes jobs")
    others = books.publish(5)
    (poison,) = books.publish(1, acts="fault")
    others += books.publish(20)
    books.settle()
    ((_, letter),) = books.client.xrange("{jobs}:workers:dead")
    assert letter[b"dead.id"].decode() == poison
    assert letter[b"dead.crashes"] == b"3"
    done = {answer["message_id"] for answer in books.answers() if answer["status"] == "done"}
    assert done == set(others)
    assert books.run_by("w1").count(poison) == 4
    assert worker.alive
