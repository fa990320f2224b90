"""What becomes of messages when the child processes of a worker crash, hang and are killed."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from faults.crew import Crew, ProcessLedger, WorkerProcess
from faults.durations import SHORT_LEASE_SECONDS
from faults.table import FaultTable
from helpers import eventually
from protocol_client import GroupAdmin

DEADLINE_SECONDS = 0.7
KILL_GRACE_SECONDS = 0.1
"""Where a worker that is taken for dead on a busy machine does no harm."""


@pytest.fixture
def isolation() -> str:
    return "process"


def children_of(books: ProcessLedger, worker: WorkerProcess) -> set[int]:
    """The processes in which a worker has run messages."""
    return {run.pid for run in books.reported() if run.worker == worker.name}


def runs(pid: int) -> bool:
    """Whether a process runs; one that has ended, and that nobody has waited for, does not."""
    with suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX"
    return False


def test_a_message_that_crashes_and_one_that_loops_in_c_cost_nobody_else_anything(
    crew: Crew, books: ProcessLedger, admin: GroupAdmin, fault_table: FaultTable
) -> None:
    """The consumer's process never ends, and charges these two alone."""
    (killer,) = books.publish(1, acts="segfault")
    (looper,) = books.publish(1, acts="loop")
    books.fault_is_over()
    neighbours = books.publish(48)
    worker = crew.start(
        "worker",
        threads=2,
        prefetch=5,
        job_deadline_seconds=DEADLINE_SECONDS,
        kill_grace_seconds=KILL_GRACE_SECONDS,
        retry={"max_attempts": 2},
        max_crashes=2,
    )
    note = f"the deadline is {DEADLINE_SECONDS} s"
    row = fault_table.add("a child crashes, another one loops in C", books, note=note)
    assert row.run_twice == 2, "the two of them"
    letters = {letter[b"dead.id"].decode(): letter for letter in admin.dead()}
    assert set(letters) == {killer, looper}
    crashed, looped = letters[killer], letters[looper]
    reason = b"crashed: its process died 2 times, the last time killed by SIGSEGV"
    assert crashed[b"dead.reason"] == reason
    assert (crashed[b"dead.crashes"], crashed[b"dead.attempts"]) == (b"2", b"2")
    assert crashed[b"dead.history"] == b""
    assert b"perform" in crashed[b"dead.traceback"], "where it was"
    assert (looped[b"dead.reason"], looped[b"dead.error_type"]) == (b"failed 2 times", b"deadline")
    assert looped[b"dead.history"].count(b'"deadline"') == 2, "once for each attempt"
    assert b"perform" in looped[b"dead.traceback"], "where it was"
    attempts = books.attempts()
    assert all(attempts[one] == [1] for one in neighbours)
    assert (attempts[killer], attempts[looper]) == ([1, 2], [1, 2])
    assert worker.alive
    worker.send(signal.SIGTERM)
    assert worker.status() == 0
    counters = worker.report()["counters"]
    assert counters["jobs_overdue"] == 2
    assert counters["errors.crash"] == 2
    assert "jobs_lost" not in counters


def test_a_killed_worker_takes_its_children_along_and_its_messages_run_elsewhere(
    crew: Crew, books: ProcessLedger, fault_table: FaultTable
) -> None:
    books.publish(8, acts="wait go / sleep 0")
    victim = crew.start("victim", threads=4, prefetch=2, lease_seconds=SHORT_LEASE_SECONDS)
    eventually(lambda: len(children_of(books, victim)) == 4)
    children = children_of(books, victim)
    assert all(map(runs, children))
    victim.kill()
    killed = time.monotonic()
    eventually(lambda: not any(map(runs, children)), within=1.0)
    gone_after = time.monotonic() - killed
    books.fault_is_over()
    crew.let("go")
    crew.start("heir", threads=4)
    note = f"4 children, gone after {gone_after:.2f} s"
    fault_table.add("worker with children killed", books, note=note)
    assert {answer["worker"] for answer in books.answers()} == {"heir"}
    assert max(max(made) for made in books.attempts().values()) == 2


