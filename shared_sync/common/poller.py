"""Calls a function in the background and keeps its newest result, so that nobody waits for it."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Generic, Protocol, TypeVar

from shared_sync.common.fork import PerProcess
from shared_sync.common.loop import Loop, ReentrantStop

T = TypeVar("T")

OVERDUE_SECONDS = 5.0
"""How late a periodic call may begin, on the poller's clock, before the poller hangs."""


@dataclass(frozen=True, slots=True)
class PollResult(Generic[T]):
    """What is known about the calls of a function at one moment."""

    value: T | None = None
    """What the last finished call returned; None before the first one, and if it raised."""

    error: str | None = None
    """Type and text of what the last finished call raised; not the exception itself, which would
    keep its frames alive."""

    hangs: bool = False
    """Whether the running call has exceeded its time limit, or a due call has not begun."""

    failures: int = 0
    """Calls that raised, plus calls that exceeded the time limit (counted from that moment on)."""

    ended_at: float | None = None
    """When the last finished call ended, on the monotonic clock."""

    running_since: float | None = None
    """When the running call began, on the monotonic clock."""


class PollerLog(Protocol):
    """Receives how each call went, and decides what of it to log."""

    def failed(self, error: BaseException) -> None:
        """A call raised. Called by the poller's thread."""

    def succeeded(self) -> None:
        """A call returned. Called by the poller's thread."""

    def hung(self, timeout_seconds: float) -> Callable[[], None] | None:
        """A call exceeded its time limit.

        Must return at once. Returns a function that writes the log line, which is called in a
        thread of its own because a log handler may block; None if there is nothing to write.
        """


@dataclass(frozen=True, slots=True)
class _Progress(Generic[T]):
    result: PollResult[T]
    moved_at: float  # when a call last began or ended, on the poller's clock


class _Life(Generic[T]):
    """The state of a poller in one process."""

    def __init__(self, make_loop: Callable[[_Life[T]], Loop]) -> None:
        # Fixed after construction.
        self.loop = make_loop(self)
        # Ends the thread's wait for the next call. A queue, because `stop` may put into it from a
        # finalizer, in the middle of that wait.
        self.wake: SimpleQueue[None] = SimpleQueue()
        # Notified of each change. Re-entrant, because a signal handler may stop the poller while
        # its own thread holds the lock.
        self.changed = threading.Condition(threading.RLock())
        # Guarded by the condition's lock.
        self.progress: _Progress[T] | None = None  # None before the start; replaced as a whole
        self.noted: _Progress[T] | None = None  # the progress whose hang has been logged
        self.requested = 0  # tickets handed out
        self.answered = 0  # tickets handed out before the last finished call began
        # Owned by the poller's thread.
        self.due_at = 0.0  # when the next periodic call is due, on the monotonic clock


