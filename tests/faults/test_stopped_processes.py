"""What becomes of messages when worker processes are stopped or replaced."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing
from pathlib import Path

import pytest
import redis
from faults.crew import BOTH, Crew, ProcessLedger
from faults.durations import (
    MARGIN_SECONDS,
    SHORT_LEASE_SECONDS,
)
from faults.nursery import Nursery
from faults.table import FaultTable
from helpers import eventually
from protocol_client import GroupAdmin

from shared_sync.connection.embedded import EmbeddedRedis

SHUTDOWN_GRACE_SECONDS = 1.0
"""Stopping may take so much longer than its limit; users have 3 s."""
MUCH_WORK = 150
"""Messages: more than 10 workers do while one is replaced."""


def test_a_rolling_deploy_charges_no_message_and_runs_none_twice(
    crew: Crew, books: ProcessLedger, admin: GroupAdmin, fault_table: FaultTable
) -> None:
    """Six workers are replaced one after the other, with more work than they can do all the while.

    With prefetched messages, and with readers that are just being given some when the signal comes.
    """
    options = {"threads": 2, "prefetch": 3, "lease_seconds": 5.0, "acts": "sleep 0.1"}
    old = [crew.start(f"old-{number}", **options) for number in range(6)]
    books.publish(200)
    eventually(lambda: {run.worker for run in books.reported()} == {made.name for made in old})
    for number, worker in enumerate(old):
        books.look()
        if len(books.unfinished()) < MUCH_WORK:
            books.publish(60)
        worker.send(signal.SIGTERM)
        crew.start(f"new-{number}", **options)
        assert worker.status() == 0
    books.fault_is_over()
    books.publish(10)
    row = fault_table.add("rolling deploy of 6 workers", books)
    assert row.run_twice == 0
    assert set(map(tuple, books.attempts().values())) == {(1,)}
    left = [worker for worker in crew.all if worker not in old]
    for worker in left:
        worker.says("of group workers processes jobs")
        worker.send(signal.SIGTERM)
    assert {worker.status() for worker in left} == {0}
    assert admin.presence() == {}
    assert admin.consumers() <= {"~parked"}


@BOTH
def test_what_was_not_started_is_run_elsewhere_while_the_drain_waits_for_what_runs(
    crew: Crew, books: ProcessLedger, admin: GroupAdmin, fault_table: FaultTable
) -> None:
    """And what comes after the signal is not taken. A second thread would take what waits."""
    (running,) = books.publish(1, acts="wait go")
    waiting = books.publish(4)
    leaving = crew.start("leaving", threads=1, prefetch=5, block_seconds=2)
    eventually(lambda: books.run_by("leaving"))
    assert set(admin.pending().values()) == {("leaving", 1)}
    leaving.send(signal.SIGTERM)
    begun = time.monotonic()
    handed_back = {running: ("leaving", 1), **dict.fromkeys(waiting, ("~parked", 0))}
    eventually(lambda: admin.pending() == handed_back)
    note = f"handed back after {time.monotonic() - begun:.2f} s"
    books.fault_is_over()
    books.publish(1)
    assert admin.pending() == handed_back
    crew.start("other")
    eventually(lambda: books.look() and books.unfinished() == {running})
    assert leaving.alive
    crew.let("go")
    assert leaving.status() == 0
    row = fault_table.add("SIGTERM, with prefetched messages", books, note=note)
    assert row.run_twice == 0
    assert books.run_by("leaving") == [running]
    assert all(made == [1] for made in books.attempts().values())
    assert leaving.report()["clean"] is True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("hurry", ["the drain's end", "a second signal"])
def test_what_still_runs_at_the_drains_end_is_run_elsewhere_and_not_charged(
    crew: Crew,
    books: ProcessLedger,
    admin: GroupAdmin,
    fault_table: FaultTable,
    number: signal.Signals,
    hurry: str,
) -> None:
    again = hurry == "a second signal"
    ids = books.publish(4, acts="wait go")
    leaving = crew.start("leaving", threads=2, prefetch=2, drain_seconds=600 if again else 0.3)
    eventually(lambda: len(books.run_by("leaving")) == 2)
    leaving.send(number)
    if again:
        leaving.says("draining")
        leaving.send(number)
    begun = time.monotonic()
    assert leaving.status() == 0
    note = f"ended after {time.monotonic() - begun:.1f} s"
    assert leaving.report()["clean"] is False
    assert admin.pending() == dict.fromkeys(ids, ("~parked", 0))
    books.fault_is_over()
    crew.let("go")
    crew.start("other")
    row = fault_table.add(f"{number.name}, running until {hurry}", books, note=note)
    assert row.run_twice == 2
    assert {attempt for made in books.attempts().values() for attempt in made} == {1}


@pytest.mark.parametrize("outage", ["killed", "frozen"])
def test_a_worker_that_is_stopped_while_redis_is_away_ends_in_time(
    own_server: EmbeddedRedis,
    redis_url: str,
    client: redis.Redis,
    nursery: Nursery,
    tmp_path: Path,
    fault_table: FaultTable,
    outage: str,
) -> None:
    with (
        closing(ProcessLedger(own_server.url, client)) as books,
        closing(Crew(nursery, own_server.url, redis_url, tmp_path)) as crew,
    ):
        books.publish(4, acts="wait go")
        leaving = crew.start(
            "leaving",
            threads=2,
            prefetch=2,
            drain_seconds=0.3,
            lease_seconds=SHORT_LEASE_SECONDS,
            shutdown_grace_seconds=SHUTDOWN_GRACE_SECONDS,
        )
        eventually(lambda: len(books.run_by("leaving")) == 2)
        if outage == "killed":
            own_server.kill()
        else:
            os.kill(own_server.pid, signal.SIGSTOP)
        leaving.send(signal.SIGTERM)
        begun = time.monotonic()
        assert leaving.status() == 0
        ended_after = time.monotonic() - begun
        if outage == "killed":
            own_server.start()
        else:
            os.kill(own_server.pid, signal.SIGCONT)
        books.fault_is_over()
        GroupAdmin(books.client).end_lease("leaving")
        crew.let("go")
        crew.start("other")
        note = f"ended after {ended_after:.1f} s, drain_seconds 0.3"
        fault_table.add(f"SIGTERM while Redis is {outage}", books, note=note)
        assert ended_after < 0.3 + SHUTDOWN_GRACE_SECONDS + MARGIN_SECONDS
        assert max(max(made) for made in books.attempts().values()) <= 2
