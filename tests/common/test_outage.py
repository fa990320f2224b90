"""An outage is to be logged when it begins, when its cause changes, and when it ends."""

from __future__ import annotations

import threading

import pytest
from helpers import Clock, Interrupted, returns

from shared_sync.common.outage import Outage


@pytest.fixture
def outage(clock: Clock) -> Outage:
    return Outage(clock)


def test_only_the_first_failure_begins_an_outage(outage: Outage) -> None:
    assert outage.begins("refused")
    assert not outage.begins("refused")
    assert not outage.begins("refused")


def test_a_new_cause_is_logged_too_and_the_same_outage_goes_on(
    outage: Outage, clock: Clock
) -> None:
    outage.begins("refused")
    clock.now += 2
    assert outage.begins("timeout")
    assert not outage.begins("timeout")
    clock.now += 3
    assert outage.begins("refused")
    assert outage.ends() == 5.0


def test_only_an_outage_ends_and_once(outage: Outage, clock: Clock) -> None:
    assert outage.ends() is None
    outage.begins()
    clock.now += 1.5
    assert outage.ends() == 1.5
    assert outage.ends() is None


def test_after_the_end_the_next_failure_begins_a_new_outage(outage: Outage, clock: Clock) -> None:
    outage.begins("refused")
    clock.now += 10
    outage.ends()
    assert outage.begins("refused")
    clock.now += 1
    assert outage.ends() == 1.0


def test_of_eight_threads_that_fail_together_one_logs(outage: Outage) -> None:
    together = threading.Barrier(8)
    begun: list[bool] = []

    def fail() -> None:
        together.wait(10)
        begun.append(outage.begins("refused"))

    threads = [threading.Thread(target=fail) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(begun) == [False] * 7 + [True]


def test_a_signal_handler_may_fail_while_its_own_thread_fails() -> None:
    clock = Interrupted()
    outage = Outage(clock)
    clock.handler = lambda: outage.begins("in the handler")
    assert returns(lambda: outage.begins("refused"))


def test_an_outage_may_have_begun_earlier_than_it_was_noticed(outage: Outage, clock: Clock) -> None:
    assert outage.begins("hangs", since=clock.now - 6.0)
    assert not outage.begins("hangs", since=clock.now)
    clock.now += 4.0
    assert outage.ends() == 10.0
