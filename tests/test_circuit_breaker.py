"""A circuit breaker refuses calls of what fails again and again, and tries it again later."""

from __future__ import annotations

import json
import pickle
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from helpers import Clock, Gate, eventually, in_a_fork, returns

from shared_sync.circuit_breaker import CircuitBreaker, adopt_states, take_reports
from shared_sync.common.exceptions import chain_of
from shared_sync.common.passages import Passage, passages_of
from shared_sync.errors import CircuitOpen, ConfigurationError, Directive, Reject, Retry

RECOVERY = 30.0


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return new_breaker(clock)


def new_breaker(clock: Clock, threshold: int = 3, **options: Any) -> CircuitBreaker:
    return CircuitBreaker(threshold, RECOVERY, name="translator", clock=clock, **options)


def call(breaker: CircuitBreaker, error: BaseException | None = None) -> None:
    with breaker:
        if error is not None:
            raise error


def fail(breaker: CircuitBreaker, times: int = 1, error: type[BaseException] = OSError) -> None:
    for _ in range(times):
        with pytest.raises(error):
            call(breaker, error("away"))


def is_refused(breaker: CircuitBreaker) -> bool:
    try:
        call(breaker)
    except CircuitOpen:
        return True
    return False


def failing_late(breaker: CircuitBreaker, gate: Gate) -> threading.Thread:
    """A thread whose call fails when the gate is opened."""

    @breaker
    def late() -> None:
        gate()
        raise OSError("late")

    def run() -> None:
        with pytest.raises(OSError, match="late"):
            late()

    return threading.Thread(target=run, daemon=True)


# --- closed, open, half-open ------------------------------------------------------------------


def test_it_opens_after_so_many_failures_in_a_row_and_then_refuses_calls(
    breaker: CircuitBreaker,
) -> None:
    fail(breaker, 2)
    call(breaker)
    fail(breaker, 2)
    assert breaker.state == "closed", "a success begins the row anew"
    fail(breaker)
    assert breaker.state == "open"
    with pytest.raises(CircuitOpen, match=r"'translator' is open; next trial in 30\.0 s") as raised:
        call(breaker)
    assert (raised.value.name, raised.value.retry_after_seconds) == ("translator", RECOVERY)
    assert isinstance(raised.value, Directive)


def test_a_trial_that_goes_well_closes_it_and_one_that_fails_keeps_it_open(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker, 3)
    clock.now += RECOVERY - 1
    assert is_refused(breaker)
    clock.now += 1
    assert breaker.state == "half-open"
    fail(breaker)
    assert breaker.state == "open"
    assert is_refused(breaker)
    clock.now += RECOVERY
    call(breaker)
    assert breaker.state == "closed"
    fail(breaker, 2)
    assert breaker.state == "closed", "the row begins anew"


def test_a_snapshot_has_what_it_counted(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 10
    assert is_refused(breaker)
    seen = breaker.snapshot()
    assert (seen.name, seen.state, seen.failures) == ("translator", "open", 3)
    assert (seen.seconds_until_trial, seen.openings, seen.refused) == (RECOVERY - 10, 1, 1)
    clock.now += 20
    fail(breaker)
    assert breaker.snapshot().openings == 1, "a trial that fails is no new opening"
    clock.now += RECOVERY
    call(breaker)
    seen = breaker.snapshot()
    assert (seen.state, seen.failures, seen.seconds_until_trial) == ("closed", 0, None)


def test_while_a_trial_runs_every_other_call_is_refused(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker, 3)
    clock.now += RECOVERY
    with breaker:
        assert breaker.state == "half-open"
        clock.now += 10
        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(is_refused, [breaker] * 50))
    assert breaker.state == "closed"


def test_a_trial_that_never_ends_is_waited_for_as_long_as_a_recovery_takes(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker, 3)
    clock.now += RECOVERY
    gate = Gate()
    first = threading.Thread(target=breaker(gate), daemon=True)
    first.start()
    assert gate.entered.wait(10)
    clock.now += RECOVERY - 1
    assert is_refused(breaker)
    clock.now += 1
    assert breaker.state == "half-open"
    fail(breaker)
    assert breaker.state == "open", "the second trial has failed"
    gate.opened.set()
    first.join(10)
    assert breaker.state == "closed", "the dependency has answered the first one after all"


