"""Jobs grow older with each check, and a stall of the whole process counts as a moment."""

from __future__ import annotations

import pytest
from helpers import Clock, Interrupted, returns
from readers import add_slot, entries, start

from shared_sync.redis_consumer.in_flight import InFlight
from shared_sync.redis_consumer.running_jobs import LONGEST_STEP_SECONDS, RunningJobs
from shared_sync.redis_consumer.slot import Slot
from shared_sync.redis_consumer.timeouts import CHECKS_PER_DEADLINE, longest_step_seconds


@pytest.fixture
def in_flight() -> InFlight:
    return InFlight()


@pytest.fixture
def slot(in_flight: InFlight) -> Slot:
    return add_slot(in_flight, "r1", "1-0", "2-0", "3-0")


@pytest.fixture
def jobs(in_flight: InFlight, clock: Clock) -> RunningJobs:
    return RunningJobs(in_flight, clock=clock)


def ages(jobs: RunningJobs) -> list[float]:
    return [job.seconds for job in jobs.check()]


def test_what_runs_is_shown_with_its_reader_and_for_how_long(
    in_flight: InFlight, jobs: RunningJobs, slot: Slot, clock: Clock
) -> None:
    second = add_slot(in_flight, "r2", "4-0")
    start(slot, clock.now)
    clock.now += 2.5
    start(second, clock.now)
    running = jobs.check()
    assert [(job.entry.id, job.reader, job.seconds) for job in running] == [
        ("1-0", "r1", 2.5),
        ("4-0", "r2", 0.0),
    ]
    assert [job.slot for job in running] == [slot, second]
    slot.end_attempt()
    assert [job.entry.id for job in jobs.check()] == ["4-0"]


def test_the_next_job_of_a_reader_begins_with_no_age(
    jobs: RunningJobs, slot: Slot, clock: Clock
) -> None:
    start(slot, clock.now)
    clock.now += 2
    assert ages(jobs) == [2.0]
    slot.end_attempt()
    start(slot, clock.now)
    clock.now += 1
    assert ages(jobs) == [1.0]


def test_a_job_that_began_between_two_checks_is_as_old_as_it_is(
    jobs: RunningJobs, slot: Slot, clock: Clock
) -> None:
    jobs.check()
    clock.now += 1.5
    start(slot, clock.now)
    clock.now += 0.5
    assert ages(jobs) == [0.5]
    clock.now += 2
    assert ages(jobs) == [2.5]


def test_every_message_of_an_attempt_is_a_job_of_the_same_age(
    in_flight: InFlight, jobs: RunningJobs, clock: Clock
) -> None:
    slot = add_slot(in_flight, "r1", "1-0")
    start(slot, clock.now).entries = entries("1-0", "2-0")
    clock.now += 1
    assert [(job.entry.id, job.seconds) for job in jobs.check()] == [("1-0", 1.0), ("2-0", 1.0)]


def test_a_job_is_given_up_on_once_at_its_deadline(
    jobs: RunningJobs, slot: Slot, clock: Clock
) -> None:
    start(slot, clock.now)
    clock.now += 1.9
    assert jobs.give_up(2) == []
    clock.now += 0.1
    assert [job.entry.id for job in jobs.give_up(2)] == ["1-0"]
    clock.now += 1
    assert jobs.give_up(2) == []
    assert [job.given_up for job in jobs.check()] == [True]
    slot.end_attempt()
    start(slot, clock.now)
    assert [job.given_up for job in jobs.check()] == [False], "the next job is not late"


def test_nobody_is_given_up_for_a_stall_of_the_whole_process(
    jobs: RunningJobs, slot: Slot, clock: Clock
) -> None:
    start(slot, clock.now)
    clock.now += 3
    assert jobs.give_up(8) == []
    clock.now += 60
    assert jobs.give_up(8) == []
    assert ages(jobs) == [3 + LONGEST_STEP_SECONDS]
    clock.now += 2
    assert [job.entry.id for job in jobs.give_up(8)] == ["1-0"]


def test_a_job_that_began_before_a_stall_grows_by_a_step_also_if_no_check_has_seen_it(
    jobs: RunningJobs, slot: Slot, clock: Clock
) -> None:
    start(slot, clock.now)
    clock.now += 60
    assert ages(jobs) == [LONGEST_STEP_SECONDS]


def test_what_passed_before_a_job_began_does_not_make_it_older(
    jobs: RunningJobs, slot: Slot, clock: Clock
) -> None:
    clock.now += 60
    start(slot, clock.now)
    assert ages(jobs) == [0.0]


@pytest.mark.parametrize("deadline", [0.1, 0.3, 8.0, 3600.0])
def test_a_stall_takes_at_most_half_of_a_deadline_and_a_slow_check_counts_whole(
    in_flight: InFlight, slot: Slot, clock: Clock, deadline: float
) -> None:
    step = longest_step_seconds(deadline)
    assert 1.5 * min(2.0, deadline / CHECKS_PER_DEADLINE) <= step <= deadline / 2
    jobs = RunningJobs(in_flight, longest_step_seconds=step, clock=clock)
    start(slot, clock.now)
    clock.now += 3600
    assert jobs.give_up(deadline) == []


def test_a_signal_handler_may_ask_what_runs_while_its_thread_does(in_flight: InFlight) -> None:
    clock = Interrupted()
    jobs = RunningJobs(in_flight, clock=clock)
    start(add_slot(in_flight, "r1", "1-0"), clock.now)
    seen: list[list[str]] = []

    def ask() -> None:
        seen.append([job.entry.id for job in jobs.check()])

    clock.handler = ask
    assert returns(ask)
    assert seen == [["1-0"], ["1-0"]]
