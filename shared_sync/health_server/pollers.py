"""The background threads of one start of a health server: a poller for each function that it calls,
and one thread that watches them."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from shared_sync.common.clock import StallTolerantClock
from shared_sync.common.guarded import Logger
from shared_sync.common.loop import Loop
from shared_sync.common.outage import Outage
from shared_sync.common.poller import Poller, text_of
from shared_sync.health_server import payload
from shared_sync.health_server.checks import HEALTH, Check
from shared_sync.health_server.payload import HealthData

WATCH_SECONDS = 0.25
"""Between two checks whether a call is overdue."""


class CallbackLog:
    """Logs the failures of a function: the first one, each change, and the recovery."""

    def __init__(self, name: str, logger: Logger) -> None:
        self._name = name
        self._logger = logger
        self._outage = Outage()

    def failed(self, error: BaseException) -> None:
        """Log an error with its traceback, unless it was logged already."""
        # Texts that differ only in numbers (durations, addresses, counts) are the same error.
        if self._outage.begins(re.sub(r"0x[0-9a-fA-F]+|\d+", "#", text_of(error))):
            self._logger.error(
                "%s failed; what depends on it is answered as unhealthy until it recovers",
                self._name,
                exc_info=error,
            )

    def hung(self, timeout_seconds: float) -> Callable[[], None] | None:
        """Return what logs that a call hangs; None if that was logged already."""
        if not self._outage.begins("hangs"):
            return None
        return partial(
            self._logger.error,
            "%s has not returned within %g s; what depends on it is answered as unhealthy until "
            "it does",
            self._name,
            timeout_seconds,
        )

    def succeeded(self) -> None:
        """Log the end of an outage, if there was one."""
        seconds = self._outage.ends()
        if seconds is not None:
            self._logger.info("%s recovered after %.1f s", self._name, seconds)


class Pollers:
    """The pollers of one start, and the thread that watches them.

    Time limits are measured on a clock that only moves while the interpreter runs: a C extension
    that holds the interpreter lock makes no call late.
    """

    def __init__(
        self,
        critical: Collection[str],
        details: bool,
        logger: Logger,
    ) -> None:
        # Fixed after construction.
        self._critical = critical
        self._details = details
        self._logger = logger
        self._clock = StallTolerantClock(2 * WATCH_SECONDS)
        self._stop = threading.Event()
        self._watcher = Loop(
            "health-watch", step=self._watch, stop=self._stop, period_seconds=WATCH_SECONDS
        )
        # Written by `start`.
        self._on_tick: Callable[[], None] = lambda: None
        # Replaced as a whole, under the lock of the health state.
        self.checks: dict[str, Poller[HealthData]] = {}
        self.on_demand: dict[str, Poller[Any]] = {}

    def add_check(self, check: Check) -> None:
        """Call a check periodically from now on.

        Raises RuntimeError if the system has no more threads.
        """

        def call() -> HealthData:
            returned = check.function()
            if check.name == HEALTH and not isinstance(returned, Mapping):
                raise TypeError(f"{HEALTH} must return a mapping, not {type(returned).__name__}")
            return payload.parse(returned, self._critical, details=self._details)

        poller = self._poller(check.name, call, check.period_seconds, check.timeout_seconds)
        poller.start()
        self.checks = {**self.checks, check.name: poller}

    def add_on_demand(
        self, name: str, function: Callable[[], Any], timeout_seconds: float
    ) -> Poller[Any]:
        """Return the poller of that name, which is made and started if there is none yet.

        It calls the function only when requested. Raises RuntimeError if the system has no more
        threads.
        """
        poller = self.on_demand.get(name)
        if poller is None:
            poller = self._poller(name, function, None, timeout_seconds)
            poller.start()
            self.on_demand = {**self.on_demand, name: poller}
        return poller

    def _poller(
        self,
        name: str,
        function: Callable[[], Any],
        period_seconds: float | None,
        timeout_seconds: float,
    ) -> Poller[Any]:
        return Poller(
            name,
            function,
            period_seconds=period_seconds,
            timeout_seconds=timeout_seconds,
            log=CallbackLog(name, self._logger),
            thread_name=f"health-{name}",
            clock=self._clock,
        )

    def start(self, on_tick: Callable[[], None]) -> None:
        """Start the watching thread, which also calls `on_tick` a few times each second."""
        self._on_tick = on_tick
        self._watcher.start()

    def run_here(self) -> bool:
        """Whether the calling thread is one of the pollers'."""
        return any(poller.runs_here() for poller in self._pollers())

    def stop(self) -> None:
        """Ask all threads to stop; one in the middle of a call stops when that returns.

        Never blocks.
        """
        self._stop.set()
        for poller in self._pollers():
            poller.stop()

    def join(self, deadline: float) -> bool:
        """Wait until all threads have ended or until `deadline` (monotonic clock).

        Returns whether all have ended. Must not be called by one of them, which would wait for
        nothing.
        """
        ended = all(poller.join(deadline) for poller in self._pollers())
        return self._watcher.join(deadline) and ended

    def _watch(self) -> None:
        self._clock.advance()
        for poller in self._pollers():
            poller.check_overdue()
        self._on_tick()

    def _pollers(self) -> list[Poller[Any]]:
        return [*self.checks.values(), *self.on_demand.values()]
