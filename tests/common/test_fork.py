"""Each process has an object of its own, and renews what its parent may have locked."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
from helpers import in_a_fork

from shared_sync.common.fork import PerProcess, renew_in_forks

WITHIN = 20  # seconds for what should happen at once


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_each_process_has_one_of_its_own() -> None:
    own = PerProcess(object)
    first = own.get()
    assert own.get() is first

    def check_the_child() -> None:
        second = own.get()
        assert second is not first
        assert own.get() is second

    in_a_fork(check_the_child)
    assert own.get() is first


def test_threads_that_come_first_together_get_the_same_one() -> None:
    all_made = threading.Barrier(8)

    def make() -> object:
        all_made.wait(WITHIN)  # so all of them have found none
        return object()

    own = PerProcess(make)
    seen: list[object] = []
    threads = [threading.Thread(target=lambda: seen.append(own.get())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WITHIN)
    assert len(seen) == 8
    assert len(set(seen)) == 1


class Locked:
    """Counts how often it was renewed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.renewed = 0
        renew_in_forks(self, Locked.renew)

    def renew(self) -> None:
        self.lock = threading.Lock()
        self.renewed += 1


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_lock_that_was_held_at_the_fork_is_free_in_the_child_only() -> None:
    locked = Locked()

    def check_the_child() -> list[int]:
        assert locked.lock.acquire(timeout=WITHIN)
        return [locked.renewed]

    with locked.lock:
        assert in_a_fork(check_the_child) == [1]
    assert locked.renewed == 0


def test_an_object_that_renews_itself_is_not_kept_alive() -> None:
    locked = Locked()
    gone = weakref.ref(locked)
    del locked
    gc.collect()
    assert gone() is None
