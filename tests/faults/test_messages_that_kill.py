"""A message that kills its process, again and again, dies and takes no neighbour along."""

from __future__ import annotations

import json
from collections import Counter

import hiredis
import pytest
from faults.crew import Crew, ProcessLedger, WorkerProcess
from faults.durations import (
    SHORT_LEASE_SECONDS,
)
from faults.table import FaultTable
from helpers import eventually
from protocol_client import GroupAdmin


def supervise(
    crew: Crew, books: ProcessLedger, admin: GroupAdmin, same_name: bool, **options: object
) -> int:
    """Start a worker again whenever it has died, until everything has ended; how many it took.

    The lease of one that is followed by another name is made to end with it.
    """
    started: list[WorkerProcess] = []

    def all_is_done() -> bool:
        if not started or not started[-1].alive:
            if started and not same_name:
                admin.end_lease(started[-1].name)
            name = "worker" if same_name else f"worker-{len(started)}"
            started.append(crew.start(name, **options))
        books.look()
        return not books.unfinished()

    eventually(all_is_done, within=45)
    return len(started)


@pytest.mark.parametrize(
    ("acts", "same_name"),
    [
        ("exit", True),
        ("segfault", False),
        ("fail / exit", True),
        ("exit / fail / exit", True),
    ],
)
def test_a_message_that_kills_its_process_dies_with_its_history_and_no_neighbour_is_charged_twice(
    crew: Crew,
    books: ProcessLedger,
    admin: GroupAdmin,
    fault_table: FaultTable,
    acts: str,
    same_name: bool,
) -> None:
    """However its worker is started again: under the same name or another."""
    (killer,) = books.publish(1, acts=acts)
    books.fault_is_over()
    neighbours = books.publish(14, acts="sleep 0.01")
    options = {"prefetch": 5, "lease_seconds": SHORT_LEASE_SECONDS}
    started = supervise(crew, books, admin, same_name, **options)
    attempts = books.attempts()
    charged = [made for made in neighbours if max(attempts[made]) > 1]
    names = "same name" if same_name else "other names"
    fault_table.add(
        f"message kills: {acts}; {names}", books, note=f"{len(charged)} of 14 neighbours charged"
    )
    assert started == 4, "three crashes are allowed, the fourth worker buries the message"
    (letter,) = admin.dead()
    assert letter[b"dead.id"] == killer.encode()
    assert letter[b"dead.reason"] == b"crashed: its process died 3 times"
    assert letter[b"dead.crashes"] == b"3"
    failures = [json.loads(line) for line in letter[b"dead.history"].splitlines()]
    assert [failure["error"] for failure in failures] == ["as asked for"] * acts.count("fail")
    assert letter[b"dead.attempts"] == str(4 + acts.count("fail")).encode()
    assert max(max(attempts[made]) for made in neighbours) <= 2


def test_a_message_that_kills_a_busy_pool_takes_none_along_that_runs_beside_it(
    crew: Crew, books: ProcessLedger, admin: GroupAdmin, fault_table: FaultTable
) -> None:
    """Neither what its reader had prefetched nor the long ones that other readers run each time."""
    (killer,) = books.publish(1, acts="sleep 0.3, exit")
    books.fault_is_over()
    neighbours = books.publish(4, acts="sleep 0.05")
    for _ in range(3):
        neighbours += books.publish(1, acts="sleep 0.5") + books.publish(4, acts="sleep 0.05")
    options = {"threads": 4, "prefetch": 5, "lease_seconds": SHORT_LEASE_SECONDS}
    started = supervise(crew, books, admin, True, **options)
    attempts = books.attempts()
    charged = Counter(max(attempts[made]) - 1 for made in neighbours)
    note = f"neighbours by times charged: {dict(sorted(charged.items()))}"
    fault_table.add("message kills 4 threads with prefetch 5", books, note=note)
    assert started == 4
    assert [letter[b"dead.id"] for letter in admin.dead()] == [killer.encode()]


@pytest.mark.skipif(
    int(hiredis.__version__.split(".")[0]) < 3,
    reason="hiredis before 3 may end the process if it connects while memory is used up",
)
def test_a_processor_that_uses_up_all_memory_has_failed_and_its_worker_goes_on(
    crew: Crew, books: ProcessLedger, admin: GroupAdmin, fault_table: FaultTable
) -> None:
    (glutton,) = books.publish(1, acts="hoard")
    books.fault_is_over()
    worker = crew.start("worker", threads=2, prefetch=2, more_bytes=100_000_000)
    eventually(lambda: books.ended(glutton) or not (worker.alive and books.look()), within=30)
    books.publish(20)
    fault_table.add("processor uses up all memory", books)
    (letter,) = admin.dead()
    assert letter[b"dead.reason"] == b"failed 3 times"
    assert letter[b"dead.error_type"] == b"MemoryError"
    assert letter[b"dead.crashes"] == b"0"
    assert books.attempts()[glutton] == [1, 2, 3]
    assert {run.pid for run in books.reported()} == {worker.pid}
