"""Functions of the user called from background threads, so that no request waits for one."""

from __future__ import annotations

import logging
import math
import re
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]

T = TypeVar("T")

OVERDUE_SECONDS = 5.0
"""How much later than it is due a call may begin, on the patient clock; later, it hangs."""


@dataclass(frozen=True, slots=True)
class Last(Generic[T]):
    """All that is known of a function: what its last call gave, and the one that runs."""

    value: T | None = None
    """What the last call gave; None before the first ended, and if it failed."""

    error: str | None = None
    """What the last call raised, type and text; not itself, which would keep its frames alive."""

    hangs: bool = False
    """Whether the call that runs has passed its time limit, or one that is due has not begun."""

    ended_at: float | None = None
    """When the last call ended, on the monotonic clock."""

    running_since: float | None = None
    """When the call that runs began, on the monotonic clock."""


class Caller(Generic[T]):
    """Calls a function from a thread of its own: every `period_seconds`, and when it is asked to.

    A call that takes longer than `timeout_seconds` hangs until it returns; there is no way to end
    it, and no other is made meanwhile. `convert` makes of what it returned what is kept; an error
    in there is the function's. The first failure or hang is logged, then nothing until it changes
    or recovers.

    `start` is called once. Any thread may call any method, `look` excepted.

    Args:
        name: The name of the function, for the log and the thread.
        function: What is called.
        convert: Makes a T of what the function returned, in the same thread.
        period_seconds: From the end of a call to the next; None to call only when asked.
        timeout_seconds: How long a call may take.
        patient: The clock for that limit; whoever moves it calls `look` after.
        logger: Where failures are told.
    """

    def __init__(
        self,
        name: str,
        function: Callable[[], object],
        convert: Callable[[object], T],
        *,
        period_seconds: float | None,
        timeout_seconds: float,
        patient: Callable[[], float],
        logger: Logger,
    ) -> None:
        # Fixed after construction.
        self.name = name
        self.period_seconds = period_seconds
        self.timeout_seconds = timeout_seconds
        self._function = function
        self._convert = convert
        self._patient = patient
        self._troubles = _Troubles(name, logger)
        self.thread = threading.Thread(target=self._run, name=f"health-{name}", daemon=True)
        # Guarded by the lock of the condition, which is told of every change. Re-entrant, because
        # a signal handler may stop what its own thread was just asking.
        self._changed = threading.Condition(threading.RLock())
        self._last: Last[T] = Last()
        self._asked = 0  # tickets given out
        self._served = 0  # tickets given out before a call began that has ended
        self._moved = patient()  # when a call began or ended, on the patient clock
        self._stopping = False

    @property
    def last(self) -> Last[T]:
        return self._last  # replaced as a whole

    def start(self) -> None:
        """Start the thread. Raises RuntimeError where the system gives no more."""
        self.thread.start()

    def stop(self) -> None:
        """Have the thread end: at once, or when the call it is in returns. Never waits."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def ask(self) -> int:
        """Have the function called soon, if it is not called on anyway; return the ticket."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()
            return self._asked

    def has_served(self, ticket: int) -> bool:
        """Whether a call that began after `ask` returned this ticket has ended."""
        return self._served >= ticket

    def fresh(self, wait_seconds: float) -> tuple[Last[T], bool]:
        """Have the function called now; what is known then, or after so long at most.

        Returns also whether that is of a call which began after this one. Does not wait for a
        call that has been running for longer than that already.
        """
        with self._changed:
            since = self._last.running_since
            if since is not None and monotonic() - since >= wait_seconds:
                return self._last, False
            ticket = self.ask()
            self._changed.wait_for(
                lambda: (
                    self._served >= ticket
                    or self._stopping
                    or (self._last.hangs and self._last.running_since is not None)
                ),
                wait_seconds,
            )
            return self._last, self._served >= ticket

    def look(self) -> None:
        """Find out whether the call that runs hangs, or one that is due does not come.

        For the thread that moves the clock.
        """
        with self._changed:
            last = self._last
            if last.hangs or self._patient() - self._moved <= self._patience(last):
                return
            self._last = replace(last, hangs=True)
            self._changed.notify_all()
        if not self._troubles.hangs():
            return
        # In a thread of its own: where the log hangs, this one must go on to look.
        with suppress(RuntimeError):  # there are no more threads
            threading.Thread(
                target=self._troubles.tell_hang,
                args=(self.timeout_seconds,),
                name=f"health-{self.name}-log",
                daemon=True,
            ).start()

    def _patience(self, last: Last[T]) -> float:
        """How long after its last step the function may take for the next one."""
        if last.running_since is not None:
            return self.timeout_seconds
        if self.period_seconds is None:
            return math.inf
        return self.period_seconds + self.timeout_seconds + OVERDUE_SECONDS

    def _run(self) -> None:
        while not self._stopping:
            # Even an error that is thrown into the thread while it waits.
            with suppress(BaseException):
                self._repeat()

    def _repeat(self) -> None:
        ticket = self._next_ticket()
        while ticket is not None:
            self._call(ticket)
            ticket = self._next_ticket()

    def _next_ticket(self) -> int | None:
        """Wait until a call is due or asked for; None when there shall be no more."""
        with self._changed:
            if self._last.ended_at is not None or self.period_seconds is None:
                self._changed.wait_for(
                    lambda: self._stopping or self._asked > self._served, self.period_seconds
                )
            if self._stopping:
                return None
            self._moved = self._patient()
            self._last = replace(self._last, running_since=monotonic(), hangs=False)
            return self._asked

    def _call(self, ticket: int) -> None:
        value: T | None = None
        error: BaseException | None = None
        try:
            value = self._convert(self._function())
        except BaseException as raised:  # noqa: BLE001 - a call that exits has failed as well
            error = raised
        # Told first, so that who asked finds the reason in the log.
        if error is not None:
            self._troubles.failed(error)
        else:
            self._troubles.went_well()
        told = None if error is None else _text_of(error)
        with self._changed:
            self._moved = self._patient()
            self._last = Last(value, told, ended_at=monotonic())
            self._served = ticket
            self._changed.notify_all()


class _Troubles:
    """The log of a function's failures: the first, silence, a change, the recovery."""

    def __init__(self, name: str, logger: Logger) -> None:
        self._name = name
        self._logger = logger
        self._lock = threading.Lock()
        # Guarded by the lock.
        self._trouble: str | None = None
        self._since = 0.0

    def failed(self, error: BaseException) -> None:
        # Texts that differ only in numbers (durations, addresses, counts) are the same trouble.
        if self._is_new(re.sub(r"0x[0-9a-fA-F]+|\d+", "#", _text_of(error))):
            self._logger.error(
                "%s failed; what depends on it is answered as unhealthy until it recovers",
                self._name,
                exc_info=error,
            )

    def hangs(self) -> bool:
        """Note that it hangs; whether that is to be told. Never logs, and so never waits."""
        return self._is_new("hangs")

    def tell_hang(self, timeout_seconds: float) -> None:
        self._logger.error(
            "%s has not returned within %g s; what depends on it is answered as unhealthy until "
            "it does",
            self._name,
            timeout_seconds,
        )

    def went_well(self) -> None:
        with self._lock:
            if self._trouble is None:
                return
            self._trouble = None
            seconds = monotonic() - self._since
        self._logger.info("%s recovered after %.1f s", self._name, seconds)

    def _is_new(self, trouble: str) -> bool:
        with self._lock:
            if trouble == self._trouble:
                return False
            if self._trouble is None:
                self._since = monotonic()
            self._trouble = trouble
            return True


def _text_of(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(type(error), error)).strip()
