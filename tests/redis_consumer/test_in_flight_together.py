"""Whoever works at the same time: a message starts once, and is in flight until it is settled."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from protocol_client import KEYS
from readers import entries

from shared_sync.redis_consumer.in_flight import InFlight
from shared_sync.redis_consumer.slot import Slot


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
