"""Functions called in the background: on their period, when requested, and when they hang."""

from __future__ import annotations

import ctypes
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from time import monotonic
from typing import Any

import pytest
from helpers import Clock, Gate, eventually, in_a_fork

from shared_sync.common.poller import OVERDUE_SECONDS, Poller, text_of

LOGGER = logging.getLogger("poller")
LIMIT = 10.0

Make = Callable[..., Poller[Any]]


class Log:
    """Remembers how the calls went; a hang is written by a function, as the poller wants it."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def failed(self, error: BaseException) -> None:
        self.lines.append(text_of(error))

    def succeeded(self) -> None:
        self.lines.append("succeeded")

    def hung(self, timeout_seconds: float) -> Callable[[], None]:
        return partial(self.lines.append, f"hung for {timeout_seconds:g} s")


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def make(clock: Clock, log: Log) -> Iterator[Make]:
    made: list[Poller[Any]] = []

    def make_one(function: Callable[[], Any], *, start: bool = True, **options: Any) -> Poller[Any]:
        options = {"period_seconds": None, "timeout_seconds": 2.0, "log": log, **options}
        poller: Poller[Any] = Poller("weather", function, clock=clock, **options)
        if start:
            poller.start()
        made.append(poller)
        return poller

    yield make_one
    for poller in made:
        poller.stop()
        eventually(lambda: threads() == set())
        assert poller.stopped


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "weather"}


class Sequence:
    """Returns 1, 2, 3, ... or raises `error`."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: BaseException | None = None

    def __call__(self) -> int:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return self.calls


# --- when it calls ----------------------------------------------------------------------------


def test_on_a_period_it_calls_at_once_and_again_and_again(make: Make) -> None:
    sequence = Sequence()
    poller = make(sequence, period_seconds=0.001)
    eventually(lambda: sequence.calls > 5)
    assert poller.result.value > 0


def test_without_a_period_it_calls_only_when_requested(make: Make) -> None:
    sequence = Sequence()
    poller = make(sequence)
    assert poller.result.ended_at is None
    assert poller.refresh(LIMIT) == (poller.result, True)
    assert (sequence.calls, poller.result.value) == (1, 1)
    assert poller.refresh(LIMIT)[0].value == 2


def test_a_request_during_a_call_gets_the_next_call(make: Make) -> None:
    gate = Gate("late")
    poller = make(gate)
    first = poller.request()
    assert gate.entered.wait(LIMIT)
    second = poller.request()
    gate.opened.set()
    eventually(lambda: poller.has_answered(second))
    assert poller.has_answered(first)
    assert gate.calls == 2


def test_all_requests_before_a_call_share_it(make: Make) -> None:
    gate = Gate("late")
    poller = make(gate)
    poller.request()
    assert gate.entered.wait(LIMIT)
    tickets = [poller.request() for _ in range(10)]
    gate.opened.set()
    eventually(lambda: all(map(poller.has_answered, tickets)))
    assert gate.calls == 2


def test_nobody_waits_longer_than_they_want(make: Make) -> None:
    gate = Gate()
    poller = make(gate)
    assert poller.refresh(0.01)[1] is False
    result, is_new = poller.refresh(0.0)
    assert is_new is False
    assert result.running_since is not None
    gate.opened.set()


def test_before_the_start_there_is_no_result_and_no_thread(make: Make) -> None:
    poller = make(Sequence(), start=False, period_seconds=0.001)
    assert poller.result.value is None
    assert poller.result.ended_at is None
    assert poller.join(0.0)
    assert threads() == set()


# --- calls that hang --------------------------------------------------------------------------


