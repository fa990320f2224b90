"""A clock hand that notes how late it is: whether the interpreter lets its threads run."""

from __future__ import annotations

import inspect
import logging
import math
import time
import weakref
from collections.abc import Callable

from shared_sync.common.fork import PerProcess
from shared_sync.common.loop import BackgroundLoop

SLICES = 10
ON_TICK_SECONDS = 1.0

_logger = logging.getLogger(__name__)


class _Watch:
    """What the thread noted. It alone writes, field by field; anyone may read at any time."""

    __slots__ = ("call_due", "due", "slices", "told")

    def __init__(self) -> None:
        self.due = math.inf  # when it shall wake; never while it is busy with something else
        self.call_due = -math.inf
        self.told = False
        # (number of a slice of time, worst lateness in it), each at its number's place.
        self.slices: list[tuple[int, float] | None] = [None] * (SLICES + 1)


class Ticker:
    """Wakes every `period_seconds` in a daemon thread and remembers how late it was.

    A C extension that holds the GIL, or a machine that gives no CPU, keeps all threads waiting, and
    this one too: so it can tell a process that stalls from one that is dead or idle. Any thread may
    call any method, `note` excepted.

    About once a second, never faster, it calls `on_tick`, which should be brief: nothing is noted
    meanwhile. What that raises is logged the first time. A bound method is held weakly, so that
    this thread keeps nobody alive: it is no longer called when its object is gone.
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
        self._slice_seconds = window_seconds / SLICES
        self._clock = clock
        self._background = BackgroundLoop(
            "shared-sync-ticker", self._tick, period_seconds=period_seconds
        )
        # Each process's own: a fork has not stalled because its parent did, or came before.
        self._watches = PerProcess(_Watch)

    def start(self) -> None:
        """Start the thread, once in each process; a fork starts its own by calling this again.

        Raises RuntimeError where the system gives no more threads.
        """
        self._background.start()

    def stop(self) -> None:
        """End the thread for good, promptly; safe in a finalizer. Does not wait for `on_tick`."""
        self._background.stop()

    def stall_seconds(self) -> float | None:
        """Return the worst lateness within the window, and up to a tenth of it further back.

        A lateness that goes on right now counts. None before the start.
        """
        now = self._clock()
        watch = self._watches.get()
        oldest = self._slice(now) - SLICES
        known = [noted for noted in watch.slices if noted is not None]
        if not known:
            return None
        going_on = 0.0 if self._background.stopped else max(0.0, now - watch.due)
        return max(going_on, *(worst for number, worst in known if number >= oldest), 0.0)

    def note(self, now: float) -> None:
        """Note how late it is, and that the next wake is due a period from now. For one thread."""
        watch = self._watches.get()
        late = max(0.0, now - watch.due)
        number = self._slice(now)
        place = number % len(watch.slices)
        noted = watch.slices[place]
        if noted is not None and noted[0] == number:
            late = max(late, noted[1])
        watch.slices[place] = (number, late)
        watch.due = now + self._period_seconds

    def _slice(self, now: float) -> int:
        return int(now // self._slice_seconds)

    def _tick(self) -> None:
        now = self._clock()
        self.note(now)
        watch = self._watches.get()
        if now >= watch.call_due:
            watch.call_due = now + ON_TICK_SECONDS
            watch.due = math.inf
            self._call(watch)
            watch.due = self._clock() + self._period_seconds

    def _call(self, watch: _Watch) -> None:
        on_tick = self._on_tick()
        if on_tick is None:
            return
        try:
            on_tick()
        except BaseException as error:  # whatever it is, the ticker goes on
            if not watch.told:
                watch.told = True
                _logger.warning(
                    "%r, called every second, failed; further failures are not told",
                    on_tick,
                    exc_info=error,
                )


def _weakly(function: Callable[[], None] | None) -> Callable[[], Callable[[], None] | None]:
    """Return what gives the function, or None once it is a method of an object that is gone."""
    return weakref.WeakMethod(function) if inspect.ismethod(function) else lambda: function
