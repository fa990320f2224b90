"""What becomes of messages when worker processes are killed or frozen."""

from __future__ import annotations

import signal
import socket
import time
from contextlib import closing
from pathlib import Path

import pytest
import redis
from faults.crew import BOTH, Crew, ProcessLedger, held_by
from faults.durations import (
    DEFAULT_LEASE_SECONDS,
    LEASE_SECONDS,
    MARGIN_SECONDS,
    PATIENCE_SECONDS,
    SHORT_LEASE_SECONDS,
)
from faults.nursery import Nursery
from faults.table import FaultTable
from faults.worker import NAME_IN_USE
from helpers import eventually
from protocol_client import GroupAdmin

from shared_sync.connection.embedded import EmbeddedRedis

TAKEN_OVER_SECONDS = LEASE_SECONDS + 2
"""What is promised; the machine that runs the tests may be slow."""


# --- killed -------------------------------------------------------------------------------------


@BOTH
def test_what_a_killed_worker_held_runs_again_elsewhere_and_nothing_else_runs_twice(
    crew: Crew, books: ProcessLedger, admin: GroupAdmin, fault_table: FaultTable
) -> None:
    books.publish(400)
    full = {"threads": 4, "prefetch": 5, "acts": "sleep 0.03"}
    victim, heir = crew.start("victim", **full), crew.start("heir", **full)
    eventually(lambda: all(len(books.run_by(name)) >= 40 for name in ("victim", "heir")))
    eventually(lambda: len(held_by(admin, "victim")) >= 10)
    victim.kill()
    books.fault_is_over()
    killed = time.time()
    held = held_by(admin, "victim")
    books.settle()
    again = [run.moment - killed for run in books.reported() if run.attempt > 1]
    fault_table.add(
        "worker killed",
        books,
        note=f"held {len(held)}, which started again after {min(again):.1f} to {max(again):.1f} s",
    )
    assert held
    assert books.run_twice() <= held
    attempts = books.attempts()
    assert {attempts[message_id][-1] for message_id in held} == {2}
    assert all(made == [1] for message_id, made in attempts.items() if message_id not in held)
    heir.send(signal.SIGTERM)
    assert heir.status() == 0
    assert heir.report()["counters"]["jobs_recovered"] == len(held)
    assert min(again) < TAKEN_OVER_SECONDS + MARGIN_SECONDS


@pytest.mark.parametrize("heirs", ["first", "second"], ids=["the same names", "other names"])
def test_when_all_workers_are_killed_at_once_those_that_start_then_take_over(
    crew: Crew, books: ProcessLedger, admin: GroupAdmin, fault_table: FaultTable, heirs: str
) -> None:
    """Under the same names at once, however long the lease."""
    books.publish(200)
    same = heirs == "first"
    lease = DEFAULT_LEASE_SECONDS if same else LEASE_SECONDS
    options = {"threads": 2, "prefetch": 3, "acts": "sleep 0.03", "lease_seconds": lease}
    options["patience_seconds"] = PATIENCE_SECONDS
    names = [f"first-{number}" for number in range(3)]
    victims = [crew.start(name, **options) for name in names]
    eventually(lambda: all(len(books.run_by(name)) >= 10 for name in names))
    for victim in victims:
        victim.send(signal.SIGKILL)
    for victim in victims:
        victim.kill()
    books.fault_is_over()
    killed = time.time()
    held = held_by(admin, *names)
    for number in range(3):
        crew.start(f"{heirs}-{number}", **options)
    books.settle()
    again = [run.moment - killed for run in books.reported() if run.attempt > 1]
    fault_table.add(
        f"all workers killed, {'the same' if same else 'other'} names",
        books,
        note=f"held {len(held)}, which started again after {min(again):.1f} to {max(again):.1f} s",
    )
    assert held
    assert books.run_twice() <= held
    assert {books.attempts()[message_id][-1] for message_id in held} == {2}
    assert min(again) < TAKEN_OVER_SECONDS + MARGIN_SECONDS


def test_redis_and_a_worker_that_are_killed_at_the_same_moment_lose_nothing(
    own_server: EmbeddedRedis,
    redis_url: str,
    client: redis.Redis,
    nursery: Nursery,
    tmp_path: Path,
    fault_table: FaultTable,
) -> None:
    with (
        closing(ProcessLedger(own_server.url, client)) as books,
        closing(Crew(nursery, own_server.url, redis_url, tmp_path)) as crew,
    ):
        books.publish(120)
        options = {
            "threads": 2,
            "prefetch": 3,
            "acts": "sleep 0.03",
            "lease_seconds": SHORT_LEASE_SECONDS,
        }
        victim, heir = crew.start("victim", **options), crew.start("heir", **options)
        eventually(lambda: all(len(books.run_by(name)) >= 20 for name in ("victim", "heir")))
        victim.send(signal.SIGKILL)
        own_server.kill()
        victim.kill()
        heir.says("fails")
        own_server.start()
        books.fault_is_over()
        held = held_by(GroupAdmin(books.client), "victim", "heir")
        fault_table.add("Redis and a worker killed", books, note=f"held {len(held)}")
        assert books.run_twice() <= held
        heir.send(signal.SIGTERM)
        assert heir.status() == 0


