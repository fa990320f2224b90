"""The status of a group at one moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final

from shared_sync.group_status.consumers import Consumer, ConsumerState, of_state
from shared_sync.group_status.history import Rates
from shared_sync.group_status.problems import DEGRADED, UNHEALTHY, Problem
from shared_sync.protocol.group_reading import GroupReading
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.survey import Survey

HEALTHY: Final = "healthy"
MOST_SHOWN: Final = 100
"""Consumers that are shown."""


@dataclass(frozen=True, slots=True)
class Status:
    """How a group is: what was read, what follows from it, and what is wrong."""

    keys: Keys
    reading: GroupReading
    survey: Survey
    """The newest survey, which may be some seconds older than the reading."""
    rates: Rates | None
    consumers: Sequence[Consumer]
    problems: Sequence[Problem]
    """The worst first."""

    @property
    def health(self) -> str:
        """How the group is: as bad as its worst problem."""
        return self.problems[0].health if self.problems else HEALTHY

    @property
    def reasons(self) -> list[str]:
        """The problems with their remedies."""
        return [problem.reason for problem in self.problems]

    @property
    def depth(self) -> int:
        """Messages that this group has not finished."""
        return self.reading.waiting + self.reading.pending

    @property
    def oldest_waiting_seconds(self) -> float | None:
        """For how long the oldest message has waited to be read; 0 if none waits."""
        return self.survey.oldest_waiting_seconds if self.reading.waiting else 0.0

    @property
    def next_parked_seconds(self) -> float | None:
        """Time until the next parked message is due; None if none is parked."""
        due_ms = self.reading.next_due_ms
        return None if due_ms is None else max(0.0, (due_ms - self.reading.now_ms) / 1000)

    @property
    def seconds_to_empty(self) -> float | None:
        """When the queue is empty at these rates; None if it does not shrink, or is not known."""
        if not self.depth:
            return 0.0
        if self.rates is None or self.rates.completions <= self.rates.arrivals:
            return None
        return self.depth / (self.rates.completions - self.rates.arrivals)

    @property
    def alive(self) -> int:
        """How many consumers live."""
        return len(of_state(self.consumers, ConsumerState.LIVE)) + self._not_shown

    @property
    def _not_shown(self) -> int:
        """Consumers beyond those that were read; their leases end last."""
        shown = sum(bool(one.lease_seconds_left) for one in self.consumers)
        return max(0, self.reading.leases - shown)

    def to_json(self) -> dict[str, Any]:
        """Return it as a page and `--json` show it."""
        reading, rates, pause = self.reading, self.rates, self.reading.pause
        return {
            "stream": self.keys.stream,
            "group": self.keys.group,
            "at": iso(reading.now_ms),
            "health": self.health,
            "problems": [problem.to_json() for problem in self.problems],
            "depth": self.depth,
            "waiting": reading.waiting,
            "oldest_waiting_seconds": _rounded(self.oldest_waiting_seconds),
            "in_flight": reading.pending - reading.parked,
            "parked": reading.parked,
            "next_parked_seconds": _rounded(self.next_parked_seconds),
            "dead": reading.dead,
            "scheduled": reading.scheduled,
            "arrivals_per_second": _rounded(rates.arrivals if rates else None),
            "completions_per_second": _rounded(rates.completions if rates else None),
            "rates_over_seconds": _rounded(rates.seconds if rates else None),
            "seconds_to_empty": _rounded(self.seconds_to_empty),
            "paused": None
            if pause is None
            else {
                "by": pause.by,
                "at": iso(pause.at_ms),
                "seconds": max(0.0, (reading.now_ms - pause.at_ms) / 1000),
                "reason": pause.reason,
            },
            "consumers_alive": self.alive,
            "consumers": [
                one.to_json(group_is_paused=pause is not None)
                for one in self.consumers[:MOST_SHOWN]
            ],
            "consumers_total": reading.consumers_total,
        }


def iso(ms: int) -> str:
    """Return a time of the server as text, in UTC."""
    moment = datetime.fromtimestamp(ms / 1000, timezone.utc)
    return moment.isoformat(timespec="milliseconds")


def exit_status(health: str) -> int:
    """Return the exit status of a command that has found this health."""
    return {DEGRADED: 3, UNHEALTHY: 4}.get(health, 0)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