def test_a_signal_to_all_processes_of_a_worker_lets_what_runs_finish(
    crew: Crew, books: ProcessLedger, fault_table: FaultTable
) -> None:
    """As a service manager sends it, or a terminal."""
    number = signal.SIGINT
    ids = books.publish(2, acts="wait go")
    worker = crew.start("worker", threads=2)
    eventually(lambda: len(children_of(books, worker)) == 2)
    children = children_of(books, worker)
    for pid in children:
        os.kill(pid, number)  # they may have it before their parent
    worker.send(number)
    worker.says("draining")
    for pid in children:
        os.kill(pid, number)
    crew.let("go")
    books.fault_is_over()
    assert worker.status() == 0
    row = fault_table.add(f"{number.name} to a worker and its children", books)
    assert row.run_twice == 0
    assert books.attempts() == {one: [1] for one in ids}
    assert worker.report()["clean"] is True
    assert not any(map(runs, children))


@pytest.mark.parametrize(
    ("acts", "hurry"), [("wait go", "a second signal"), ("loop go", "the drain's end")]
)
def test_a_child_that_runs_at_the_drains_end_is_killed_and_its_message_is_not_charged(
    crew: Crew,
    books: ProcessLedger,
    admin: GroupAdmin,
    fault_table: FaultTable,
    acts: str,
    hurry: str,
) -> None:
    again = hurry == "a second signal"
    ids = books.publish(4, acts=acts)
    leaving = crew.start("leaving", threads=2, prefetch=2, drain_seconds=600 if again else 0.3)
    eventually(lambda: len(children_of(books, leaving)) == 2)
    children = children_of(books, leaving)
    leaving.send(signal.SIGTERM)
    if again:
        leaving.says("draining")
        leaving.send(signal.SIGTERM)
    begun = time.monotonic()
    assert leaving.status() == 0
    note = f"ended after {time.monotonic() - begun:.1f} s"
    assert not any(map(runs, children))
    assert admin.pending() == dict.fromkeys(ids, ("~parked", 0))
    books.fault_is_over()
    crew.let("go")
    crew.start("heir")
    row = fault_table.add(f"children at {hurry}: {acts}", books, note=note)
    assert row.run_twice == 2


def test_in_batches_it_is_the_culprit_alone_that_is_charged(
    crew: Crew, books: ProcessLedger, admin: GroupAdmin, fault_table: FaultTable
) -> None:
    ids = books.publish(20)
    (killer,) = books.publish(1, acts="segfault")
    ids += books.publish(16)
    (looper,) = books.publish(1, acts="loop")
    ids += books.publish(10)
    books.fault_is_over()
    worker = crew.start(
        "worker",
        batch_size=8,
        job_deadline_seconds=DEADLINE_SECONDS,
        kill_grace_seconds=KILL_GRACE_SECONDS,
        retry={"max_attempts": 1},
        max_crashes=2,
    )
    books.settle()
    sizes = [int(size) for size in books.client.lrange("batches", 0, -1)]
    note = f"{len(sizes)} runs of {sum(sizes)} messages"
    fault_table.add("a message of a batch crashes, one loops", books, note=note)
    letters = {letter[b"dead.id"].decode(): letter for letter in admin.dead()}
    assert set(letters) == {killer, looper}
    assert (letters[killer][b"dead.crashes"], letters[killer][b"dead.attempts"]) == (b"2", b"2")
    assert letters[looper][b"dead.reason"] == b"failed 1 times"
    attempts = books.attempts()
    assert {attempt for one in ids for attempt in attempts[one]} == {1}, "nobody else is charged"
    assert max(sizes) == 8
    assert worker.alive
    worker.send(signal.SIGTERM)
    assert worker.status() == 0
