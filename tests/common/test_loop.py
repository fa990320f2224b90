"""A loop ends by its stop event and by nothing else."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from helpers import in_a_fork

from shared_sync.common import loop as common_loop
from shared_sync.common.loop import Loop
from shared_sync.errors import GroupMissing, RedisUnavailable, Reject


class OwnKind(BaseException):
    """Not even an Exception."""


ERRORS: list[BaseException] = [
    ValueError("a plain one"),
    RedisUnavailable("away"),
    GroupMissing("gone", code="NOGROUP"),
    Reject("never"),
    SystemExit(3),
    KeyboardInterrupt(),
    MemoryError(),
    RecursionError(),
    GeneratorExit(),
    StopIteration(),
    asyncio.CancelledError(),
    OwnKind(),
]


@contextmanager
def running(
    step: Callable[[], None],
    *,
    on_error: Callable[[BaseException, int], float] | None = lambda _error, _failures: 0.0,
    finish: Callable[[], None] = lambda: None,
    stop: threading.Event | None = None,
    period_seconds: float = 0.0,
) -> Iterator[Loop]:
    stop = stop or threading.Event()
    loop = Loop(
        "test-loop",
        step=step,
        stop=stop,
        on_error=on_error,
        finish=finish,
        period_seconds=period_seconds,
    )
    loop.start()
    try:
        yield loop
    finally:
        stop.set()
        assert loop.join(time.monotonic() + 10)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_loop_survives_an_error_of_any_kind(error: BaseException) -> None:
    went_on = threading.Event()
    handled: list[BaseException] = []
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps == 1:
            raise error
        went_on.set()

    def on_error(reported: BaseException, _failures: int) -> float:
        handled.append(reported)
        return 0.0

    with running(step, on_error=on_error) as loop:
        assert went_on.wait(10)
        assert loop.thread.is_alive()
    assert handled == [error]


@pytest.mark.parametrize(
    "error",
    [ValueError(), SystemExit(), KeyboardInterrupt(), MemoryError(), RecursionError(), OwnKind()],
    ids=lambda error: type(error).__name__,
)
def test_a_loop_survives_an_error_handler_that_raises_itself(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common_loop, "FALLBACK_PAUSE_SECONDS", 0.0)
    thrice = threading.Event()
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            thrice.set()
        raise ValueError

    def on_error(_error: BaseException, _failures: int) -> float:
        raise error

    with running(step, on_error=on_error) as loop:
        assert thrice.wait(10)
        assert loop.thread.is_alive()


def test_a_step_that_really_runs_out_of_stack_does_not_end_the_loop() -> None:
    again = threading.Event()
    steps = 0

    def deeper() -> None:
        deeper()

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps > 1:
            again.set()
        deeper()

    with running(step):
        assert again.wait(10)


def test_failures_in_a_row_are_counted_and_a_good_step_begins_anew() -> None:
    stop = threading.Event()
    handled: list[int] = []
    script = iter([True, True, True, False, True, False])

    def step() -> None:
        fails = next(script, None)
        if fails is None:
            stop.set()
        elif fails:
            raise ValueError

    def on_error(_error: BaseException, failures: int) -> float:
        handled.append(failures)
        return 0.0

    with running(step, on_error=on_error, stop=stop) as loop:
        assert loop.join(time.monotonic() + 10)
    assert handled == [1, 2, 3, 1]


def test_the_pause_after_an_error_ends_at_once_when_the_loop_is_stopped() -> None:
    stop, pausing = threading.Event(), threading.Event()

    def step() -> None:
        raise ValueError

    def on_error(_error: BaseException, _failures: int) -> float:
        pausing.set()
        return 3600.0

    with running(step, on_error=on_error, stop=stop) as loop:
        assert pausing.wait(10)
        stop.set()
        assert loop.join(time.monotonic() + 10)


def test_the_pause_between_two_steps_ends_at_once_when_the_loop_is_stopped() -> None:
    stop, stepped = threading.Event(), threading.Event()
    with running(stepped.set, stop=stop, period_seconds=3600.0) as loop:
        assert stepped.wait(10)
        stop.set()
        assert loop.join(time.monotonic() + 10)
    assert loop.turns == 1


def test_a_loop_with_a_period_pauses_after_each_step() -> None:
    waits: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            waits.append(timeout)
            if len(waits) == 3:
                self.set()
            return super().wait(0.0)

    stop = Stop()
    with running(lambda: None, stop=stop, period_seconds=7.0) as loop:
        assert loop.join(time.monotonic() + 10)
    assert waits == [7.0, 7.0, 7.0]
    assert loop.turns == 3


def test_without_an_error_handler_an_error_is_dropped() -> None:
    thrice = threading.Event()
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            thrice.set()
        raise SystemExit

    with running(step, on_error=None, period_seconds=0.001) as loop:
        assert thrice.wait(10)
        assert loop.thread.is_alive()


def test_finish_is_called_once_after_the_last_step_in_the_same_thread() -> None:
    stop = threading.Event()
    calls: list[tuple[str, int]] = []

    def step() -> None:
        calls.append(("step", threading.get_ident()))
        stop.set()

    def finish() -> None:
        calls.append(("finish", threading.get_ident()))

    with running(step, finish=finish, stop=stop) as loop:
        assert loop.join(time.monotonic() + 10)
        ident = loop.thread.ident
    assert calls == [("step", ident), ("finish", ident)]


def test_finish_is_called_once_also_after_a_step_that_failed() -> None:
    stop = threading.Event()
    finished: list[int] = []

    def step() -> None:
        stop.set()
        raise SystemExit

    with running(step, finish=lambda: finished.append(1), stop=stop) as loop:
        assert loop.join(time.monotonic() + 10)
    assert finished == [1]


def test_a_loop_that_was_stopped_before_it_started_takes_no_step_and_finishes() -> None:
    stop = threading.Event()
    stop.set()
    calls: list[str] = []
    with running(
        lambda: calls.append("step"), finish=lambda: calls.append("finish"), stop=stop
    ) as loop:
        assert loop.join(time.monotonic() + 10)
    assert calls == ["finish"]


def test_joining_says_whether_the_loop_has_ended_and_waits_no_longer_than_it_may() -> None:
    stop, inside, leave = threading.Event(), threading.Event(), threading.Event()

    def step() -> None:
        inside.set()
        leave.wait(10)

    with running(step, stop=stop) as loop:
        assert inside.wait(10)
        stop.set()
        assert not loop.join(time.monotonic())
        assert not loop.join(time.monotonic() - 5)
        leave.set()
        assert loop.join(time.monotonic() + 10)


def test_joining_a_loop_that_was_never_started_is_harmless() -> None:
    loop = Loop("never", step=lambda: None, stop=threading.Event(), on_error=lambda _e, _n: 0.0)
    assert loop.join(time.monotonic() + 10)


def test_a_loop_that_joins_itself_does_not_wait_and_has_not_ended() -> None:
    stop = threading.Event()
    answers: list[bool] = []

    def step() -> None:
        stop.set()
        answers.append(loop.join(time.monotonic() + 10))

    loop = Loop("itself", step=step, stop=stop)
    loop.start()
    assert loop.join(time.monotonic() + 10)
    assert answers == [False]


def test_starting_a_loop_twice_is_harmless() -> None:
    stop, stepped = threading.Event(), threading.Event()
    with running(stepped.set, stop=stop, period_seconds=3600.0) as loop:
        loop.start()
        assert stepped.wait(10)
    loop.start()
    assert loop.turns == 1


def test_a_loop_knows_its_stage_of_life() -> None:
    stop, inside, leave = threading.Event(), threading.Event(), threading.Event()

    def step() -> None:
        inside.set()
        leave.wait(10)

    loop = Loop("stages", step=step, stop=stop)
    stages = [(loop.was_started, loop.is_to_turn, loop.has_ended)]
    before = time.monotonic()
    loop.start()
    assert before <= loop.started_at <= time.monotonic()
    assert inside.wait(10)
    stages.append((loop.was_started, loop.is_to_turn, loop.has_ended))
    stop.set()
    stages.append((loop.was_started, loop.is_to_turn, loop.has_ended))
    leave.set()
    assert loop.join(time.monotonic() + 10)
    stages.append((loop.was_started, loop.is_to_turn, loop.has_ended))
    assert stages == [
        (False, False, False),
        (True, True, False),
        (True, False, False),
        (True, False, True),
    ]


def test_a_thread_that_the_system_refuses_may_be_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop, stepped = threading.Event(), threading.Event()
    loop = Loop("refused", step=stepped.set, stop=stop, period_seconds=3600.0)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            loop.start()
    assert not loop.was_started
    loop.start()
    assert stepped.wait(10)
    stop.set()
    assert loop.join(time.monotonic() + 10)


def test_a_loop_does_not_keep_the_program_alive() -> None:
    loop = Loop("named", step=lambda: None, stop=threading.Event(), on_error=lambda _e, _n: 0.0)
    assert loop.thread.daemon
    assert loop.thread.name == "named"


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_at_the_very_end_is_handled_and_the_loop_has_ended(error: BaseException) -> None:
    handled: list[BaseException] = []

    def on_error(reported: BaseException, _failures: int) -> float:
        handled.append(reported)
        return 0.0

    def finish() -> None:
        raise error

    with running(lambda: None, on_error=on_error, finish=finish) as loop:
        pass
    assert not loop.thread.is_alive()
    assert handled == [error]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_loop_that_was_made_before_a_fork_has_not_ended_after_its_start() -> None:
    stop, turned = threading.Event(), threading.Event()
    loop = Loop("test-loop", step=turned.set, stop=stop, period_seconds=0.01)

    def turn() -> list[bool]:
        loop.start()
        assert turned.wait(10)
        before = loop.has_ended
        stop.set()
        return [before, loop.join(time.monotonic() + 10), loop.has_ended]

    assert in_a_fork(turn) == [False, True, True]


# --- what comes before the first step ---------------------------------------------------------


def test_a_loop_begins_in_its_thread_before_its_first_step() -> None:
    stop, log = threading.Event(), list[str]()

    def begin() -> bool:
        log.append(threading.current_thread().name)
        return True

    def step() -> None:
        log.append("step")
        stop.set()

    loop = Loop("test-loop", step=step, stop=stop, begin=begin, finish=lambda: log.append("finish"))
    loop.start()
    assert loop.join(time.monotonic() + 10)
    assert log == ["test-loop", "step", "finish"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_loop_that_cannot_begin_makes_no_step_and_finishes(fails: bool) -> None:
    log: list[object] = []

    def begin() -> bool:
        if fails:
            raise SystemExit
        return False

    def on_error(error: BaseException, _: int) -> float:
        log.append(type(error))
        return 0.0

    loop = Loop(
        "test-loop",
        step=lambda: log.append("step"),
        stop=threading.Event(),
        begin=begin,
        on_error=on_error,
        finish=lambda: log.append("finish"),
    )
    loop.start()
    assert loop.join(time.monotonic() + 10)
    assert log == [*([SystemExit] if fails else []), "finish"]
