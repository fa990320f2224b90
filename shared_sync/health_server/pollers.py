"""The background threads of one start of a health server: a caller for each function, a pulse."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from shared_sync.common.clock import StallTolerantClock
from shared_sync.health_server import payload
from shared_sync.health_server.check_result import HEALTH, Check
from shared_sync.health_server.payload import HealthData
from shared_sync.health_server.poller import Caller

if TYPE_CHECKING:
    from shared_sync.health_server.poller import Logger

PULSE_SECONDS = 0.25


class Ending:
    """Calls that were told to end, which one in the middle of something does only after it."""

    def __init__(self, threads: list[threading.Thread]) -> None:
        self._threads = threads

    @property
    def ended(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def join(self, deadline: float) -> bool:
        """Wait until all have ended or the moment (monotonic clock) has come; whether all have."""
        for thread in self._threads:
            if thread is threading.current_thread():
                return False
            thread.join(max(0.0, deadline - monotonic()))
        return self.ended


class Calls:
    """The threads of one start: a caller for each function, and the pulse that watches them."""

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
        self._patient = StallTolerantClock(2 * PULSE_SECONDS)
        self._stopping = threading.Event()
        # Owned by whoever starts.
        self._pulse: threading.Thread | None = None
        # Replaced as a whole, under the board's lock.
        self.checks: dict[str, Caller[HealthData]] = {}
        self.demanded: dict[str, Caller[Any]] = {}

    def add_check(self, check: Check) -> None:
        def convert(returned: object) -> HealthData:
            if check.name == HEALTH and not isinstance(returned, Mapping):
                raise TypeError(f"{HEALTH} must return a mapping, not {type(returned).__name__}")
            return payload.parse(returned, self._critical, details=self._details)

        caller = self._caller(
            check.name, check.function, convert, check.period_seconds, check.timeout_seconds
        )
        caller.start()
        self.checks = {**self.checks, check.name: caller}

    def on_demand(
        self,
        name: str,
        function: Callable[[], object],
        convert: Callable[[object], Any],
        timeout_seconds: float,
    ) -> Caller[Any]:
        caller = self.demanded.get(name)
        if caller is None:
            caller = self._caller(name, function, convert, None, timeout_seconds)
            caller.start()
            self.demanded = {**self.demanded, name: caller}
        return caller

    def _caller(
        self,
        name: str,
        function: Callable[[], object],
        convert: Callable[[object], Any],
        period_seconds: float | None,
        timeout_seconds: float,
    ) -> Caller[Any]:
        return Caller(
            name,
            function,
            convert,
            period_seconds=period_seconds,
            timeout_seconds=timeout_seconds,
            patient=self._patient,
            logger=self._logger,
        )

    def start(self, on_pulse: Callable[[], None]) -> None:
        """Start the pulse, which calls `on_pulse` a few times each second."""
        self._pulse = threading.Thread(
            target=self._run, args=(on_pulse,), name="health-pulse", daemon=True
        )
        self._pulse.start()

    def has(self, thread: threading.Thread) -> bool:
        return any(thread is caller.thread for caller in self._callers())

    def stop(self) -> Ending:
        """Tell all threads to end; never waits."""
        self._stopping.set()
        callers = self._callers()
        for caller in callers:
            caller.stop()
        threads = [caller.thread for caller in callers]
        if self._pulse is not None and self._pulse.ident is not None:
            threads.append(self._pulse)
        return Ending(threads)

    def _run(self, on_pulse: Callable[[], None]) -> None:
        while not self._stopping.is_set():
            with suppress(BaseException):  # what goes wrong with one beat is no reason to end
                self._stopping.wait(PULSE_SECONDS)
                self._patient.advance()
                for caller in self._callers():
                    caller.look()
                on_pulse()

    def _callers(self) -> list[Caller[Any]]:
        return [*self.checks.values(), *self.demanded.values()]
