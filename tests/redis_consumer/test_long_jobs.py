"""What waits behind a long job is handed back, and a job past its deadline is given to others."""

from __future__ import annotations

import logging
import math
import threading

import pytest
from deliveries import Deliveries
from helpers import Clock, Gate
from outboxes import Sender, settled
from protocol_client import KEYS
from readers import add_slot, start, waiting

from shared_sync.protocol.messages import Park
from shared_sync.redis_consumer.faults.pauses import Pauses
from shared_sync.redis_consumer.in_flight import InFlight
from shared_sync.redis_consumer.running_jobs import RunningJobs
from shared_sync.redis_consumer.slot import Slot
from shared_sync.redis_consumer.timeouts import LONGEST_WAIT_SECONDS, Timeouts


class Scene:
    """A reader that runs a job with two messages behind it, and the checks of its heartbeat
    thread."""

    def __init__(self, clock: Clock, deadline_seconds: float = math.inf) -> None:
        self.clock = clock
        self.in_flight = InFlight()
        self.pauses = Pauses(logger=logging.getLogger("tests.long_jobs"), clock=clock)
        self.sender = Sender()
        self.in_flight.add_outbox(KEYS, self.sender.outbox.ids)
        self.slot = add_slot(self.in_flight, "r1", "1-0", "2-0", "3-0")
        self.deliveries = Deliveries(lambda *_: None)
        self.timeouts = Timeouts(
            running_jobs=RunningJobs(self.in_flight, clock=clock),
            in_flight=self.in_flight,
            pauses=self.pauses,
            source=KEYS,
            outbox=self.sender.outbox,
            delivery=self.deliveries.delivery,
            job_deadline_seconds=deadline_seconds,
        )
        start(self.slot, clock.now)

    def check_after(self, seconds: float) -> None:
        """Let time pass, in steps as between two heartbeats, and check after each."""
        while seconds > 0:
            step = min(seconds, 2.0)
            self.clock.now += step
            seconds -= step
            self.timeouts.check()


def test_what_waits_behind_a_job_that_takes_long_is_handed_back_and_the_job_goes_on(
    clock: Clock,
) -> None:
    scene = Scene(clock)
    scene.check_after(0.9 * LONGEST_WAIT_SECONDS)
    assert waiting(scene.slot) == ["2-0", "3-0"]
    scene.check_after(0.1 * LONGEST_WAIT_SECONDS)
    assert waiting(scene.slot) == []
    assert scene.in_flight.ids(KEYS) == {"1-0", "2-0", "3-0"}, "until Redis has them back"
    scene.check_after(3600)
    scene.sender.reply([2, 0])
    scene.sender.outbox.flush()
    assert scene.sender.connection.names() == [["hand_back"]]
    assert scene.sender.connection.sent[0][0][-2:] == ("2-0", "3-0")
    assert scene.in_flight.ids(KEYS) == {"1-0"}


def test_while_no_messages_are_taken_what_waits_behind_a_job_is_handed_back_at_once(
    clock: Clock,
) -> None:
    scene = Scene(clock)
    scene.pauses.hold("test", "it is a test")
    scene.timeouts.check()
    assert waiting(scene.slot) == []
    scene.sender.reply([2, 0])
    scene.sender.outbox.flush()
    assert scene.sender.connection.sent[0][0][-2:] == ("2-0", "3-0")
    assert scene.in_flight.ids(KEYS) == {"1-0"}


def test_the_age_of_the_job_counts_and_not_how_long_others_have_waited(clock: Clock) -> None:
    scene = Scene(clock)
    scene.check_after(0.9 * LONGEST_WAIT_SECONDS)
    start(scene.slot, clock.now)
    scene.check_after(0.9 * LONGEST_WAIT_SECONDS)
    assert waiting(scene.slot) == ["3-0"]


def test_a_job_past_its_deadline_fails_once_and_what_waits_behind_it_goes_back(
    clock: Clock,
) -> None:
    scene = Scene(clock, deadline_seconds=0.5)
    scene.check_after(0.25)
    assert scene.sender.outbox.ids() == []
    scene.check_after(0.25)
    assert scene.sender.outbox.ids() == ["1-0", "2-0", "3-0"]
    (outcome,) = scene.sender.outbox._outcomes
    assert isinstance(outcome, Park)
    scene.check_after(10)
    assert scene.sender.outbox.ids() == ["1-0", "2-0", "3-0"], "it is given up on once"
    scene.sender.reply(settled(1), [2, 0])
    scene.sender.outbox.flush()
    assert scene.sender.connection.names() == [["park", "hand_back"]]
    assert scene.in_flight.ids(KEYS) == {"1-0"}, "its reader is stuck with it, so others take it"


@pytest.mark.parametrize(("deadline", "interval"), [(0.4, 0.1), (8.0, 2.0), (math.inf, math.inf)])
def test_a_deadline_is_checked_several_times(
    clock: Clock, deadline: float, interval: float
) -> None:
    assert Scene(clock, deadline).timeouts.interval_seconds == interval


def test_the_failure_shows_where_the_thread_of_the_job_is(
    clock: Clock, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(clock, deadline_seconds=0.4)

    def hang_here(slot: Slot) -> None:
        slot.belongs_here()
        gate()

    thread = threading.Thread(target=hang_here, args=(scene.slot,))
    thread.start()
    assert gate.entered.wait(10)
    scene.check_after(0.4)
    gate.opened.set()
    thread.join(10)
    assert "in hang_here" in caplog.text
    assert "message 1-0 is still running after 0.4 s" in caplog.text