def test_a_call_hangs_from_its_limit_until_it_returns(make: Make, clock: Clock, log: Log) -> None:
    gate = Gate("here")
    poller = make(gate, timeout_seconds=2.0)
    poller.request()
    assert gate.entered.wait(LIMIT)
    clock.now += 2.0
    assert not poller.check_overdue().hangs
    assert not poller.result.hangs
    clock.now += 0.1
    assert poller.check_overdue().hangs
    assert poller.check_overdue().hangs
    assert poller.result.hangs
    eventually(lambda: log.lines)
    gate.opened.set()
    eventually(lambda: not poller.result.hangs)
    assert poller.result.value == "here"
    eventually(lambda: log.lines == ["hung for 2 s", "succeeded"])


def test_a_hang_shows_also_where_nobody_watches(make: Make, clock: Clock) -> None:
    gate = Gate("here")
    poller = make(gate, timeout_seconds=2.0)
    poller.request()
    assert gate.entered.wait(LIMIT)
    clock.now += 2.1
    assert poller.result.hangs
    gate.opened.set()


def test_while_one_call_hangs_no_other_is_made(make: Make, clock: Clock) -> None:
    gate = Gate()
    poller = make(gate, period_seconds=0.001)
    assert gate.entered.wait(LIMIT)
    clock.now += 5.0
    poller.check_overdue()
    assert poller.refresh(0.01)[1] is False
    assert gate.calls == 1
    gate.opened.set()


def test_whoever_waits_for_a_call_that_begins_to_hang_waits_no_longer(
    make: Make, clock: Clock
) -> None:
    gate = Gate()
    poller = make(gate)
    waiting = threading.Thread(target=poller.refresh, args=(LIMIT * 6,), daemon=True)
    waiting.start()
    assert gate.entered.wait(LIMIT)
    clock.now += 2.1
    poller.check_overdue()
    waiting.join(LIMIT)
    assert not waiting.is_alive()
    gate.opened.set()


def test_a_due_call_that_does_not_begin_hangs(make: Make, clock: Clock) -> None:
    """As where its thread is gone, whatever has ended it."""
    poller = make(dict, period_seconds=60.0)
    eventually(lambda: poller.result.ended_at is not None)
    clock.now += 60.0 + 2.0 + OVERDUE_SECONDS
    assert not poller.check_overdue().hangs
    clock.now += 0.1
    assert poller.check_overdue().hangs
    assert poller.refresh(LIMIT)[1]
    assert not poller.result.hangs


def test_a_log_that_blocks_holds_up_neither_the_watcher_nor_readers(
    make: Make, clock: Clock
) -> None:
    class BlockingLog(Log):
        gate = Gate()

        def hung(self, timeout_seconds: float) -> Callable[[], None]:
            return self.gate

    gate = Gate()
    poller = make(gate, log=BlockingLog())
    poller.request()
    assert gate.entered.wait(LIMIT)
    clock.now += 2.1
    assert poller.check_overdue().hangs
    assert BlockingLog.gate.entered.wait(LIMIT)
    assert poller.check_overdue().hangs
    assert BlockingLog.gate.calls == 1
    BlockingLog.gate.opened.set()
    gate.opened.set()


# --- calls that fail --------------------------------------------------------------------------


def test_an_error_is_kept_as_text_and_reported_to_the_log(make: Make, log: Log) -> None:
    sequence = Sequence()
    poller = make(sequence)
    for error in (ValueError("no rain 1"), OSError("no rain 2"), None):
        sequence.error = error
        result, is_new = poller.refresh(LIMIT)
        assert is_new
        assert result.error == (None if error is None else f"{type(error).__name__}: {error}")
        assert (result.value is None) == (error is not None)
    assert log.lines == ["ValueError: no rain 1", "OSError: no rain 2", "succeeded"]
    assert poller.result.failures == 2


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_nothing_that_is_raised_ends_the_thread(make: Make, error: BaseException) -> None:
    sequence = Sequence()
    sequence.error = error
    poller = make(sequence)
    assert str(poller.refresh(LIMIT)[0].error).startswith(type(error).__name__)
    sequence.error = None
    assert poller.refresh(LIMIT)[0].value == 2


