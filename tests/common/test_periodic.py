"""Steps that raise, stop themselves or wait; starting and forking are tested with the ticker."""

from __future__ import annotations

import threading

import pytest
from helpers import in_a_fork

from shared_sync.common.fork import PerProcess
from shared_sync.common.periodic import Background

WITHIN = 20  # seconds for what should be there at once


class Steps:
    """Counts the steps, says so at the third, and ends each as the test says."""

    def __init__(self) -> None:
        self.trouble: BaseException | None = None
        self.background = Background("steps", self.step, period_seconds=0.001)
        self.count = 0
        self.third = threading.Event()
        self.thread = threading.current_thread()

    def step(self) -> None:
        self.thread = threading.current_thread()
        self.count += 1
        if self.count == 3:
            self.third.set()
        if self.trouble is not None:
            raise self.trouble


@pytest.mark.parametrize("error", [ValueError(), SystemExit(), KeyboardInterrupt()])
def test_no_error_of_any_kind_ends_it(error: BaseException) -> None:
    steps = Steps()
    steps.trouble = error
    steps.background.start()
    assert steps.third.wait(WITHIN)
    steps.background.stop()
    steps.thread.join(WITHIN)
    assert not steps.thread.is_alive()


def test_a_step_may_stop_it() -> None:
    ended = threading.Event()

    def step() -> None:
        background.stop()
        threads.append(threading.current_thread())
        ended.set()

    threads: list[threading.Thread] = []
    background = Background("steps", step, period_seconds=3600)
    background.start()
    assert ended.wait(WITHIN)
    threads[0].join(WITHIN)
    assert not threads[0].is_alive()
    assert background.stopped
    assert len(threads) == 1


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