def test_the_failure_of_a_trial_that_was_given_up_on_does_not_count_against_a_newer_one(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker, 3)
    clock.now += RECOVERY
    gate = Gate()

    first = failing_late(breaker, gate)
    first.start()
    assert gate.entered.wait(10)
    clock.now += RECOVERY
    with breaker:
        gate.opened.set()
        first.join(10)
        assert breaker.state == "half-open"
    assert breaker.state == "closed"


def test_what_a_call_of_an_earlier_time_says_is_ignored(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    """It began while the breaker was closed, and ends when the breaker has opened, or closed."""
    gates = [Gate(), Gate()]

    threads = [
        threading.Thread(target=breaker(gates[0]), daemon=True),
        failing_late(breaker, gates[1]),
    ]
    for thread, gate in zip(threads, gates, strict=True):
        thread.start()
        assert gate.entered.wait(10)
    fail(breaker, 3)
    gates[0].opened.set()
    threads[0].join(10)
    assert breaker.state == "open"
    clock.now += RECOVERY
    call(breaker)
    gates[1].opened.set()
    threads[1].join(10)
    assert breaker.snapshot().failures == 0


# --- what counts ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "counted", "not_counted"),
    [
        (Exception, [OSError(), ValueError(), MemoryError()], [Reject("x"), Retry(1)]),
        (OSError, [ConnectionError()], [ValueError()]),
        ((OSError, KeyError), [TimeoutError(), KeyError()], [ValueError(), Reject("x")]),
        ((OSError, Retry), [OSError(), Retry(1)], [Reject("x")]),
        (lambda error: "503" in str(error), [OSError("503"), Retry(1, "503")], [OSError("404")]),
        (lambda error: 1 / 0, [ValueError()], []),
    ],
    ids=["all", "a type", "types", "a directive", "a function", "a function that raises"],
)
def test_what_counts_as_a_failure_can_be_chosen(
    clock: Clock, counts: Any, counted: list[Exception], not_counted: list[Exception]
) -> None:
    breaker = new_breaker(clock, 9, counts=counts)
    for error in counted:
        with pytest.raises(type(error)):
            call(breaker, error)
    assert breaker.snapshot().failures == len(counted)
    for error in not_counted:
        with pytest.raises(type(error)):
            call(breaker, error)
    assert breaker.snapshot().failures == len(counted), "neither a failure nor a success"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_after_a_trial_that_says_nothing_the_next_call_is_a_trial_at_once(
    clock: Clock, error: type[BaseException]
) -> None:
    breaker = new_breaker(clock, counts=OSError)
    fail(breaker, 2)
    fail(breaker, 5, error)
    assert breaker.snapshot().failures == 2
    fail(breaker)
    clock.now += RECOVERY
    fail(breaker, 1, error)
    assert breaker.state == "half-open"
    call(breaker)
    assert breaker.state == "closed"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_program_that_is_interrupted_never_counts(
    clock: Clock, error: type[BaseException]
) -> None:
    breaker = new_breaker(clock, 1, counts=lambda _: True)
    fail(breaker, 3, error)
    assert breaker.state == "closed"


