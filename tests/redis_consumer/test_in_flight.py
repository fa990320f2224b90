"""A message is in one place at a time, from fetching to settling, and every place is looked at."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from helpers import returns
from protocol_client import KEYS
from readers import add_slot, entries, start, suspect, waiting

from shared_sync.protocol.keys import Keys
from shared_sync.protocol.messages import Read
from shared_sync.redis_consumer.in_flight import STEAL_AFTER_SECONDS, InFlight
from shared_sync.redis_consumer.slot import Slot

OTHER = Keys.of("jobs", "archive")


@pytest.fixture
def in_flight() -> InFlight:
    return InFlight()


# --- fetching ---------------------------------------------------------------------------------


def test_what_a_read_brings_waits_in_the_slot_of_its_reader_alone(in_flight: InFlight) -> None:
    first, second = add_slot(in_flight, "r1"), add_slot(in_flight, "r2")
    in_flight.admit_read(first, KEYS, entries("1-0", "2-0"), in_flight.newest(KEYS))
    assert waiting(first) == ["1-0", "2-0"]
    assert waiting(second) == []
    assert in_flight.newest(KEYS) == (2, 0)


def test_a_read_that_brought_nothing_changes_nothing(in_flight: InFlight) -> None:
    slot = add_slot(in_flight, "r1")
    in_flight.admit_read(slot, KEYS, entries("5-1"), in_flight.newest(KEYS))
    in_flight.admit_read(slot, KEYS, [], in_flight.newest(KEYS))
    assert in_flight.newest(KEYS) == (5, 1)
    assert waiting(slot) == ["5-1"]


def test_a_reply_that_comes_late_does_not_make_the_newest_id_older(in_flight: InFlight) -> None:
    slow, quick = add_slot(in_flight, "r1"), add_slot(in_flight, "r2")
    before = in_flight.newest(KEYS)
    in_flight.admit_read(quick, KEYS, entries("10-0"), before)
    in_flight.admit_read(slow, KEYS, entries("9-0"), before)
    assert in_flight.newest(KEYS) == (10, 0)
    assert waiting(slow) == ["9-0"]


def test_what_a_group_that_was_lost_delivers_anew_is_left_to_who_has_it(
    in_flight: InFlight,
) -> None:
    """Also with ids of which the older is not the smaller text."""
    first, second = add_slot(in_flight, "r1"), add_slot(in_flight, "r2")
    in_flight.admit_read(first, KEYS, entries("9-0", "10-0"), in_flight.newest(KEYS))
    start(first)
    in_flight.admit_read(second, KEYS, entries("9-0", "10-0", "11-0"), in_flight.newest(KEYS))
    assert waiting(second) == ["11-0"]


def test_a_message_that_is_in_flight_is_not_admitted_wherever_it_is(in_flight: InFlight) -> None:
    outbox = ["3-0"]
    first = add_slot(in_flight, "r1", "1-0", "2-0")
    in_flight.add_outbox(KEYS, lambda: outbox)
    in_flight.add_outbox(KEYS, lambda: ["4-0"])
    second = add_slot(in_flight, "r2", "5-0")
    start(first)
    in_flight.admit(second, KEYS, entries("1-0", "2-0", "3-0", "4-0", "5-0", "6-0"))
    assert waiting(second) == ["5-0", "6-0"]
    outbox.clear()
    in_flight.admit(second, KEYS, entries("3-0"))
    assert waiting(second) == ["5-0", "6-0", "3-0"], "what was settled can be fetched again"


def test_all_that_waits_runs_or_is_not_settled_is_in_flight(in_flight: InFlight) -> None:
    slot = add_slot(in_flight, "r1", "1-0", "2-0")
    in_flight.add_outbox(KEYS, lambda: ["3-0"])
    in_flight.add_outbox(KEYS, lambda: ["4-0"])
    add_slot(in_flight, "r2", "5-0")
    start(slot)
    assert in_flight.ids(KEYS) == {"1-0", "2-0", "3-0", "4-0", "5-0"}
    slot.end_attempt()
    assert in_flight.ids(KEYS) == {"2-0", "3-0", "4-0", "5-0"}


def test_messages_of_another_stream_or_group_may_have_the_same_ids(in_flight: InFlight) -> None:
    first, second = add_slot(in_flight, "r1", "1-0", "2-0"), add_slot(in_flight, "r2")
    in_flight.add_outbox(KEYS, lambda: ["3-0"])
    in_flight.add_outbox(OTHER, lambda: ["4-0"])
    in_flight.admit(second, OTHER, entries("1-0", "3-0", "4-0"))
    assert waiting(second) == ["1-0", "3-0"]
    assert in_flight.ids(KEYS) == {"1-0", "2-0", "3-0"}
    assert in_flight.ids(OTHER) == {"1-0", "3-0", "4-0"}
    assert in_flight.withdraw(OTHER) == ["1-0", "3-0"]
    assert waiting(first) == ["1-0", "2-0"]
    in_flight.admit_read(second, OTHER, entries("9-0"), in_flight.newest(OTHER))
    assert (in_flight.newest(OTHER), in_flight.newest(KEYS)) == ((9, 0), (0, 0))


# --- taking from a sibling --------------------------------------------------------------------


def test_an_idle_reader_takes_the_newer_half_of_what_waits_behind_a_long_job(
    in_flight: InFlight,
) -> None:
    busy = add_slot(in_flight, "r1", "1-0", "2-0", "3-0", "4-0", "5-0", "6-0")
    idle = add_slot(in_flight, "r2")
    start(busy, 0.0)
    assert in_flight.take_from_sibling(idle, STEAL_AFTER_SECONDS)
    assert waiting(busy) == ["2-0", "3-0"]
    assert waiting(idle) == ["4-0", "5-0", "6-0"]


def test_a_single_message_behind_a_long_job_is_taken_whatever_stream_it_is_of(
    in_flight: InFlight,
) -> None:
    busy = add_slot(in_flight, "r1", "1-0", "2-0", source=OTHER)
    idle = add_slot(in_flight, "r2")
    start(busy)
    assert in_flight.take_from_sibling(idle, 1.0)
    assert idle.source == OTHER
    assert waiting(busy) == []
    assert waiting(idle) == ["2-0"]


@pytest.mark.parametrize("seconds", [0.0, 0.9 * STEAL_AFTER_SECONDS])
def test_a_job_that_has_just_begun_is_left_its_messages_and_reported(
    in_flight: InFlight, seconds: float
) -> None:
    """It may become a long one, so the idle reader has to look again soon."""
    busy, idle = add_slot(in_flight, "r1", "1-0", "2-0"), add_slot(in_flight, "r2")
    start(busy, 100.0)
    assert in_flight.take_from_sibling(idle, 100.0 + seconds)
    assert waiting(busy) == ["2-0"]
    assert waiting(idle) == []


def test_a_reader_between_two_jobs_is_left_its_messages_and_reported(in_flight: InFlight) -> None:
    add_slot(in_flight, "r1", "1-0")
    idle = add_slot(in_flight, "r2")
    assert in_flight.take_from_sibling(idle, 1.0)
    assert waiting(idle) == []


def test_where_nothing_waits_nothing_is_taken(in_flight: InFlight) -> None:
    busy, idle = add_slot(in_flight, "r1", "1-0"), add_slot(in_flight, "r2")
    start(busy)
    assert not in_flight.take_from_sibling(idle, 1.0)
    assert not in_flight.take_from_sibling(busy, 1.0), "a reader takes nothing from itself"


def test_messages_are_taken_from_the_sibling_that_has_some_to_give(in_flight: InFlight) -> None:
    begun = add_slot(in_flight, "r1", "1-0", "2-0")
    add_slot(in_flight, "r2")
    long = add_slot(in_flight, "r3", "3-0", "4-0")
    idle = add_slot(in_flight, "r4")
    start(begun, 0.99)
    start(long, 0.5)
    assert in_flight.take_from_sibling(idle, 1.0)
    assert waiting(idle) == ["4-0"]


# --- withdrawing ------------------------------------------------------------------------------


def test_withdrawing_takes_what_was_not_started_and_leaves_what_runs(in_flight: InFlight) -> None:
    slot = add_slot(in_flight, "r1", "1-0", "2-0", "3-0")
    attempt = start(slot)
    assert in_flight.withdraw(KEYS, slot) == ["2-0", "3-0"]
    assert slot.attempt is attempt
    assert in_flight.ids(KEYS) == {"1-0"}
    assert slot.start_next(0.0) is None
    assert in_flight.withdraw(KEYS, slot) == []


def test_withdrawing_from_one_reader_leaves_the_others_alone(in_flight: InFlight) -> None:
    first, second = add_slot(in_flight, "r1", "1-0"), add_slot(in_flight, "r2", "2-0")
    assert in_flight.withdraw(KEYS, first) == ["1-0"]
    assert waiting(second) == ["2-0"]


def test_withdrawing_from_all_takes_everything_that_was_not_started(in_flight: InFlight) -> None:
    first = add_slot(in_flight, "r1", "1-0", "2-0")
    add_slot(in_flight, "r2", "3-0")
    start(first)
    assert sorted(in_flight.withdraw(KEYS)) == ["2-0", "3-0"]
    assert in_flight.ids(KEYS) == {"1-0"}


def test_what_arrives_after_closing_can_be_withdrawn(in_flight: InFlight) -> None:
    slot = add_slot(in_flight, "r1", "1-0")
    assert not in_flight.is_closed
    in_flight.close()
    in_flight.admit_read(slot, KEYS, entries("2-0"), in_flight.newest(KEYS))
    assert in_flight.is_closed
    assert in_flight.withdraw(KEYS) == ["1-0", "2-0"]
    assert in_flight.ids(KEYS) == set()


# --- suspects ---------------------------------------------------------------------------------


def test_suspects_are_the_unsettled_messages_that_have_a_crash_behind_them(
    in_flight: InFlight,
) -> None:
    first, second = add_slot(in_flight, "r1"), add_slot(in_flight, "r2", "3-0")
    failed = suspect("4-0")
    failed.history = b"{}\n"
    runs, waits = suspect("1-0", 1, Read(b"dead", 1000)), suspect("2-0", 2)
    first.waiting.extend([runs])
    second.waiting.extend([waits, failed])
    start(first)
    assert in_flight.suspects() == [runs, waits]
    first.end_attempt()
    in_flight.withdraw(KEYS, second)
    assert in_flight.suspects() == []
    first.unsettled_suspects.append(runs)
    assert in_flight.suspects() == [runs], "until Redis has confirmed what became of it"


# --- all at once ------------------------------------------------------------------------------


def test_eight_readers_that_admit_the_same_messages_start_each_of_them_once() -> None:
    in_flight = InFlight()
    together = threading.Barrier(8)
    started: list[str] = []
    readers = [(Slot(f"r{number}"), deque[str]()) for number in range(8)]
    for slot, settling in readers:
        in_flight.add_slot(slot)
        in_flight.add_outbox(KEYS, settling.copy)

    def read(slot: Slot, settling: deque[str]) -> None:
        together.wait(10)
        for number in range(200):
            in_flight.admit(slot, KEYS, entries(f"{number}-0"))
            while (attempt := slot.start_next(0.0)) is not None:
                started.append(attempt.entries[0].id)
                settling.append(attempt.entries[0].id)
                slot.end_attempt()

    run_together(*[partial(read, *reader) for reader in readers])
    assert sorted(started) == sorted(f"{number}-0" for number in range(200))
    assert len(in_flight.ids(KEYS)) == 200


@pytest.fixture
def _switch_often() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_switch_often")
def test_a_message_starts_once_or_goes_back_once_and_is_listed_all_the_time() -> None:
    """Readers fetch, run and take from siblings while others hand back and list what is there.

    A message that is listed nowhere while nobody has settled it would be taken over and run
    beside itself.
    """
    crowd = Crowd()
    beside = [threading.Thread(target=act) for act in (crowd.hand_back, crowd.list_all)]
    for thread in beside:
        thread.start()
    run_together(*[partial(crowd.read, number) for number in range(READERS)])
    crowd.is_over.set()
    for thread in beside:
        thread.join(60)
    assert crowd.overlooked == []
    assert Counter(crowd.ended) == Counter(crowd.fetched)
    assert crowd.has_done_enough
    assert crowd.in_flight.ids(KEYS) == set()


READERS = 8
BATCH = 20
ENOUGH = 3000
MOST_BATCHES = 20_000


class Crowd:
    """Eight readers, and the books on what becomes of every message."""

    def __init__(self) -> None:
        self.in_flight = InFlight()
        self.slots = [Slot(f"r{number}") for number in range(READERS)]
        self.outboxes = [deque[str]() for _ in self.slots]
        self.returning = deque[str]()
        for slot, outbox in zip(self.slots, self.outboxes, strict=True):
            self.in_flight.add_slot(slot)
            self.in_flight.add_outbox(KEYS, outbox.copy)
        self.in_flight.add_outbox(KEYS, self.returning.copy)
        self.is_over = threading.Event()
        # What is done to each of these is one step for every thread.
        self.unsettled: dict[str, None] = {}
        self.fetched: set[str] = set()
        self.ended: list[str] = []
        self.overlooked: list[str] = []
        # Each has one writer.
        self.listings = 0
        self.handed_back = 0
        self.taken_from_siblings = 0

    @property
    def has_done_enough(self) -> bool:
        """Whether all that the test is about has happened often."""
        return min(self.listings, self.handed_back, self.taken_from_siblings) >= ENOUGH

    def read(self, number: int) -> None:
        slot, batches = self.slots[number], 0
        while batches < MOST_BATCHES and not self.has_done_enough:
            batches += 1
            ids = [f"{number + 1}-{batches * BATCH + n}" for n in range(BATCH)]
            self.unsettled.update(dict.fromkeys(ids))
            self.in_flight.admit_read(slot, KEYS, entries(*ids), (0, 0))
            self.fetched.update(ids)
            self._run_all(number)
            if self.in_flight.take_from_sibling(slot, 1.0) and slot.waiting:
                self.taken_from_siblings += 1
            self._run_all(number)

    def _run_all(self, number: int) -> None:
        slot, outbox = self.slots[number], self.outboxes[number]
        while (attempt := slot.start_next(0.0)) is not None:
            time.sleep(0)  # let other threads run
            outbox.append(attempt.entries[0].id)
            slot.end_attempt()
            if len(outbox) == 5:
                self._settle(outbox)
        self._settle(outbox)

    def _settle(self, outbox: deque[str]) -> None:
        for one in outbox.copy():
            self.ended.append(one)
            self.unsettled.pop(one, None)
        outbox.clear()

    def hand_back(self) -> None:
        number = 0
        while not self.is_over.is_set():
            number = (number + 1) % READERS
            self.in_flight.withdraw(KEYS, self.slots[number], into=self.returning.extend)
            self.handed_back += len(self.returning)
            self._settle(self.returning)

    def list_all(self) -> None:
        while not self.is_over.is_set():
            unsettled = [one for one in list(self.unsettled) if one in self.fetched]
            listed = self.in_flight.ids(KEYS)
            missing = [one for one in unsettled if one not in listed]
            self.overlooked += [one for one in missing if one in self.unsettled]
            self.listings += 1


def run_together(*acts: Callable[[], None]) -> None:
    """Run them in threads of their own, and wait for their ends."""
    failed: list[BaseException] = []

    def run(act: Callable[[], None]) -> None:
        try:
            act()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert not any(thread.is_alive() for thread in threads)


def test_a_signal_handler_may_stop_the_consumer_while_its_thread_lists_what_is_there(
    in_flight: InFlight,
) -> None:
    withdrawn: list[str] = []

    def interrupted() -> list[str]:
        in_flight.close()
        withdrawn.extend(in_flight.withdraw(KEYS))
        return []

    in_flight.add_outbox(KEYS, interrupted)
    add_slot(in_flight, "r1", "1-0")
    assert returns(partial(in_flight.ids, KEYS))
    assert withdrawn == ["1-0"]
