"""The loop of every background thread: it repeats a step until it is stopped, whatever happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Protocol

from shared_sync.common.fork import PerProcess

FALLBACK_PAUSE_SECONDS = 1.0
"""Pause after an error if no error handler gives one, or if the handler itself raises."""


class StopEvent(Protocol):
    """What ends a loop: a `threading.Event`, or anything else that can be asked and waited for."""

    def is_set(self) -> bool:
        """Return whether the loop is to end."""

    def wait(self, timeout: float, /) -> bool:
        """Wait at most `timeout` seconds for the event; return whether it is set."""


class Loop:
    """Repeats `step` in a daemon thread until `stop` is set, then calls `finish` in that thread.

    No error ends the loop, not even SystemExit or one that another thread throws into this one.
    `step` must return soon after `stop` is set. Any thread may call any method.

    Args:
        name: The name of the thread.
        step: What is repeated.
        begin: Called once, before the first step. The loop ends if it returns False or raises.
        stop: Ends the loop: at once if it pauses, otherwise after the running step. Several loops
            may share one.
        on_error: Called in the loop's thread with an error that `begin`, `step` or `finish` raised
            and with the number of steps in a row that have failed. Returns how many seconds to
            pause. None drops the error and pauses for the period, or for a second if there is no
            period.
        finish: Called once, after the last step.
        period_seconds: Pause after each step that returned.
    """

    def __init__(
        self,
        name: str,
        *,
        step: Callable[[], None],
        stop: StopEvent,
        begin: Callable[[], bool] = lambda: True,
        on_error: Callable[[BaseException, int], float] | None = None,
        finish: Callable[[], None] = lambda: None,
        period_seconds: float = 0.0,
    ) -> None:
        # Fixed after construction, but for `abandon()`.
        self.name = name
        self._step = step
        self._stop = stop
        self._begin = begin
        self._on_error = on_error
        self._finish = finish
        self._period_seconds = period_seconds
        # Acquired by whoever starts the thread, and never released.
        self._claim = threading.Lock()
        # Written by whoever starts the thread; any thread may read.
        self.thread = self._new_thread()
        self.started_at = 0.0
        """When the thread was started, on the monotonic clock; 0 before."""
        # Written by the loop's thread alone; any thread may read.
        self.turns = 0
        """Steps begun, including those that failed."""

    @property
    def was_started(self) -> bool:
        """Whether the thread has been started."""
        return self.started_at > 0.0

    @property
    def has_ended(self) -> bool:
        """Whether the thread was started and has ended."""
        return self.was_started and not self.thread.is_alive()

    @property
    def is_to_turn(self) -> bool:
        """Whether the loop was started and not stopped, so that `turns` ought to grow."""
        return self.was_started and not self._stop.is_set()

    def start(self) -> None:
        """Start the thread; does nothing if it was started before.

        Raises RuntimeError if the system gives no more threads; the loop may be started again then.
        """
        if not self._claim.acquire(blocking=False):
            return
        # A new one: if the loop was made before a fork, its thread counts as ended after it; and
        # Python 3.13 does not start one again that could not be started.
        self.thread = self._new_thread()
        try:
            self.thread.start()
        except BaseException:
            self._claim.release()
            raise
        self.started_at = time.monotonic()

    def join(self, deadline: float) -> bool:
        """Wait until the thread has ended or the deadline (monotonic clock) has passed.

        Returns whether the thread has ended, or was never started. The loop's own thread does not
        wait: it gets False.
        """
        if self.thread is threading.current_thread():
            return False
        if self.thread.ident is not None:
            self.thread.join(max(0.0, deadline - time.monotonic()))
        return not self.thread.is_alive()

    def abandon(self) -> None:
        """In a forked process: let the thread end after its step, if it is the one that forked.

        It calls `finish` no more, as that belongs to the other process.
        """
        self._stop = threading.Event()
        self._stop.set()
        self._finish = lambda: None

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, name=self.name, daemon=True)

    def _run(self) -> None:
        if self._is_to_repeat():
            while not self._stop.is_set():
                # An error that is thrown into the thread during a pause must not end it either.
                with suppress(BaseException):
                    self._repeat()
        try:
            self._finish()
        except BaseException as error:  # noqa: BLE001 - the thread ends here either way
            self._handle(error, 1)

    def _is_to_repeat(self) -> bool:
        if self._stop.is_set():
            return False
        try:
            return self._begin()
        except BaseException as error:  # noqa: BLE001 - the loop ends, and finishes
            self._handle(error, 1)
            return False

    def _repeat(self) -> None:
        failures = 0
        while not self._stop.is_set():
            self.turns += 1
            try:
                self._step()
                failures = 0
                pause = self._period_seconds
            except BaseException as error:  # noqa: BLE001 - only the stop event ends a loop
                failures += 1
                pause = self._handle(error, failures)
            if pause > 0.0:
                self._stop.wait(pause)

    def _handle(self, error: BaseException, failures: int) -> float:
        """Call the error handler; return how many seconds to pause."""
        if self._on_error is None:
            return self._period_seconds or FALLBACK_PAUSE_SECONDS
        try:
            return self._on_error(error, failures)
        except BaseException:  # noqa: BLE001 - not even a broken logger ends a loop
            return FALLBACK_PAUSE_SECONDS


class ReentrantStop:
    """A stop event that a finalizer or a signal handler may set.

    `threading.Event.set` takes a lock, and the code that was interrupted may hold it, for example
    in the middle of the loop's own `wait`. Putting into a SimpleQueue is documented to be safe.

    Once set, it stays set, also in the processes that are forked later. In each process one thread
    waits; any thread may call the other methods.
    """

    def __init__(self) -> None:
        self._is_set = False  # only ever set, by any thread
        self._wakes: PerProcess[SimpleQueue[None]] = PerProcess(SimpleQueue)

    def set(self) -> None:
        """Set the event, for good. Never blocks."""
        self._is_set = True
        self._wakes.get().put(None)

    def is_set(self) -> bool:
        """Return whether the event is set."""
        return self._is_set

    def wait(self, timeout: float, /) -> bool:
        """Wait at most `timeout` seconds for the event; return whether it is set."""
        if not self._is_set:
            with suppress(Empty):
                self._wakes.get().get(timeout=timeout)
        return self._is_set


class BackgroundLoop:
    """A loop that each process starts for itself, and that a finalizer may stop.

    Calls `step` in a daemon thread, at once and then `period_seconds` after each return. An error
    in a step is dropped: a step that wants its errors known reports them itself.

    The thread keeps `step` alive, and whatever that refers to, until `stop`. So `step` must not
    refer to the object whose finalizer calls `stop`.
    """

    def __init__(self, name: str, step: Callable[[], None], *, period_seconds: float) -> None:
        # Fixed after construction.
        self._stop = ReentrantStop()
        self._loops = PerProcess(
            partial(Loop, name, step=step, stop=self._stop, period_seconds=period_seconds)
        )

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called, in this process or before it was forked."""
        return self._stop.is_set()

    def start(self) -> None:
        """Start the thread, unless this process has started it already or `stop` was called.

        A forked process does not have its parent's threads, and starts its own by calling this.
        Raises RuntimeError if the system gives no more threads; may be called again then.
        """
        if not self.stopped:
            self._loops.get().start()

    def stop(self) -> None:
        """End the thread for good: at once if it pauses, otherwise after the running step.

        Never blocks, and may be called from a finalizer or a signal handler.
        """
        self._stop.set()