def test_a_call_within_a_call_belongs_to_the_outer_one(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    with breaker:
        fail(breaker, 5)
    assert breaker.state == "closed"
    fail(breaker, 3)
    clock.now += RECOVERY
    with breaker:
        call(breaker)
        assert breaker.state == "half-open", "it is a part of the trial"
    assert breaker.state == "closed"


def test_breakers_in_one_another_count_each_for_itself(clock: Clock) -> None:
    inner, outer = new_breaker(clock, counts=OSError), new_breaker(clock)
    for _ in range(3):
        with pytest.raises(OSError, match="away"), outer:
            call(inner, OSError("away"))
    assert (inner.state, outer.state) == ("open", "open")
    outer = new_breaker(clock)
    for _ in range(5):
        with pytest.raises(CircuitOpen), outer:
            call(inner)
    assert outer.state == "closed", "what an open breaker refuses has not failed"


# --- how it is used ---------------------------------------------------------------------------


def test_as_a_decorator_it_keeps_the_function_and_what_it_returns(breaker: CircuitBreaker) -> None:
    @breaker
    def translate(text: str, *, to: str) -> str:
        """Translate."""
        if not text:
            raise OSError("away")
        return f"{text} in {to}"

    assert translate("hello", to="fr") == "hello in fr"
    assert (translate.__name__, translate.__doc__) == ("translate", "Translate.")
    for _ in range(3):
        with pytest.raises(OSError, match="away"):
            translate("", to="fr")
    with pytest.raises(CircuitOpen):
        translate("hello", to="fr")


async def _async() -> None: ...


def _generator() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize("function", [_async, _generator, 7])
def test_a_function_whose_call_says_nothing_is_refused(
    breaker: CircuitBreaker, function: Any
) -> None:
    with pytest.raises(ConfigurationError, match="circuit breaker 'translator' takes a plain"):
        breaker(function)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"failure_threshold": 0}, "failure_threshold must be a whole number"),
        ({"failure_threshold": True}, "failure_threshold must be a whole number"),
        ({"recovery_seconds": 0}, "recovery_seconds must be a number"),
        ({"name": ""}, "name must be text"),
        ({"counts": ()}, "counts must be a type of Exception"),
        ({"counts": "OSError"}, "counts must be a type of Exception"),
        ({"counts": int}, "counts must be a type of Exception"),
        ({"counts": KeyboardInterrupt}, "counts must be a type of Exception"),
        ({"counts": (OSError, 7)}, "counts must be a type of Exception"),
        ({"counts": _async}, "counts must be a type of Exception"),
    ],
)
def test_arguments_that_cannot_work_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        CircuitBreaker(**options)


def test_breakers_without_a_name_have_different_ones() -> None:
    assert CircuitBreaker().name != CircuitBreaker().name


def test_a_refusal_survives_a_process_boundary(breaker: CircuitBreaker) -> None:
    """As of a process pool, which pickles what is raised in it."""
    fail(breaker, 3)
    with pytest.raises(CircuitOpen) as raised:
        call(breaker)
    copied = pickle.loads(pickle.dumps(raised.value))
    assert (copied.name, copied.retry_after_seconds) == ("translator", RECOVERY)
    assert [one.name for one in passages_of(copied)] == ["translator"]
    assert passages_of(copied)[0].breaker is None


# --- many threads -----------------------------------------------------------------------------


def test_calls_run_side_by_side(breaker: CircuitBreaker) -> None:
    together = threading.Barrier(8)

    @breaker
    def meet() -> None:
        together.wait(10)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: meet(), range(8)))


def test_of_many_threads_one_at_a_time_makes_a_trial() -> None:
    """The dependency is away for good: however many threads call, each trial is alone."""
    breaker = CircuitBreaker(1, 60.0, name="translator", clock=(clock := Clock()))
    fail(breaker)
    trials, running, most = 0, 0, 0
    lock = threading.Lock()

    def trial() -> None:
        nonlocal trials, running, most
        with lock:
            trials += 1
            running += 1
            most = max(most, running)
        threading.Event().wait(0.0005)
        with lock:
            running -= 1
        raise OSError("away")

    def press() -> None:
        for _ in range(200):
            with pytest.raises((OSError, CircuitOpen)):
                breaker(trial)()

    for _ in range(5):
        clock.now += 60.0
        before = trials
        with ThreadPoolExecutor(8) as threads:
            for pressing in [threads.submit(press) for _ in range(8)]:
                pressing.result()
        assert trials == before + 1
    assert most == 1


def test_what_many_threads_do_adds_up() -> None:
    breaker = CircuitBreaker(10, 0.01, name="translator")
    refused = [0] * 8

    def work(number: int) -> None:
        for turn in range(500):
            try:
                call(breaker, OSError("away") if turn % 3 else None)
            except CircuitOpen:
                refused[number] += 1
            except OSError:
                pass

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    seen = breaker.snapshot()
    assert seen.refused == sum(refused)
    eventually(lambda: breaker.state != "open")
    call(breaker)
    assert breaker.state == "closed"


