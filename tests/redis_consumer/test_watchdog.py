"""Loops that stand still are found; time in which nobody could go on is not held against them."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest
from helpers import Clock, Interrupted, returns

from shared_sync.common.guarded import GuardedLogger, GuardedRecorder
from shared_sync.connection.availability import Availability
from shared_sync.protocol.messages import Entry
from shared_sync.redis_consumer.in_flight import InFlight
from shared_sync.redis_consumer.job_budget import Budget
from shared_sync.redis_consumer.running_jobs import RunningJobs
from shared_sync.redis_consumer.slot import Slot
from shared_sync.redis_consumer.watchdog import (
    LONGEST_STEP_SECONDS,
    SILENT_SECONDS,
    SILENT_STEP_SECONDS,
    STALLED_SECONDS,
    Snapshot,
    Watchdog,
)

LOGGER = GuardedLogger(logging.getLogger("tests.watchdog"))
MINUTES = 60.0


@dataclass
class Stander:
    """A loop, and who works in it, that do only what the test says."""

    name: str
    turns: int = 1
    was_started: bool = True
    is_to_turn: bool = True
    has_ended: bool = False
    started_at: float = 100.0
    is_in_bounds: bool = False
    moved_at: float = 100.0
    loads_since: float | None = None
    thread: threading.Thread = field(default_factory=threading.current_thread)


class Scene:
    """A heartbeat thread and two readers, under a watchdog."""

    def __init__(self, clock: Clock, deadline_seconds: float | None = None) -> None:
        self.clock = clock
        self.heartbeat, self.first, self.second = everyone = [
            Stander(name) for name in ("heartbeat", "reader-1", "reader-2")
        ]
        self.availability = Availability("redis://somewhere:6379/0", LOGGER, clock)
        in_flight = InFlight()
        self.slot = Slot("reader-1")
        in_flight.add_slot(self.slot)
        self.running_jobs = RunningJobs(in_flight, clock=clock)
        heartbeat, *readers = [(stander, stander) for stander in everyone]
        self.watchdog = Watchdog(
            heartbeat=heartbeat,  # type: ignore[arg-type]
            readers=readers,  # type: ignore[arg-type]
            running_jobs=self.running_jobs,
            budget=Budget(
                deadline_seconds=deadline_seconds,
                limit_seconds=None,
                late_after_p99s=None,
                recorder=GuardedRecorder(None, LOGGER),
                clock=clock,
            ),
            availability=self.availability,
            clock=clock,
        )
        self.check()

    def check(self) -> Snapshot:
        return self.watchdog.check()

    def start_job(self, deliveries: int = 1) -> None:
        """Let the first reader start a message."""
        self.slot.waiting.append(Entry("17-0", [], deliveries))
        assert self.slot.start_next(self.clock.now)

    def pass_time(self, seconds: float, *still: Stander, answered: bool = True) -> None:
        """Let time pass with a check each second; all turn but those that stand still."""
        for _ in range(round(seconds)):
            self.clock.now += 1
            for stander in (self.heartbeat, self.first, self.second):
                stander.turns += stander not in still
            if answered:
                self.availability.succeeded("heartbeat")
            self.check()

    def stalled(self) -> list[str]:
        return list(self.check().stalled)

    def states(self) -> dict[str, tuple[str, float]]:
        return {reader.name: (reader.state, reader.seconds) for reader in self.check().readers}


@pytest.fixture
def scene(clock: Clock) -> Scene:
    return Scene(clock)


# --- loops that stand still -------------------------------------------------------------------


def test_loops_that_turn_are_not_stalled(scene: Scene) -> None:
    scene.pass_time(2 * STALLED_SECONDS)
    assert scene.stalled() == []


@pytest.mark.parametrize("who", ["heartbeat", "first", "second"])
def test_a_loop_that_stands_still_is_stalled_after_the_limit_and_until_it_goes_on(
    scene: Scene, who: str
) -> None:
    stander: Stander = getattr(scene, who)
    scene.pass_time(STALLED_SECONDS - 1, stander)
    assert scene.stalled() == []
    scene.pass_time(1, stander)
    assert scene.stalled() == [stander.name]
    stander.turns += 1
    assert scene.stalled() == []


def test_where_a_stalled_loop_is_can_be_seen(scene: Scene) -> None:
    scene.pass_time(STALLED_SECONDS, scene.first)
    (place,) = scene.check().stalled.values()
    assert " < test_where_a_stalled_loop_is_can_be_seen (" in place
    assert "test_watchdog.py:" in place


def test_a_loop_in_a_job_or_in_a_call_that_has_a_limit_is_not_stalled(scene: Scene) -> None:
    scene.first.is_in_bounds = True
    scene.pass_time(2 * STALLED_SECONDS, scene.first)
    assert scene.stalled() == []
    scene.first.is_in_bounds = False
    scene.pass_time(STALLED_SECONDS - 1, scene.first)
    assert scene.stalled() == [], "what it did before does not count"
    scene.pass_time(2, scene.first)
    assert scene.stalled() == ["reader-1"]


def test_a_reader_that_loads_a_model_is_loading_for_as_long_as_that_takes(scene: Scene) -> None:
    scene.slot.loads_since = scene.second.loads_since = scene.clock.now
    scene.second.is_in_bounds = scene.slot.is_in_bounds
    scene.pass_time(10 * MINUTES, scene.second)
    assert scene.stalled() == []
    assert scene.states()["reader-2"] == ("loading", 600.0)
    scene.second.loads_since = None
    assert scene.states()["reader-2"][0] == "waiting"


def test_a_reader_that_runs_a_long_batch_in_one_turn_is_not_stalled(scene: Scene) -> None:
    """Also where every check finds it between two of its messages."""
    for _ in range(10):
        scene.pass_time(STALLED_SECONDS / 2, scene.first)
        scene.first.moved_at = scene.clock.now
    assert scene.stalled() == []


@pytest.mark.parametrize("change", [{"is_to_turn": False}, {"has_ended": True}])
def test_a_loop_that_is_to_stop_or_has_ended_is_not_stalled(
    scene: Scene, change: dict[str, Any]
) -> None:
    for name, value in change.items():
        setattr(scene.second, name, value)
    scene.pass_time(2 * STALLED_SECONDS, scene.second)
    assert scene.stalled() == []


def test_a_process_that_stood_still_as_a_whole_is_not_stalled(scene: Scene) -> None:
    scene.clock.now += 60 * MINUTES
    assert scene.stalled() == [], "the check comes before the loops have gone on"
    scene.pass_time(5)
    assert scene.stalled() == []


def test_each_of_many_freezes_counts_as_one_short_step(scene: Scene) -> None:
    freezes = int(STALLED_SECONDS / LONGEST_STEP_SECONDS)
    for _ in range(freezes - 1):
        scene.clock.now += 10 * MINUTES
        assert scene.stalled() == []
    scene.clock.now += 10 * MINUTES
    assert len(scene.stalled()) == 3


def test_checks_that_come_close_together_count_no_more_than_the_time_that_passed(
    scene: Scene,
) -> None:
    for _ in range(1000):
        scene.clock.now += (STALLED_SECONDS - 1) / 1000
        assert scene.stalled() == []


# --- a silent Redis ---------------------------------------------------------------------------


def test_a_redis_that_answers_every_two_seconds_is_not_silent(scene: Scene) -> None:
    for _ in range(10):
        scene.pass_time(2, answered=False)
        assert not scene.check().redis_is_silent
        scene.availability.succeeded("heartbeat")


def test_a_redis_that_answers_nobody_is_silent_until_it_does(scene: Scene) -> None:
    scene.pass_time(SILENT_SECONDS - 1, answered=False)
    assert not scene.check().redis_is_silent
    scene.pass_time(1, answered=False)
    snapshot = scene.check()
    assert snapshot.redis_is_silent
    assert snapshot.silent_seconds == SILENT_SECONDS
    scene.availability.succeeded("reader-1")
    assert not scene.check().redis_is_silent


def test_a_redis_that_nobody_could_ask_is_not_silent(scene: Scene) -> None:
    scene.pass_time(2, answered=False)
    scene.clock.now += 10 * MINUTES
    assert not scene.check().redis_is_silent
    assert 2 + SILENT_STEP_SECONDS < SILENT_SECONDS


# --- what readers do --------------------------------------------------------------------------


def test_readers_wait_run_are_late_and_stuck(clock: Clock) -> None:
    scene = Scene(clock, deadline_seconds=60)
    scene.pass_time(3)
    assert scene.states() == {"reader-1": ("waiting", 3), "reader-2": ("waiting", 3)}
    scene.start_job(deliveries=2)
    scene.first.is_in_bounds = True
    scene.pass_time(10, scene.first)
    assert scene.states()["reader-1"] == ("running", 10)
    scene.pass_time(50, scene.first)
    assert scene.states()["reader-1"] == ("late", 60)
    scene.running_jobs.give_up(60)
    assert scene.states()["reader-1"] == ("stuck", 60)
    scene.slot.end_attempt()
    scene.first.is_in_bounds, scene.first.moved_at = False, scene.clock.now
    scene.pass_time(1)
    assert scene.states() == {"reader-1": ("waiting", 1), "reader-2": ("waiting", 64)}


def test_a_reader_that_does_not_come_back_after_its_job_is_stalled_and_not_running(
    scene: Scene,
) -> None:
    """As when the log of a failure never returns."""
    scene.start_job()
    scene.pass_time(STALLED_SECONDS, scene.first)
    assert scene.states()["reader-1"] == ("stalled", STALLED_SECONDS)


def test_a_reader_that_was_not_started_is_not_shown_and_one_that_ended_is(scene: Scene) -> None:
    scene.first.was_started = False
    scene.second.has_ended = True
    scene.pass_time(7, scene.second)
    assert scene.states() == {"reader-2": ("ended", 7)}


# --- interrupted --------------------------------------------------------------------------------


def test_a_signal_handler_may_check_while_its_thread_does_and_nothing_counts_twice() -> None:
    clock = Interrupted()
    scene = Scene(clock)
    scene.pass_time(STALLED_SECONDS - 1, scene.first)
    clock.handler = scene.check
    assert returns(scene.check)
    assert clock.handler is None
    assert scene.stalled() == []
    scene.pass_time(1, scene.first)
    assert scene.stalled() == ["reader-1"]
