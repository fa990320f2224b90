"""A source of figures that may hang or fail: read from its own thread, so nobody waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from shared_sync.common.fork import PerProcess
from shared_sync.common.loop import BackgroundLoop

T = TypeVar("T")

_logger = logging.getLogger(__name__)


class NothingToRead(Exception):
    """Raised by what a source calls: there is nothing here, and never will be. No failure."""


@dataclass(frozen=True, slots=True)
class _Call:
    """One call. Whoever gets the lock tells that it went wrong; it is never given back."""

    began: float
    told: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, slots=True)
class _State(Generic[T]):
    """All that is known, as of one moment."""

    result: T | None = None
    running: _Call | None = None
    raised: int = 0
    hung: int = 0  # without the call that runs
    in_trouble_since: float | None = None


class _Held(Generic[T]):
    """The state. The source's thread alone replaces it, as a whole; anyone may read it."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: _State[T] = _State()


class Source(Generic[T]):
    """Calls `read` from a daemon thread, at once and then `period_seconds` after each return.

    A call that takes longer than `limit_seconds` hangs: nothing is known until it returns, and
    there is no way to end it. The first failure or hang is logged, by the type of the error, then
    nothing until the recovery. `name` is for the log and the thread.

    The thread holds on to `read` and whatever that refers to, until `stop`; so that must not be
    the owner who would call `stop` on its end. Any thread may call any method; none waits.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[], T],
        *,
        period_seconds: float = 1.0,
        limit_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Fixed after construction.
        self._name = name
        self._read = read
        self._limit_seconds = limit_seconds
        self._clock = clock
        self._background = BackgroundLoop(
            f"shared-sync-{name}", self._step, period_seconds=period_seconds
        )
        # Each process's own: a call of the parent's never returns in a fork.
        self._held: PerProcess[_Held[T]] = PerProcess(_Held)

    def start(self) -> None:
        """Start the thread, once in each process; a fork starts its own by calling this again.

        Raises RuntimeError where the system gives no more threads.
        """
        self._background.start()

    def stop(self) -> None:
        """End the thread for good: at once, or when the call it is in returns. Never waits."""
        self._background.stop()

    def latest(self) -> T | None:
        """Return what the last call returned.

        None while there was none, the last one raised or the one that runs hangs, and after `stop`.
        """
        state, hanging = self._look()
        return None if hanging is not None or self._background.stopped else state.result

    @property
    def failures(self) -> int:
        """Calls of this process that raised, and those that hung, which count from then on."""
        state, hanging = self._look()
        return state.raised + state.hung + (hanging is not None)

    def _look(self) -> tuple[_State[T], _Call | None]:
        """Return the state, and the running call if it hangs, which is told here."""
        # The clock first: a call that is still running afterwards was running at that moment.
        now = self._clock()
        state = self._held.get().state
        call = state.running
        if call is None or now - call.began <= self._limit_seconds:
            return state, None
        self._tell(state, call, f"has not answered for {self._limit_seconds:g} s")
        return state, call

    def _step(self) -> None:
        held: _Held[T] = self._held.get()
        call = _Call(self._clock())
        before = held.state = replace(held.state, running=call)
        error = ""
        result: T | None = None
        try:
            result = self._read()
        except NothingToRead:
            self.stop()
        except BaseException as raised:  # noqa: BLE001 - whatever it is, the next call may go well
            error = type(raised).__name__
        now = self._clock()
        hung = now - call.began > self._limit_seconds
        since = call.began if before.in_trouble_since is None else before.in_trouble_since
        held.state = _State(
            result=result,
            raised=before.raised + bool(error),
            hung=before.hung + hung,
            in_trouble_since=since if error else None,
        )
        if error:
            self._tell(before, call, f"fails: {error}")
        elif hung or before.in_trouble_since is not None:
            _logger.info("source %s answers again after %.1f s", self._name, now - since)

    def _tell(self, state: _State[T], call: _Call, what: str) -> None:
        """Log that a call went wrong, unless the one before did or someone has told of this one."""
        if state.in_trouble_since is None and call.told.acquire(blocking=False):
            _logger.warning(
                "source %s %s; its figures are missing until it answers again", self._name, what
            )
