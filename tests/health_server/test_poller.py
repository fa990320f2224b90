"""Functions called from background threads: on their period, when asked, and when they hang."""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers import Clock, Gate, eventually

from shared_sync.health_server.poller import OVERDUE_SECONDS, Caller

LOGGER = logging.getLogger("caller")
LIMIT = 10.0

Make = Callable[..., Caller[Any]]


@pytest.fixture
def patient() -> Clock:
    return Clock()


@pytest.fixture
def make(patient: Clock) -> Iterator[Make]:
    made: list[Caller[Any]] = []

    def start(function: Callable[[], Any], **options: Any) -> Caller[Any]:
        options = {"period_seconds": None, "timeout_seconds": 2.0, **options}
        convert = options.pop("convert", lambda returned: returned)
        caller: Caller[Any] = Caller(
            "weather", function, convert, patient=patient, logger=LOGGER, **options
        )
        caller.start()
        made.append(caller)
        return caller

    yield start
    for caller in made:
        caller.stop()
        caller.thread.join(LIMIT)
        assert not caller.thread.is_alive()


class Sequence:
    """Returns 1, 2, 3, ... or raises what it is told to."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: BaseException | None = None

    def __call__(self) -> int:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return self.calls


def test_on_a_period_it_is_called_at_once_and_again_and_again(make: Make) -> None:
    sequence = Sequence()
    caller = make(sequence, period_seconds=0.001)
    eventually(lambda: sequence.calls > 5)
    assert caller.last.value > 0


def test_without_a_period_it_is_called_only_when_asked(make: Make) -> None:
    sequence = Sequence()
    caller = make(sequence)
    assert caller.last.ended_at is None
    assert caller.fresh(LIMIT) == (caller.last, True)
    assert (sequence.calls, caller.last.value) == (1, 1)
    assert caller.fresh(LIMIT)[0].value == 2


def test_who_asks_during_a_call_gets_the_next_one(make: Make) -> None:
    gate = Gate("late")
    caller = make(gate)
    first = caller.ask()
    assert gate.entered.wait(LIMIT)
    second = caller.ask()
    gate.opened.set()
    eventually(lambda: caller.has_served(second))
    assert caller.has_served(first)
    assert gate.calls == 2


def test_all_who_ask_before_a_call_share_it(make: Make) -> None:
    gate = Gate("late")
    caller = make(gate)
    caller.ask()
    assert gate.entered.wait(LIMIT)
    tickets = [caller.ask() for _ in range(10)]
    gate.opened.set()
    eventually(lambda: all(map(caller.has_served, tickets)))
    assert gate.calls == 2


def test_nobody_waits_longer_than_they_want(make: Make) -> None:
    gate = Gate()
    caller = make(gate)
    assert caller.fresh(0.01)[1] is False
    last, fresh = caller.fresh(0.0)
    assert fresh is False
    assert last.running_since is not None
    gate.opened.set()


def test_a_call_hangs_from_its_limit_until_it_returns(
    make: Make, patient: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    gate = Gate("here")
    caller = make(gate, timeout_seconds=2.0)
    caller.ask()
    assert gate.entered.wait(LIMIT)
    patient.now += 2.0
    caller.look()
    assert not caller.last.hangs
    patient.now += 0.1
    caller.look()
    caller.look()
    assert caller.last.hangs
    eventually(lambda: caplog.records)
    assert [record.getMessage() for record in caplog.records] == [
        "weather has not returned within 2 s; what depends on it is answered as unhealthy until "
        "it does"
    ]
    gate.opened.set()
    eventually(lambda: not caller.last.hangs)
    assert caller.last.value == "here"
    assert "weather recovered after" in caplog.text


def test_while_one_call_hangs_no_other_is_made(make: Make, patient: Clock) -> None:
    gate = Gate()
    caller = make(gate, period_seconds=0.001)
    assert gate.entered.wait(LIMIT)
    patient.now += 5.0
    caller.look()
    assert caller.fresh(0.01)[1] is False
    assert gate.calls == 1
    gate.opened.set()


def test_an_error_is_kept_as_text_and_told_once_until_it_changes(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    sequence = Sequence()
    caller = make(sequence)
    for error in (ValueError("no rain 1"), ValueError("no rain 2"), OSError("no rain 2"), None):
        sequence.error = error
        last, fresh = caller.fresh(LIMIT)
        assert fresh
        assert last.error == (None if error is None else f"{type(error).__name__}: {error}")
        assert (last.value is None) == (error is not None)
    told = [(record.levelname, bool(record.exc_info)) for record in caplog.records]
    assert told == [("ERROR", True), ("ERROR", True), ("INFO", False)]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_nothing_that_is_raised_ends_the_thread(make: Make, error: BaseException) -> None:
    sequence = Sequence()
    sequence.error = error
    caller = make(sequence)
    assert str(caller.fresh(LIMIT)[0].error).startswith(type(error).__name__)
    sequence.error = None
    assert caller.fresh(LIMIT)[0].value == 2


def test_what_cannot_be_converted_is_the_functions_error(make: Make) -> None:
    caller = make(lambda: "many", convert=int)
    assert str(caller.fresh(LIMIT)[0].error).startswith("ValueError")


def test_stopping_lets_those_who_wait_go(make: Make) -> None:
    gate = Gate()
    caller = make(gate)
    waiting = threading.Thread(target=caller.fresh, args=(LIMIT * 6,), daemon=True)
    waiting.start()
    assert gate.entered.wait(LIMIT)
    caller.stop()
    waiting.join(LIMIT)
    assert not waiting.is_alive()
    gate.opened.set()


def test_one_that_is_due_and_does_not_come_hangs(make: Make, patient: Clock) -> None:
    """As where its thread is gone, whatever has ended it."""
    caller = make(dict, period_seconds=60.0)
    eventually(lambda: caller.last.ended_at is not None)
    patient.now += 60.0 + 2.0 + OVERDUE_SECONDS
    caller.look()
    assert not caller.last.hangs
    patient.now += 0.1
    caller.look()
    assert caller.last.hangs
    assert caller.fresh(LIMIT)[1]
    assert not caller.last.hangs


def test_an_error_thrown_into_the_waiting_thread_does_not_end_it(make: Make) -> None:
    caller = make(Sequence())
    assert caller.fresh(LIMIT)[0].value == 1
    thrown = ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(caller.thread.ident or 0), ctypes.py_object(MemoryError)
    )
    assert thrown == 1
    eventually(lambda: caller.fresh(0.1)[1])
    assert caller.thread.is_alive()
