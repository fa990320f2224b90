"""The state of a circuit breaker: closed, open or half-open, and what it has counted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from shared_sync.common.fork import renew_lock_in_forks

CLOSED: Final = "closed"
HALF_OPEN: Final = "half-open"
OPEN: Final = "open"


@dataclass(frozen=True, slots=True)
class CircuitSnapshot:
    """A circuit breaker at one moment."""

    name: str
    state: str
    """`closed`, `half-open` or `open`."""
    failures: int
    """Failures in a row since the last success; the breaker opens when they are too many."""
    seconds_until_trial: float | None
    """Seconds until it allows the next trial; None if it is closed."""
    openings: int
    """How often it has opened, failed trials not included."""
    refused: int
    """How many calls it has refused."""


class Call:
    """A call that was let through."""

    __slots__ = ("generation", "is_trial")

    def __init__(self, generation: int, *, is_trial: bool) -> None:
        self.generation = generation
        self.is_trial = is_trial


class _Report:
    """What was counted since it was last reported."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.has_succeeded = False
        self.failures = 0
        """Since the last success."""
        self.refused = 0

    def count_success(self) -> None:
        self.has_succeeded, self.failures = True, 0

    def to_dict(self) -> dict[str, Any]:
        return {
            "generation": self.generation,
            "has_succeeded": self.has_succeeded,
            "failures": self.failures,
            "refused": self.refused,
        }


class Circuit:
    """Decides which calls are let through. Any thread may call any method; none blocks.

    A call belongs to the *generation* in which it began, and what it says in a later one is
    ignored. Methods that may change the state return whether they have.
    """

    def __init__(
        self,
        name: str,
        *,
        failure_threshold: int,
        recovery_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        # Fixed after construction.
        self._name = name
        self._threshold = failure_threshold
        self._recovery_seconds = recovery_seconds
        self._clock = clock
        # Guarded by the lock, which is re-entrant: a signal handler may use the breaker, too.
        self._lock = threading.RLock()
        renew_lock_in_forks(self)
        self._generation = 0
        """Grows when it opens, and when it closes."""
        self._failures = 0
        self._trial_at: float | None = None
        """When the next trial is allowed; None if it is closed."""
        self._trial: Call | None = None
        """The newest trial, if it has not ended."""
        self._openings = 0
        self._refused = 0
        self._unreported = _Report(0)

    # --- calls ---

    def begin(self) -> Call | float:
        """Let a call through, or return in how many seconds there may be a trial."""
        with self._lock:
            seconds = self._seconds_until_trial()
            if seconds is None:
                return Call(self._generation, is_trial=False)
            if seconds == 0.0:
                self._trial = Call(self._generation, is_trial=True)
                self._trial_at = self._clock() + self._recovery_seconds
                return self._trial
            self._refused += 1
            self._unreported.refused += 1
            return seconds

    def succeeded(self, call: Call) -> bool:
        """Note that a call went well."""
        with self._lock:
            if call.generation != self._generation:
                return False
            self._unreported.count_success()
            return self._count_success()

    def failed(self, call: Call) -> bool:
        """Note that a call has failed. If it is a trial and there is a newer one, that decides."""
        with self._lock:
            if call.generation != self._generation or (call.is_trial and self._trial is not call):
                return False
            self._unreported.failures += 1
            return self._count_failures(1)

    def said_nothing(self, call: Call) -> bool:
        """Note that a call has ended in neither; after a trial, another is allowed at once."""
        with self._lock:
            if self._trial is not call:
                return False
            self._trial = None
            self._trial_at = self._clock()
            return True

    # --- what is known ---

    def snapshot(self) -> CircuitSnapshot:
        """Return its state, and what it has counted."""
        with self._lock:
            seconds = self._seconds_until_trial()
            if seconds is None:
                state = CLOSED
            else:
                state = HALF_OPEN if self._trial is not None or seconds == 0.0 else OPEN
            return CircuitSnapshot(
                self._name, state, self._failures, seconds, self._openings, self._refused
            )

    # --- copies in child processes ---

    def export_state(self) -> dict[str, Any]:
        """Return the state for `adopt()` in a child process."""
        with self._lock:
            return {
                "generation": self._generation,
                "failures": self._failures,
                "seconds_until_trial": self._seconds_until_trial(),
            }

    def adopt(self, state: Mapping[str, Any]) -> None:
        """Take over the state of the circuit of which this one is a copy."""
        with self._lock:
            seconds = state["seconds_until_trial"]
            self._generation = state["generation"]
            self._failures = state["failures"]
            self._trial_at = None if seconds is None else self._clock() + seconds
            self._trial = None
            self._unreported = _Report(self._generation)

    def take_report(self) -> dict[str, Any]:
        """Return what was counted since `adopt()`, and forget that."""
        with self._lock:
            report, self._unreported = self._unreported, _Report(self._generation)
            return report.to_dict()

    def apply_report(self, report: Mapping[str, Any]) -> bool:
        """Count what a copy has counted, unless its job began in an earlier generation."""
        with self._lock:
            self._refused += report["refused"]
            if report["generation"] != self._generation:
                return False
            has_closed = report["has_succeeded"] and self._count_success()
            failures = report["failures"]
            return (failures > 0 and self._count_failures(failures)) or has_closed

    # --- inside, with the lock ---

    def _count_success(self) -> bool:
        """Count a success; return whether the circuit has closed."""
        self._failures = 0
        if self._trial_at is None:
            return False
        self._trial_at = self._trial = None
        self._generation += 1
        return True

    def _count_failures(self, count: int) -> bool:
        """Count failures in a row; return whether the circuit has opened, or stays open."""
        if self._trial_at is None:
            self._failures += count
            if self._failures < self._threshold:
                return False
            self._openings += 1
            self._generation += 1
        self._trial = None
        self._trial_at = self._clock() + self._recovery_seconds
        return True

    def _seconds_until_trial(self) -> float | None:
        if self._trial_at is None:
            return None
        return max(0.0, self._trial_at - self._clock())
