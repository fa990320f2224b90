"""What open circuit breakers mean for a consumer: it takes no messages, and charges nothing."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from shared_sync.circuit_breaker import CircuitBreaker
from shared_sync.common.circuit import CLOSED, HALF_OPEN, OPEN, CircuitSnapshot
from shared_sync.common.exceptions import chain_of
from shared_sync.common.fork import renew_lock_in_forks
from shared_sync.common.guarded import GuardedRecorder
from shared_sync.common.passages import Passage, passages_of
from shared_sync.errors import CircuitOpen, Reject, Retry
from shared_sync.redis_consumer.faults.pauses import Pauses

SHORTEST_PAUSE_SECONDS: Final = 1.0
"""How long readers pause at least for a breaker that is not known here, which cannot tell when it
closes: what was handed back could circle otherwise."""

LONGEST_PAUSE_SECONDS: Final = 86_400.0
"""How long they pause for it at most."""

MOST_TRIALS: Final = 3
"""After so many messages in a row that did without the breaker although a trial was due, all are
taken again: perhaps none that needs it comes. The breaker itself lets one trial through."""

STATE_NUMBERS: Final = {CLOSED: 0, HALF_OPEN: 1, OPEN: 2}
"""The states in the metrics."""


class CircuitBreakers:
    """Holds the readers of one pool while a circuit breaker that a message needs is not closed.

    It holds them for each breaker whose error has come out of a processor, whether or not the
    consumer was given that breaker, and releases them when the breaker has closed. Once the breaker
    allows a trial, one message at a time is tried, until some have done without the breaker. Any
    thread may call any method; none blocks long.
    """

    def __init__(
        self,
        given: Sequence[CircuitBreaker],
        *,
        pauses: Pauses,
        recorder: GuardedRecorder,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`given` are the breakers to show, with different names."""
        # Fixed after construction.
        self._given = {breaker.name: breaker for breaker in given}
        self._pauses = pauses
        self._recorder = recorder
        self._clock = clock
        # Guarded by the lock, which is re-entrant: a signal handler may use a breaker, too.
        self._lock = threading.RLock()
        renew_lock_in_forks(self)
        self._subscribed: weakref.WeakSet[CircuitBreaker] = weakref.WeakSet()
        self._holding: set[CircuitBreaker] = set()
        """Those that have held the readers and have not closed since."""
        # Owned by the heartbeat thread.
        self._recorded = dict.fromkeys(self._given, (0, 0))
        """For each breaker, the openings and the refused calls that the metrics have."""

    # --- holding the readers ---

    def stop_for(self, error: BaseException) -> str | None:
        """Return why nobody is to blame for an error of a processor; None if no breaker says so.

        That is so if a breaker has refused a call, or if the error has come through a breaker that
        is not closed now: it was counted as a trial, or when the breaker opened, or later. `Reject`
        and `Retry` are decisions of the processor. Unless the breaker has closed meanwhile, the
        readers are held when this returns: what is handed back could come back at once otherwise.
        """
        if isinstance(error, (Reject, Retry)):
            return None
        why: str | None = None
        for one in chain_of(error):
            is_refusal = isinstance(one, CircuitOpen)
            if not is_refusal and not passages_of(one):
                continue  # as nearly always
            breakers = self._breakers_of(one)
            for breaker in breakers:
                if self._hold(breaker) or is_refusal:
                    why = why or _open(breaker.name)
            if isinstance(one, CircuitOpen) and not breakers:
                self._hold_for_a_while(one)
                why = why or _open(one.name)
        return why

    def changed(self, breaker: CircuitBreaker) -> None:
        """Note that a breaker has opened or closed, or that its trial has ended."""
        with self._lock:
            if breaker in self._holding:
                self._hold(breaker)

    def _breakers_of(self, error: BaseException) -> list[CircuitBreaker]:
        """Return the breakers known here that an error has come through."""
        passages = list(passages_of(error))
        if isinstance(error, CircuitOpen) and not passages:
            passages.append(Passage(error.name))
        found = [one.breaker or self._given.get(one.name) for one in passages]
        return [breaker for breaker in found if breaker is not None]

    def _hold(self, breaker: CircuitBreaker) -> bool:
        """Hold the readers until the next trial of a breaker, or release them if it is closed.

        Returns whether they are held.
        """
        with self._lock:
            if breaker not in self._subscribed:
                breaker.subscribe(self.changed)
                self._subscribed.add(breaker)
            seconds = breaker.snapshot().seconds_until_trial
            name = _name_of(breaker)
            if seconds is None:
                self._holding.discard(breaker)
                self._pauses.release(name)
                return False
            self._holding.add(breaker)
            self._pauses.hold(
                name,
                _open(breaker.name),
                until=self._clock() + seconds,
                trials=True,
                most_trials=MOST_TRIALS,
            )
            return True

    def _hold_for_a_while(self, refusal: CircuitOpen) -> None:
        seconds = min(
            max(SHORTEST_PAUSE_SECONDS, refusal.retry_after_seconds), LONGEST_PAUSE_SECONDS
        )
        self._pauses.hold(
            f"circuit breaker {refusal.name}", _open(refusal.name), until=self._clock() + seconds
        )

    # --- what is shown ---

    def reasons(self) -> list[str]:
        """Return why the consumer is degraded because of given breakers that hold no reader."""
        seen = [
            one.snapshot()
            for one in self._given.values()
            if not self._pauses.is_held_by(_name_of(one))
        ]
        return [_reason(one) for one in seen if one.state != CLOSED]

    def rows(self) -> list[dict[str, Any]]:
        """Return the given breakers as a dashboard shows them."""
        seen = [one.snapshot() for one in self._given.values()]
        return [
            {
                "name": one.name,
                "state": one.state,
                "failures": one.failures,
                "trial_in_seconds": one.seconds_until_trial,
                "openings": one.openings,
                "refused": one.refused,
            }
            for one in seen
        ]

    def record(self) -> None:
        """Record the given breakers in the metrics. For the heartbeat thread."""
        for name, breaker in self._given.items():
            seen, (openings, refused) = breaker.snapshot(), self._recorded[name]
            self._recorder.record_circuit_breaker(
                name,
                state=STATE_NUMBERS[seen.state],
                openings=seen.openings - openings,
                refused=seen.refused - refused,
            )
            self._recorded[name] = (seen.openings, seen.refused)

    # --- copies in child processes ---

    def export_states(self) -> dict[str, dict[str, Any]]:
        """Return the states of the given breakers for a child process, as JSON can express them."""
        return {name: breaker.export_state() for name, breaker in self._given.items()}

    def apply_reports(self, reports: Mapping[str, Mapping[str, Any]]) -> None:
        """Count what the copies of given breakers in a child process have counted."""
        for name, report in reports.items():
            if name in self._given:
                self._given[name].apply_report(report)


def _name_of(breaker: CircuitBreaker) -> str:
    return f"circuit breaker {id(breaker)}"


def _open(name: str) -> str:
    return f"circuit breaker {name!r} is open"


def _reason(seen: CircuitSnapshot) -> str:
    if seen.state == HALF_OPEN:
        return f"circuit breaker {seen.name!r} is half-open: the next call is a trial"
    return f"{_open(seen.name)}, next trial in {seen.seconds_until_trial or 0.0:.0f} s"
