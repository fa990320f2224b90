"""A loop that each process starts for itself; metrics/test_stall_detector.py tests it as well."""

from __future__ import annotations

import signal
import threading

import pytest
from helpers import in_a_fork

from shared_sync.common.loop import BackgroundLoop, ReentrantStop

WITHIN = 20  # seconds for what should happen at once


class Steps:
    """Counts the steps, sets an event at the third, and raises the error of the test."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.background = BackgroundLoop("steps", self.step, period_seconds=0.001)
        self.count = 0
        self.third = threading.Event()
        self.thread = threading.current_thread()

    def step(self) -> None:
        self.thread = threading.current_thread()
        self.count += 1
        if self.count == 3:
            self.third.set()
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("error", [ValueError(), SystemExit(), KeyboardInterrupt()])
def test_no_error_of_any_kind_ends_it(error: BaseException) -> None:
    steps = Steps()
    steps.error = error
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
    background = BackgroundLoop("steps", step, period_seconds=3600)
    background.start()
    assert ended.wait(WITHIN)
    threads[0].join(WITHIN)
    assert not threads[0].is_alive()
    assert background.stopped
    assert len(threads) == 1


def test_a_signal_handler_may_stop_what_its_own_thread_waits_for() -> None:
    stop = ReentrantStop()
    before = signal.signal(signal.SIGALRM, lambda _number, _frame: stop.set())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert stop.wait(WITHIN)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_stop_wakes_the_thread_that_waits_for_it() -> None:
    stop = ReentrantStop()
    assert not stop.wait(0.001)
    answers: list[bool] = []
    waiter = threading.Thread(target=lambda: answers.append(stop.wait(3600)))
    waiter.start()
    stop.set()
    waiter.join(WITHIN)
    assert not waiter.is_alive()
    assert answers == [True]
    assert stop.wait(3600)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_stop_is_not_forgotten_in_a_fork_and_one_of_a_fork_is_its_own() -> None:
    before, after = ReentrantStop(), ReentrantStop()
    before.set()

    def check_the_child() -> list[bool]:
        after.set()
        return [before.wait(3600), after.wait(3600)]

    assert in_a_fork(check_the_child) == [True, True]
    assert not after.is_set()