def test_a_broken_log_costs_no_call(make: Make) -> None:
    class BrokenLog(Log):
        def succeeded(self) -> None:
            raise SystemExit

    sequence = Sequence()
    poller = make(sequence, log=BrokenLog())
    assert poller.refresh(LIMIT)[0].value == 1
    assert poller.refresh(LIMIT)[0].value == 2
    assert sequence.calls == 2


def test_a_hang_counts_as_a_failure_once_and_an_error_at_its_end_as_another(
    make: Make, clock: Clock
) -> None:
    gate = Gate()

    def fail_late() -> None:
        gate()
        raise OSError

    poller = make(fail_late)
    poller.request()
    assert gate.entered.wait(LIMIT)
    assert poller.result.failures == 0
    clock.now += 2.1
    assert poller.result.failures == 1
    gate.opened.set()
    eventually(lambda: poller.result.failures == 2)
    assert poller.result.error == "OSError"


def test_a_hang_counts_also_where_nobody_looked_meanwhile(make: Make, clock: Clock) -> None:
    def last_long() -> None:
        clock.now += 2.1

    poller = make(last_long, start=False)
    poller.poll_once()
    assert poller.result.failures == 1
    assert not poller.result.hangs


def test_an_error_thrown_into_the_waiting_thread_does_not_end_it(make: Make) -> None:
    poller = make(Sequence())
    assert poller.refresh(LIMIT)[0].value == 1
    (thread,) = threads()
    thrown = ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident or 0), ctypes.py_object(MemoryError)
    )
    assert thrown == 1
    eventually(lambda: poller.refresh(0.1)[1])
    assert thread.is_alive()


# --- its life ---------------------------------------------------------------------------------


def test_it_is_started_once(make: Make) -> None:
    poller = make(Sequence(), period_seconds=0.001)
    poller.start()
    poller.start()
    assert len(threads()) == 1


def test_stopping_lets_those_who_wait_go(make: Make) -> None:
    gate = Gate()
    poller = make(gate)
    waiting = threading.Thread(target=poller.refresh, args=(LIMIT * 6,), daemon=True)
    waiting.start()
    assert gate.entered.wait(LIMIT)
    poller.stop()
    waiting.join(LIMIT)
    assert not waiting.is_alive()
    assert not poller.join(0.0)
    gate.opened.set()
    assert poller.join(monotonic() + LIMIT)


def test_a_poller_that_was_stopped_never_starts(make: Make) -> None:
    sequence = Sequence()
    poller = make(sequence, start=False, period_seconds=0.001)
    poller.stop()
    poller.start()
    assert threads() == set()
    assert sequence.calls == 0


def test_a_poller_that_is_joined_by_its_own_thread_does_not_wait(make: Make) -> None:
    joined: list[bool] = []
    poller = make(lambda: joined.append(poller.join(monotonic() + LIMIT) or poller.runs_here()))
    assert poller.refresh(LIMIT)[1]
    assert joined == [True]
    assert not poller.runs_here()


def test_an_owner_that_stops_it_on_its_end_is_not_kept_alive(make: Make) -> None:
    class Owner:
        def __init__(self, poller: Poller[Any]) -> None:
            weakref.finalize(self, poller.stop)

    owner = Owner(make(Sequence(), period_seconds=3600))
    (thread,) = threads()
    del owner
    thread.join(LIMIT)
    assert not thread.is_alive()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_begins_anew_although_its_parents_call_hangs(make: Make, clock: Clock) -> None:
    gate = Gate("figures")
    poller = make(gate, period_seconds=3600)
    assert gate.entered.wait(LIMIT)
    clock.now += 2.1
    assert poller.result.failures == 1

    def live_in_the_child() -> None:
        assert poller.result.failures == 0
        gate.opened = threading.Event()
        gate.opened.set()
        poller.start()
        eventually(lambda: poller.result.value == "figures")

    in_a_fork(live_in_the_child)
    assert poller.result.hangs
    gate.opened.set()
