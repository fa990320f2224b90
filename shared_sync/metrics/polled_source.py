"""A source of values that may hang or fail: a background thread reads it, so that nobody waits."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from shared_sync.common.fork import PerProcess
from shared_sync.common.outage import Outage
from shared_sync.common.poller import Poller, PollResult

T = TypeVar("T")

_logger = logging.getLogger(__name__)


class NothingToRead(Exception):
    """Raised by the function of a source: there is nothing to read, and never will be."""


class _SourceLog:
    """Logs the first failure or hang of a source, and its recovery; errors only by their type."""

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        # Fixed after construction.
        self._name = name
        # Each process's own: a fork does not recover from an outage of its parent.
        self._outages = PerProcess(partial(Outage, clock))
        # Written by the source's thread; any thread may read.
        self.call_began_at = 0.0

    def failed(self, error: BaseException) -> None:
        if self._begins():
            self._warn(f"fails: {type(error).__name__}")

    def hung(self, timeout_seconds: float) -> Callable[[], None] | None:
        if not self._begins():
            return None
        return partial(self._warn, f"has not answered for {timeout_seconds:g} s")

    def succeeded(self) -> None:
        seconds = self._outages.get().ends()
        if seconds is not None:
            _logger.info("source %s answers again after %.1f s", self._name, seconds)

    def _begins(self) -> bool:
        return self._outages.get().begins(since=self.call_began_at)

    def _warn(self, problem: str) -> None:
        _logger.warning(
            "source %s %s; its values are missing until it answers again", self._name, problem
        )


class PolledSource(Generic[T]):
    """Calls `read` from a daemon thread, at once and then `period_seconds` after each return.

    A call that takes longer than `limit_seconds` hangs: there is no value until it returns, and no
    way to interrupt it. The first failure or hang is logged, then nothing until the recovery.

    The thread keeps `read` alive, and whatever that refers to, until `stop`. So `read` must not
    refer to the object whose finalizer calls `stop`. Any thread may call any method; none blocks.

    Args:
        name: The name of the source, for the log and the thread.
        read: Returns the values. May block and may raise anything. If it raises `NothingToRead`,
            the thread ends, and that is no failure.
        period_seconds: Seconds from the end of one call to the beginning of the next.
        limit_seconds: Time limit of one call.
        clock: Counts seconds and never runs backwards.
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
        self._read = read
        self._clock = clock
        self._log = _SourceLog(name, clock)
        self._poller: Poller[T | None] = Poller(
            name,
            self._call,
            period_seconds=period_seconds,
            timeout_seconds=limit_seconds,
            log=self._log,
            thread_name=f"shared-sync-{name}",
            clock=clock,
        )

    def start(self) -> None:
        """Start the thread, once in each process; a fork starts its own by calling this again.

        Raises RuntimeError if the system gives no more threads.
        """
        self._poller.start()

    def stop(self) -> None:
        """End the thread for good: at once, or when the running call returns. Never blocks."""
        self._poller.stop()

    def latest(self) -> T | None:
        """Return what the last call returned.

        None before the first call has returned, if the last one raised, while one hangs, and after
        `stop`.
        """
        result = self._result()
        return None if result.hangs or self._poller.stopped else result.value

    @property
    def failures(self) -> int:
        """The calls of this process that raised, and those that hung, counted from then on."""
        return self._result().failures

    def _result(self) -> PollResult[T | None]:
        return self._poller.check_overdue()

    def _call(self) -> T | None:
        self._log.call_began_at = self._clock()
        try:
            return self._read()
        except NothingToRead:
            self.stop()
            return None
