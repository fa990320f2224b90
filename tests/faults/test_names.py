"""Of two processes with one name the first works, and the next when it has ended."""

from __future__ import annotations

import signal
import socket
import time
from dataclasses import replace

import pytest
from faults.crew import Crew, ProcessLedger
from faults.durations import (
    DEFAULT_LEASE_SECONDS,
    LEASE_SECONDS,
    PATIENCE_SECONDS,
)
from faults.table import FaultTable
from faults.worker import NAME_IN_USE
from helpers import eventually
from protocol_client import GroupAdmin

from shared_sync.protocol.process_identity import ProcessIdentity


def test_a_second_process_of_a_name_is_refused_and_the_first_goes_on_undisturbed(
    crew: Crew, books: ProcessLedger, admin: GroupAdmin, fault_table: FaultTable
) -> None:
    ids = books.publish(4, acts="wait go")
    options = {"threads": 2, "prefetch": 2, "lease_seconds": 2 * LEASE_SECONDS}
    first = crew.start("name", **options)
    eventually(lambda: len(books.run_by("name")) == 2)
    running = dict.fromkeys(books.run_by("name"), ("name", 1))
    waiting = dict.fromkeys(set(ids) - set(running), ("~parked", 0))
    taken = {**running, **waiting}
    eventually(lambda: admin.pending() == taken)
    second = crew.start("name", **options)
    begun = time.monotonic()
    assert second.status() == NAME_IN_USE
    refused_after = time.monotonic() - begun
    told = second.report()
    assert (told["host"], told["pid"]) == (socket.gethostname(), first.pid)
    assert f"process {first.pid} on {socket.gethostname()}" in told["text"]
    assert admin.pending() == taken
    books.fault_is_over()
    crew.let("go")
    books.publish(10)
    note = f"refused after {refused_after:.1f} s"
    row = fault_table.add("second process of the same name", books, note=note)
    assert row.run_twice == 0
    assert {run.pid for run in books.reported()} == {first.pid}
    assert first.alive


@pytest.mark.parametrize("ending", ["killed", "stopped"])
def test_a_name_is_free_at_once_when_its_process_has_ended_on_this_machine(
    crew: Crew, books: ProcessLedger, fault_table: FaultTable, ending: str
) -> None:
    """What it had is run by the process that starts under its name, not after the long lease."""
    books.publish(3, acts="wait go")
    long = {"prefetch": 3, "lease_seconds": DEFAULT_LEASE_SECONDS}
    long["patience_seconds"] = PATIENCE_SECONDS
    first = crew.start("name", drain_seconds=0, **long)
    eventually(lambda: books.run_by("name"))
    begun = time.monotonic()
    first.send(signal.SIGKILL if ending == "killed" else signal.SIGTERM)
    assert first.status() == (-signal.SIGKILL if ending == "killed" else 0)
    crew.let("go")
    books.fault_is_over()
    crew.start("name", **long)
    books.settle()
    again_after = time.monotonic() - begun
    note = f"all run again after {again_after:.1f} s"
    row = fault_table.add(f"worker {ending} and started again under its name", books, note=note)
    assert row.run_twice == 1
    assert again_after < DEFAULT_LEASE_SECONDS / 2
    charged = {1} if ending == "stopped" else {2}
    assert {made[-1] for made in books.attempts().values()} == charged


def hold_from_elsewhere(admin: GroupAdmin, name: str, lease_seconds: float) -> int:
    """Let a name be held by a process that nobody here can judge; the end of its lease, in ms."""
    elsewhere = replace(ProcessIdentity.here(), host="gpu-7", machine="another", pid=4711)
    lease_end_ms = admin.now_ms() + round(lease_seconds * 1000)
    admin.client.hset(admin.keys.holders, name, elsewhere.text())
    admin.client.zadd(admin.keys.presence, {name: lease_end_ms})
    return lease_end_ms


def test_the_name_of_a_process_on_another_machine_is_free_when_its_lease_has_ended(
    crew: Crew, books: ProcessLedger, admin: GroupAdmin, fault_table: FaultTable
) -> None:
    ids = books.publish(3)
    admin.client.xgroup_create(admin.keys.stream, admin.keys.group, id="0")
    admin.client.xreadgroup(admin.keys.group, "name", {admin.keys.stream: ">"})
    lease_end_ms = hold_from_elsewhere(admin, "name", 6)
    books.fault_is_over()
    crew.start("name", lease_seconds=4 * LEASE_SECONDS).says("waiting for the name")
    fault_table.add("worker elsewhere died, started again under its name", books)
    assert all(run.moment >= lease_end_ms / 1000 for run in books.reported())
    assert books.attempts() == {message_id: [2] for message_id in ids}


def test_a_start_that_waits_for_a_name_ends_with_sigterm(
    crew: Crew, books: ProcessLedger, admin: GroupAdmin, fault_table: FaultTable
) -> None:
    hold_from_elsewhere(admin, "name", 600)
    held = admin.client.hgetall(admin.keys.holders)
    waiting = crew.start("name", lease_seconds=DEFAULT_LEASE_SECONDS)
    waiting.says("waiting for the name")
    waiting.send(signal.SIGTERM)
    begun = time.monotonic()
    assert waiting.status(within=5) == 0
    note = f"ended after {time.monotonic() - begun:.1f} s"
    assert admin.client.hgetall(admin.keys.holders) == held
    books.fault_is_over()
    books.publish(1)
    crew.start("other")
    fault_table.add("SIGTERM while waiting for a name", books, note=note)
    assert {run.worker for run in books.reported()} == {"other"}
