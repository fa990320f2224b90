"""Measures stalls: how long the interpreter did not let its threads run."""

from __future__ import annotations

import inspect
import logging
import math
import time
import weakref
from collections.abc import Callable
from functools import partial

from shared_sync.common.fork import PerProcess
from shared_sync.common.loop import BackgroundLoop
from shared_sync.metrics.sliding_window import SlidingWindow

CALL_SECONDS = 1.0
"""Pause between two calls of the function that the detector calls regularly."""

_logger = logging.getLogger(__name__)


class _Delays:
    """The delays of one process. Only the detector's thread writes; any thread may read."""

    __slots__ = ("call_due", "current", "due", "failure_logged", "window")

    def __init__(self, window_seconds: float) -> None:
        self.due = math.inf  # when the thread ought to wake; infinite while it calls the function
        self.window: SlidingWindow[float] = SlidingWindow(window_seconds)  # worst delay per slice
        self.current: tuple[float, float] | None = None  # end of the current slice, worst delay
        self.call_due = -math.inf
        self.failure_logged = False


class StallDetector:
    """Wakes every `period_seconds` in a daemon thread and remembers how late each wake was.

    While a C extension holds the interpreter lock, or the machine gives the process no CPU, all
    threads wait, and the detector's thread too. So a late wake tells a process that stalls from one
    that is dead or idle. Any thread may call any method, except `note`.

    About once a second, never more often, the thread calls `on_tick`, which should be brief: the
    time it takes is not measured. The first error that it raises is logged. A bound method is held
    weakly, so that this thread keeps no object alive; it is not called any more once its object is
    gone.
    """

    def __init__(
        self,
        on_tick: Callable[[], None] | None = None,
        *,
        period_seconds: float = 0.1,
        window_seconds: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Fixed after construction.
        self._on_tick = _weakly(on_tick)
        self._period_seconds = period_seconds
        self._clock = clock
        self._loop = BackgroundLoop(
            "shared-sync-stall-detector", self._tick, period_seconds=period_seconds
        )
        # Each process's own: a stall of the parent, before the fork or after, is not the child's.
        self._delays = PerProcess(partial(_Delays, window_seconds))

    def start(self) -> None:
        """Start the thread, once in each process; a fork starts its own by calling this again.

        Raises RuntimeError if the system gives no more threads.
        """
        self._loop.start()

    def stop(self) -> None:
        """End the thread for good. Never waits, not even for `on_tick`; safe in a finalizer."""
        self._loop.stop()

    def stall_seconds(self) -> float | None:
        """Return the longest stall within the window, and up to a tenth of it further back.

        A stall that goes on right now counts with its length so far. None before the start.
        """
        now = self._clock()
        delays = self._delays.get()
        current = delays.current  # read before the window, which a slice moves to when it ends
        if current is None:
            return None
        lasting = 0.0 if self._loop.stopped else max(0.0, now - delays.due)
        slices = (*delays.window.slices, current)
        ended = [delay for end, delay in slices if delays.window.is_within(end, now)]
        return max(lasting, *ended, 0.0)

    def note(self, now: float) -> None:
        """Record how late this wake is; the next one is due a period later.

        For one thread at a time.
        """
        delays = self._delays.get()
        delay = max(0.0, now - delays.due)
        current = delays.current
        if current is not None and now >= current[0]:
            delays.window.add(*current)
            delays.window.expire(now)
            current = None
        if current is None:
            current = (delays.window.end_of_slice(now), 0.0)
        delays.current = (current[0], max(current[1], delay))
        delays.due = now + self._period_seconds

    def _tick(self) -> None:
        now = self._clock()
        self.note(now)
        delays = self._delays.get()
        if now >= delays.call_due:
            delays.call_due = now + CALL_SECONDS
            delays.due = math.inf
            self._call(delays)
            delays.due = self._clock() + self._period_seconds

    def _call(self, delays: _Delays) -> None:
        on_tick = self._on_tick()
        if on_tick is None:
            return
        try:
            on_tick()
        except BaseException as error:  # whatever it is, the thread goes on
            if not delays.failure_logged:
                delays.failure_logged = True
                _logger.warning(
                    "%r, which is called every second, failed; later failures are not logged",
                    on_tick,
                    exc_info=error,
                )


def _weakly(function: Callable[[], None] | None) -> Callable[[], Callable[[], None] | None]:
    """Return a function that gives `function`, or None once the object of a method is gone."""
    return weakref.WeakMethod(function) if inspect.ismethod(function) else lambda: function