def test_a_fork_in_the_middle_of_another_threads_call_does_no_harm(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker, 3)
    clock.now += RECOVERY
    inside, let_go = threading.Event(), threading.Event()

    def stay() -> None:
        with breaker, breaker._lock, breaker._circuit._lock:
            inside.set()
            let_go.wait(60)

    threading.Thread(target=stay, daemon=True).start()
    assert inside.wait(10)

    def in_child() -> list[Any]:
        answers = returns(lambda: breaker.state)
        refused = is_refused(breaker)
        clock.now += RECOVERY
        call(breaker)
        return [answers, refused, breaker.state]

    try:
        assert in_a_fork(in_child) == [True, True, "closed"]
    finally:
        let_go.set()


# --- who is told ------------------------------------------------------------------------------


class Listener:
    def __init__(self, breaker: CircuitBreaker) -> None:
        self.states: list[str] = []
        breaker.subscribe(self.changed)

    def changed(self, breaker: CircuitBreaker) -> None:
        assert returns(breaker.snapshot), "no lock is held"
        self.states.append(breaker.state)


def test_who_wants_to_know_hears_of_each_change(breaker: CircuitBreaker, clock: Clock) -> None:
    listener = Listener(breaker)
    call(breaker)
    fail(breaker, 3)
    assert is_refused(breaker)
    clock.now += RECOVERY
    fail(breaker, 1, KeyboardInterrupt)
    fail(breaker)
    clock.now += RECOVERY
    call(breaker)
    assert listener.states == ["open", "half-open", "open", "closed"]
    del listener
    Listener(breaker)
    assert len(breaker._listeners) == 1, "those that are gone are forgotten"


# --- what an error has come through -----------------------------------------------------------


def all_passages(error: BaseException) -> list[Passage]:
    return [passage for one in chain_of(error) for passage in passages_of(one)]


def from_another(error: Exception) -> Exception:
    try:
        try:
            raise error
        except type(error) as inner:
            raise ValueError("it is away") from inner
    except ValueError as outer:
        return outer


def while_handling(error: Exception) -> Exception:
    try:
        try:
            raise error
        except type(error):
            raise ValueError("it is away")  # noqa: B904 - as programs do
    except ValueError as outer:
        return outer


def from_none(error: Exception) -> Exception:
    try:
        try:
            raise error
        except type(error):
            raise ValueError("it is away") from None
    except ValueError as outer:
        return outer


@pytest.mark.parametrize(
    ("wrap", "names"),
    [
        (lambda error: error, ["translator"]),
        (from_another, ["translator"]),
        (while_handling, ["translator"]),
        (from_none, []),
    ],
)
def test_an_error_knows_through_which_breakers_it_came(
    clock: Clock, wrap: Callable[[Exception], Exception], names: list[str]
) -> None:
    breaker, error = new_breaker(clock), OSError("away")
    for _ in range(3):
        with pytest.raises(OSError, match="away"):
            call(breaker, error)
    found = all_passages(wrap(error))
    assert [one.name for one in found] == names
    assert all(one.breaker is breaker for one in found)
    with pytest.raises(CircuitOpen) as raised:
        call(breaker)
    assert [one.name for one in all_passages(wrap(raised.value))] == names


def test_an_error_that_does_not_count_has_come_through_none(clock: Clock) -> None:
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine"):
        call(new_breaker(clock, counts=OSError), error)
    assert not passages_of(error)
    assert "translator" not in "".join(traceback.format_exception(error))


def test_errors_that_are_each_others_cause_are_walked_once(clock: Clock) -> None:
    breaker, first, second = new_breaker(clock), OSError("1"), OSError("2")
    with pytest.raises(OSError, match="1"):
        call(breaker, first)
    first.__cause__, second.__cause__ = second, first
    assert [one.name for one in all_passages(second)] == ["translator"]


