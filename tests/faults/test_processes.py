"""What becomes of messages when worker processes are killed, frozen, replaced and stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from faults.crew import Crew, ProcessLedger, WorkerProcess
from faults.durations import LEASE_SECONDS
from faults.table import FaultTable
from faults.worker import NAME_IN_USE
from helpers import eventually
from protocol_client import GroupAdmin

from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.protocol.process_identity import ProcessIdentity

TAKEN_OVER_SECONDS = LEASE_SECONDS + 2
"""What is promised; the machine that runs the tests may be slow."""
MARGIN_SECONDS = 3.0
SHUTDOWN_GRACE_SECONDS = 1.0
"""Stopping may take so much longer than its limit; users have 3 s."""
DEFAULT_LEASE_SECONDS = 30.0
PATIENCE_SECONDS = 60.0
"""How long a reply may take; so long as it might come, nobody else may run what it brings."""
MUCH_WORK = 150
"""Messages: more than 10 workers do while one is replaced."""
SHORT_LEASE_SECONDS = 1.0
"""Where a worker that is taken for dead on a busy machine does no harm."""

BOTH = pytest.mark.parametrize("isolation", ["thread", "process"])
"""For a test whose workers run their processors in threads, and in child processes."""


@pytest.fixture
def isolation() -> str:
    """Where the workers run their processors; tests that are marked with BOTH replace it."""
    return "thread"


@pytest.fixture
def crew(redis_url: str, tmp_path: Path, isolation: str) -> Iterator[Crew]:
    with closing(Crew(redis_url, redis_url, tmp_path, isolation)) as made:
        yield made


def held_by(admin: GroupAdmin, *names: str) -> set[str]:
    """What these had when they died.

    It is the second answer that counts: after the first, the server has read all that the dead
    had sent.
    """
    admin.pending()
    return {message_id for message_id, (owner, _) in admin.pending().items() if owner in names}


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
    tmp_path: Path,
    fault_table: FaultTable,
) -> None:
    with (
        closing(ProcessLedger(own_server.url, client)) as books,
        closing(Crew(own_server.url, redis_url, tmp_path)) as crew,
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


# --- two processes, one name --------------------------------------------------------------------


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


# --- messages that kill -------------------------------------------------------------------------


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


# --- stopped ------------------------------------------------------------------------------------


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
    tmp_path: Path,
    fault_table: FaultTable,
    outage: str,
) -> None:
    with (
        closing(ProcessLedger(own_server.url, client)) as books,
        closing(Crew(own_server.url, redis_url, tmp_path)) as crew,
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