# --- frozen -------------------------------------------------------------------------------------


@BOTH
def test_a_frozen_workers_late_results_are_refused_when_another_has_published(
    crew: Crew, books: ProcessLedger, admin: GroupAdmin, fault_table: FaultTable
) -> None:
    books.publish(3, acts="wait go")
    frozen = crew.start("frozen", prefetch=3, lease_seconds=SHORT_LEASE_SECONDS)
    eventually(lambda: books.run_by("frozen"))
    frozen.freeze()
    admin.end_lease("frozen")
    crew.let("go")
    crew.start("other")
    books.settle()
    books.fault_is_over()
    frozen.thaw()
    frozen.says("does not count")
    frozen.send(signal.SIGTERM)
    assert frozen.status() == 0
    books.publish(1)  # for the other worker, as the frozen one has ended
    fault_table.add("worker frozen, its messages done elsewhere", books)
    counters = frozen.report()["counters"]
    assert counters["jobs_processed"] == 0
    assert counters["jobs_lost"] == len(books.run_by("frozen"))
    assert {answer["worker"] for answer in books.answers()} == {"other"}


def test_a_frozen_workers_late_results_count_when_nobody_took_its_messages(
    crew: Crew, books: ProcessLedger, admin: GroupAdmin, fault_table: FaultTable
) -> None:
    books.publish(3, acts="wait go")
    frozen = crew.start("frozen", prefetch=3, lease_seconds=SHORT_LEASE_SECONDS)
    eventually(lambda: books.run_by("frozen"))
    frozen.freeze()
    admin.end_lease("frozen")
    crew.let("go")
    books.fault_is_over()
    frozen.thaw()
    row = fault_table.add("worker frozen, nobody else there", books)
    assert row.run_twice == 0
    assert list(books.attempts().values()) == [[1]] * 3


def test_a_frozen_workers_late_failures_count_nothing_when_another_has_the_messages(
    crew: Crew, books: ProcessLedger, admin: GroupAdmin, fault_table: FaultTable
) -> None:
    ids = [
        *books.publish(1, acts="wait late, fail / wait go"),
        *books.publish(1, acts="wait late, reject / wait go"),
    ]
    # One that may have read both at once would have its messages run again one after the other.
    frozen = crew.start("frozen", threads=2, prefetch=1, lease_seconds=SHORT_LEASE_SECONDS)
    eventually(lambda: len(books.run_by("frozen")) == 2)
    frozen.freeze()
    admin.end_lease("frozen")
    crew.start("other", threads=2)
    eventually(lambda: len(books.run_by("other")) == 2)
    crew.let("late")
    frozen.thaw()
    frozen.says("here (park) does not count")
    frozen.says("here (bury) does not count")
    assert admin.pending() == dict.fromkeys(ids, ("other", 2))
    assert admin.history() == admin.due() == {}
    crew.let("go")
    books.fault_is_over()
    fault_table.add("worker frozen, its late failures", books)
    assert {answer["worker"] for answer in books.answers()} == {"other"}
    assert admin.dead() == []
    frozen.send(signal.SIGTERM)
    assert frozen.status() == 0
    assert frozen.report()["counters"]["jobs_lost"] == 2


@pytest.mark.parametrize("late", ["results", "failures"])
def test_a_frozen_worker_whose_name_was_taken_ends_and_disturbs_nothing(
    crew: Crew, books: ProcessLedger, admin: GroupAdmin, fault_table: FaultTable, late: str
) -> None:
    """It had three messages running and three prefetched, of which its heir has begun with one."""
    endings = ["", "", ""] if late == "results" else ["fail", "fail", "reject"]
    ids = [
        *books.publish(2, acts=f"wait late, {endings[0]} / wait go"),
        *books.publish(2, acts=f"wait late, {endings[1]} / wait go"),
        *books.publish(2, acts=f"wait late, {endings[2]} / wait go"),
    ]
    frozen = crew.start("name", threads=3, prefetch=2, lease_seconds=SHORT_LEASE_SECONDS)
    eventually(lambda: len(books.run_by("name")) == 3)
    running = books.run_by("name")
    frozen.freeze()
    admin.end_lease("name")
    heir = crew.start("name")
    eventually(lambda: [run.message for run in books.reported() if run.pid == heir.pid] == ids[:1])
    taken = {**dict.fromkeys(ids, ("name", 1)), ids[0]: ("name", 2)}
    assert admin.pending() == taken
    frozen.thaw()
    frozen.says("stops: ")
    crew.let("late")
    assert frozen.status() == NAME_IN_USE
    told = frozen.report()
    assert (told["host"], told["pid"]) == (socket.gethostname(), heir.pid)
    for message_id in running if late == "results" else []:
        del taken[message_id]  # of two that run a message the first finishes it
    assert admin.pending() == taken
    assert admin.history() == admin.due() == {}
    crew.let("go")
    books.fault_is_over()
    fault_table.add(f"worker frozen, its name taken; its late {late}", books)
    assert admin.dead() == []
    again = [run.message for run in books.reported() if run.pid == heir.pid]
    assert sorted(again) == sorted({ids[0], *taken})
    heir.send(signal.SIGTERM)
    assert heir.status() == 0