def test_an_error_that_takes_no_attributes_is_noted_as_well(clock: Clock) -> None:
    class Frozen(Exception):
        __slots__ = ()

        def __setattr__(self, name: str, value: object) -> None:
            if not name.startswith("__"):
                raise AttributeError(name)
            super().__setattr__(name, value)

    error = Frozen()
    with pytest.raises(Frozen):
        call(new_breaker(clock), error)
    assert [one.name for one in passages_of(error)] == ["translator"]


# --- the breaker of a parent, and its copy in a child process -------------------------------


def run_in_child(parent: CircuitBreaker, child: CircuitBreaker, *outcomes: str) -> list[str]:
    """What calls in the child become: it begins with the parent's state, and reports to it."""
    child.adopt(json.loads(json.dumps(parent.export_state())))
    became: list[str] = []
    for outcome in outcomes:
        try:
            call(child, OSError("away") if outcome == "fail" else None)
            became.append("ok")
        except CircuitOpen:
            became.append("refused")
        except OSError:
            became.append("failed")
    parent.apply_report(json.loads(json.dumps(child.take_report())))
    return became


@pytest.fixture
def parent(clock: Clock) -> CircuitBreaker:
    return new_breaker(clock)


@pytest.fixture
def child(clock: Clock) -> CircuitBreaker:
    return new_breaker(clock)


def test_what_children_count_adds_up_in_the_parent(
    parent: CircuitBreaker, child: CircuitBreaker, clock: Clock
) -> None:
    other = new_breaker(clock)
    run_in_child(parent, child, "fail")
    run_in_child(parent, other, "fail")
    assert parent.snapshot().failures == 2
    assert run_in_child(parent, child, "fail") == ["failed"]
    assert parent.state == "open"
    assert run_in_child(parent, other, "ok", "ok") == ["refused", "refused"]
    assert parent.snapshot().refused == 2


def test_a_success_in_a_child_begins_the_row_anew(
    parent: CircuitBreaker, child: CircuitBreaker
) -> None:
    run_in_child(parent, child, "fail", "fail")
    run_in_child(parent, child, "ok", "fail")
    assert parent.snapshot().failures == 1
    run_in_child(parent, child)
    assert parent.snapshot().failures == 1, "a job that does not use it changes nothing"


def test_a_trial_in_a_child_decides_for_the_parent(
    parent: CircuitBreaker, child: CircuitBreaker, clock: Clock
) -> None:
    listener = Listener(parent)
    assert run_in_child(parent, child, "fail", "fail", "fail", "ok")[3] == "refused"
    clock.now += RECOVERY - 1
    assert run_in_child(parent, child, "ok") == ["refused"]
    clock.now += 1
    assert run_in_child(parent, child, "fail", "ok") == ["failed", "refused"]
    assert parent.snapshot().seconds_until_trial == RECOVERY
    clock.now += RECOVERY
    assert run_in_child(parent, child, "ok", "fail") == ["ok", "failed"]
    assert (parent.state, parent.snapshot().failures) == ("closed", 1)
    assert listener.states == ["open", "open", "closed"]


def test_a_report_of_a_job_that_began_before_the_parent_opened_is_ignored(
    parent: CircuitBreaker, child: CircuitBreaker, clock: Clock
) -> None:
    other = new_breaker(clock)
    other.adopt(parent.export_state())
    call(other)
    run_in_child(parent, child, "fail", "fail", "fail")
    parent.apply_report(other.take_report())
    assert parent.state == "open"


def test_the_breakers_of_a_process_are_found_by_their_names(clock: Clock) -> None:
    opened, closed = (CircuitBreaker(1, clock=clock) for _ in range(2))
    fail(opened)
    first, second = (CircuitBreaker(1, name=f"found-{n}", clock=clock) for n in (1, 2))
    states = {"found-1": opened.export_state(), "found-2": closed.export_state()}
    adopt_states({**states, "nowhere": closed.export_state()})
    assert [first.state, second.state] == ["open", "closed"]
    fail(second)
    reports = take_reports(["found-1", "found-2", "nowhere"])
    assert sorted(reports) == ["found-1", "found-2"]
    closed.apply_report(reports["found-2"])
    assert closed.state == "open"
