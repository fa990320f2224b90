"""Each process has an object of its own."""

from __future__ import annotations

import threading

import pytest
from helpers import in_a_fork

from shared_sync.common.fork import PerProcess

WITHIN = 20  # seconds for what should happen at once


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_each_process_has_one_of_its_own() -> None:
    own = PerProcess(object)
    first = own.get()
    assert own.get() is first

    def look_in_the_child() -> None:
        second = own.get()
        assert second is not first
        assert own.get() is second

    in_a_fork(look_in_the_child)
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