class Poller(Generic[T]):
    """Calls a function from a daemon thread: every `period_seconds`, and whenever requested.

    Only one call runs at a time. A call that exceeds `timeout_seconds` hangs until it returns:
    there is no way to interrupt it, and no other call begins meanwhile.

    `start` runs one thread in each process; a forked child begins without results and may start its
    own. The thread refers to `function` and to whatever that refers to, until `stop`.

    Any thread may call any method. `stop` may also be called from a finalizer.

    Args:
        name: The name of the function, for messages.
        function: What to call. May block and may raise anything.
        period_seconds: Seconds from the end of one call to the beginning of the next; None to call
            only when requested.
        timeout_seconds: Time limit of one call, on `clock`.
        log: Receives how each call went.
        thread_name: The name of the thread; by default `name`.
        clock: Measures the time limit. Whoever passes a clock that may stand still decides what
            counts as late.
    """

    def __init__(
        self,
        name: str,
        function: Callable[[], T],
        *,
        period_seconds: float | None,
        timeout_seconds: float,
        log: PollerLog,
        thread_name: str | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        # Fixed after construction.
        self.name = name
        self.period_seconds = period_seconds
        self.timeout_seconds = timeout_seconds
        self._function = function
        self._log = log
        self._thread_name = thread_name or name
        self._clock = clock
        self._stop = ReentrantStop()
        # Each process's own: a parent's call never returns in a fork.
        self._lives: PerProcess[_Life[T]] = PerProcess(lambda: _Life(self._new_loop))

    # --- life cycle -------------------------------------------------------------------------------

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    def start(self) -> None:
        """Start the thread, unless this process has started it already or `stop` was called.

        Raises RuntimeError if the system gives no more threads; may be called again then.
        """
        life = self._lives.get()
        if self.stopped:
            return
        with life.changed:
            if life.progress is None:
                life.progress = _Progress(PollResult(), self._clock())
        life.loop.start()

    def stop(self) -> None:
        """End the thread for good: at once, or when its current call returns. Never blocks."""
        self._stop.set()
        life = self._lives.get()
        life.wake.put(None)
        with life.changed:
            life.changed.notify_all()

    def join(self, deadline: float) -> bool:
        """Wait until the thread has ended or until `deadline` (monotonic clock).

        Returns whether it has ended, or was never started. Does not wait if the poller's own thread
        calls this.
        """
        return self._lives.get().loop.join(deadline)

    def runs_here(self) -> bool:
        """Whether the calling thread is the poller's."""
        return self._lives.get().loop.thread is threading.current_thread()

    # --- results ----------------------------------------------------------------------------------

    @property
    def result(self) -> PollResult[T]:
        """The newest result. Never blocks."""
        # The clock first: a call that is still running afterwards was running at that moment.
        now = self._clock()
        progress = self._lives.get().progress
        if progress is None:
            return PollResult()
        result = progress.result
        if not self._is_late(progress, now):
            return result
        hung = result.running_since is not None
        return replace(result, hangs=True, failures=result.failures + hung)

    def request(self) -> int:
        """Have the function called soon. Returns a ticket for `has_answered`; never blocks.

        Requests that arrive before a call begins share that call.
        """
        life = self._lives.get()
        with life.changed:
            life.requested += 1
            ticket = life.requested
        if life.wake.empty():
            life.wake.put(None)
        return ticket

    def has_answered(self, ticket: int) -> bool:
        """Whether a call that began after `request` returned this ticket has ended."""
        return self._lives.get().answered >= ticket

    def refresh(self, wait_seconds: float) -> tuple[PollResult[T], bool]:
        """Request a call and wait for its result, for at most `wait_seconds`.

        Returns the newest result, and whether the call behind it began after this request. Returns
        at once if a call has already been running for `wait_seconds` or longer, and as soon as the
        running call hangs or the poller is stopped.
        """
        life = self._lives.get()
        running_since = self.result.running_since
        if running_since is not None and monotonic() - running_since >= wait_seconds:
            return self.result, False
        ticket = self.request()

        def is_over() -> bool:
            result = self.result
            hung = result.hangs and result.running_since is not None
            return life.answered >= ticket or self.stopped or hung

        with life.changed:
            life.changed.wait_for(is_over, wait_seconds)
            return self.result, life.answered >= ticket

    def check_overdue(self) -> PollResult[T]:
        """Log a call that hangs, once, and wake the threads that wait for it.

        For whoever watches the poller. Returns the newest result; never blocks.
        """
        life = self._lives.get()
        result = self.result
        if not result.hangs:
            return result
        with life.changed:
            progress = life.progress
            if (
                progress is None
                or progress is life.noted
                or not self._is_late(progress, self._clock())
            ):
                return self.result
            life.noted = progress
            life.changed.notify_all()
            # Under the lock, so that the log cannot hear of the hang after the end of the call.
            write = self._log.hung(self.timeout_seconds)
        if write is not None:
            with suppress(RuntimeError):  # the system has no more threads
                threading.Thread(target=write, name=f"{self._thread_name}-log", daemon=True).start()
        return result

    def _is_late(self, progress: _Progress[T], now: float) -> bool:
        if progress.result.running_since is not None:
            allowed = self.timeout_seconds
        elif self.period_seconds is not None:
            allowed = self.period_seconds + self.timeout_seconds + OVERDUE_SECONDS
        else:
            return False
        return now - progress.moved_at > allowed

    # --- the thread -------------------------------------------------------------------------------

    def _new_loop(self, life: _Life[T]) -> Loop:
        return Loop(self._thread_name, step=partial(self._step, life), stop=self._stop)

    def _step(self, life: _Life[T]) -> None:
        self._wait_until_due(life)
        if not self.stopped:
            self.poll_once()

    def _wait_until_due(self, life: _Life[T]) -> None:
        while not self.stopped and life.requested <= life.answered:
            remaining = None
            if self.period_seconds is not None:
                remaining = life.due_at - monotonic()
                if remaining <= 0:
                    return
            with suppress(Empty):
                life.wake.get(timeout=remaining)

    def poll_once(self) -> None:
        """Call the function once, in the calling thread, and keep its result. Raises nothing."""
        life = self._lives.get()
        with life.changed:
            ticket = life.requested
            before: PollResult[T] = life.progress.result if life.progress else PollResult()
            began = self._clock()
            life.progress = _Progress(replace(before, running_since=monotonic()), began)
        value: T | None = None
        error: BaseException | None = None
        try:
            value = self._function()
        except BaseException as raised:  # noqa: BLE001 - whatever it is, the next call may succeed
            error = raised
        ended = self._clock()
        result = PollResult(
            value,
            None if error is None else text_of(error),
            failures=before.failures + (error is not None) + (ended - began > self.timeout_seconds),
            ended_at=monotonic(),
        )
        with life.changed:
            life.progress = _Progress(result, ended)
            life.due_at = monotonic() + (self.period_seconds or 0.0)
        # Before those who requested the call are answered, so that they find the reason in the log.
        with suppress(BaseException):  # of a broken log
            if error is None:
                self._log.succeeded()
            else:
                self._log.failed(error)
        with life.changed:
            life.answered = ticket
            life.changed.notify_all()


def text_of(error: BaseException) -> str:
    """Return the type and text of an error, without its traceback."""
    return "".join(traceback.format_exception_only(type(error), error)).strip()
