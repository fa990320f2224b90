"""CircuitBreaker: stops calling what fails again and again, and tries it again later."""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import wraps
from types import TracebackType
from typing import Any, ParamSpec, TypeAlias, TypeVar

from shared_sync.common import arguments
from shared_sync.common.circuit import Call, Circuit, CircuitSnapshot
from shared_sync.common.fork import renew_lock_in_forks
from shared_sync.common.passages import Passage, add_passage
from shared_sync.errors import CircuitOpen, ConfigurationError, Directive

Counts: TypeAlias = "type[Exception] | Collection[type[Exception]] | Callable[[Exception], object]"
"""Which errors count as failures: types, or a function that is given an error."""

P = ParamSpec("P")
R = TypeVar("R")

_numbers = itertools.count(1)


class _Calls(threading.local):
    """The calls of the running thread, the outermost first. Inner ones are None."""

    def __init__(self) -> None:
        self.stack: list[Call | None] = []


class CircuitBreaker:
    """Refuses calls of something that fails again and again, until a trial goes well.

        translator = CircuitBreaker(name="translator", counts=(ConnectionError, TimeoutError))

        with translator:  # or the decorator @translator
            reply = requests.post(url, ...)

    It is *closed* at first, and lets every call through. After `failure_threshold` failures in a
    row it is *open*: it refuses calls with `CircuitOpen`, at once. After `recovery_seconds` it is
    *half-open*: it lets one call through, the trial, and refuses the others. If the trial goes
    well, it is closed again; if the trial fails, it is open for `recovery_seconds` more. A trial
    that takes longer than `recovery_seconds` is waited for no more: another is allowed.

    What comes out of a call decides: a return is a success; an error that counts is a failure; any
    other error is neither. `KeyboardInterrupt` and the like never count, nor do `Retry`, `Reject`
    and `CircuitOpen`, unless `counts` names them. What a call that began before the breaker opened
    or closed says afterwards is ignored. A call within another one of the same thread belongs to
    it: the outer one counts.

    Any thread may use it, and many at the same time: no lock is held during a call. It is not for
    coroutines, of which one thread runs many. Each process has a breaker of its own; a forked one
    begins with a copy of its parent's.

    Args:
        failure_threshold: Failures in a row that open it, 1 or more.
        recovery_seconds: Seconds until the next trial, from 0.01 to a day.
        counts: The errors that count as failures: a type, several types, or a function that is
            given an `Exception` and returns whether it counts. Name those that say that the
            dependency is away; an error of a single message says nothing about it.
        name: What it is called in errors, metrics and health; None for a number. Give breakers
            different names.
        clock: Returns seconds that never go back.

    Raises:
        ConfigurationError: An argument that cannot work.
    """

    def __init__(
        self,
        failure_threshold: int = 5,
        recovery_seconds: float = 30.0,
        *,
        counts: Counts = Exception,
        name: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        arguments.whole_number("failure_threshold", failure_threshold, 1)
        arguments.number("recovery_seconds", recovery_seconds, 0.01, 86_400)
        if name is not None:
            arguments.text("name", name)
        # Fixed after construction.
        self.name = f"breaker-{next(_numbers)}" if name is None else name
        self._is_counted = _counting(counts)
        # Each thread has its own.
        self._calls = _Calls()
        # Has its own lock.
        self._circuit = Circuit(
            self.name,
            failure_threshold=failure_threshold,
            recovery_seconds=recovery_seconds,
            clock=clock,
        )
        # Replaced as a whole under the lock.
        self._lock = threading.RLock()
        renew_lock_in_forks(self)
        self._listeners: tuple[weakref.WeakMethod[Callable[[CircuitBreaker], None]], ...] = ()
        _registry.add(self)

    # --- calling ---

    def __enter__(self) -> CircuitBreaker:
        """Begin a call. Raises `CircuitOpen` if the breaker refuses it."""
        stack = self._calls.stack
        stack.append(None if stack else self._begin())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        call = self._calls.stack.pop()
        if call is not None:
            self._end(call, error)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return the function with this breaker round each call of it.

        Raises `ConfigurationError` for an async function or a generator, whose call says nothing.
        """
        if not callable(function) or arguments.only_promises(function):
            raise ConfigurationError(
                f"circuit breaker {self.name!r} takes a plain function that blocks until it is "
                f"done, not {function!r}"
            )

        @wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                return function(*args, **kwargs)

        return guarded

    # --- what it says of itself ---

    @property
    def state(self) -> str:
        """`closed`, `half-open` (a trial is allowed, or runs) or `open`."""
        return self.snapshot().state

    def snapshot(self) -> CircuitSnapshot:
        """Return its state, and what it has counted."""
        return self._circuit.snapshot()

    def subscribe(self, listener: Callable[[CircuitBreaker], None]) -> None:
        """Call a bound method whenever it has opened or closed, or a trial has ended.

        In the thread whose call did that, without a lock. Its object is held weakly.
        """
        with self._lock:
            alive = [one for one in self._listeners if one() is not None]
            self._listeners = (*alive, weakref.WeakMethod(listener))

    # --- its state in another process ---

    def export_state(self) -> dict[str, Any]:
        """Return its state as JSON can express it, for `adopt()` in a child process."""
        return self._circuit.export_state()

    def adopt(self, state: Mapping[str, Any]) -> None:
        """Take over the state of the breaker that owns this one, in the parent process."""
        self._circuit.adopt(state)

    def take_report(self) -> dict[str, Any]:
        """Return what it has counted since `adopt()` as JSON can express it, and forget that."""
        return self._circuit.take_report()

    def apply_report(self, report: Mapping[str, Any]) -> None:
        """Count what a copy in a child process has counted.

        Successes and failures of a job that began before this breaker opened or closed are ignored.
        """
        if self._circuit.apply_report(report):
            self._notify()

    # --- inside ---

    def _begin(self) -> Call:
        begun = self._circuit.begin()
        if isinstance(begun, Call):
            return begun
        refusal = CircuitOpen(self.name, begun)
        add_passage(refusal, Passage(self.name, self))
        raise refusal

    def _end(self, call: Call, error: BaseException | None) -> None:
        if error is None:
            has_changed = self._circuit.succeeded(call)
        elif isinstance(error, Exception) and self._is_counted(error):
            add_passage(error, Passage(self.name, self))
            has_changed = self._circuit.failed(call)
        else:
            has_changed = self._circuit.said_nothing(call)
        if has_changed:
            self._notify()

    def _notify(self) -> None:
        for reference in self._listeners:
            listener = reference()
            if listener is not None:
                listener(self)


def _counting(counts: object) -> Callable[[Exception], bool]:
    """Return a function that says whether an error counts; it never raises."""
    types = tuple(counts) if isinstance(counts, (tuple, list, set, frozenset)) else (counts,)
    if types and all(isinstance(one, type) and issubclass(one, Exception) for one in types):
        usual: tuple[Any, ...] = types
        directives = tuple(one for one in usual if issubclass(one, Directive))
        return lambda error: isinstance(
            error, directives if isinstance(error, Directive) else usual
        )
    if not callable(counts) or isinstance(counts, type) or arguments.only_promises(counts):
        raise ConfigurationError(
            "counts must be a type of Exception, several of them, or a function that is given an "
            f"error and returns whether it counts, not {counts!r}"
        )
    function = counts

    def is_counted(error: Exception) -> bool:
        with suppress(Exception):
            return bool(function(error))
        return True  # there was an error, and nobody says that it is none of the dependency

    return is_counted


# --- all breakers of a process ------------------------------------------------------------------


class _Registry:
    """All breakers of this process. Any thread may call any method."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        renew_lock_in_forks(self)
        self._breakers: weakref.WeakSet[CircuitBreaker] = weakref.WeakSet()  # guarded by the lock

    def add(self, breaker: CircuitBreaker) -> None:
        with self._lock:
            self._breakers.add(breaker)

    def named(self, names: Collection[str]) -> list[CircuitBreaker]:
        with self._lock:
            return [breaker for breaker in self._breakers if breaker.name in names]


_registry = _Registry()


def adopt_states(states: Mapping[str, Mapping[str, Any]]) -> None:
    """In a child process: let its breakers take over the states of the parent's, by name."""
    for breaker in _registry.named(states):
        breaker.adopt(states[breaker.name])


def take_reports(names: Collection[str]) -> dict[str, dict[str, Any]]:
    """In a child process: return what its breakers with these names have counted, by name."""
    return {breaker.name: breaker.take_report() for breaker in _registry.named(names)}
