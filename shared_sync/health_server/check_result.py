"""A check of a health server, and what is known of it just now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from shared_sync.common.poller import PollResult
from shared_sync.health_server import payload
from shared_sync.health_server.payload import DEGRADED, HEALTHY, UNHEALTHY, HealthData

HEALTH: Final = "get_health_data"
"""The callback is a check of this name; its reasons are told without the name."""

LONGEST_DETAIL: Final = 2000
"""Characters of an error that are told."""


@dataclass(frozen=True, slots=True)
class Check:
    """A function that tells whether something is well, and what depends on that."""

    name: str
    function: Callable[[], object]
    critical: bool
    liveness: bool
    readiness: bool
    startup: bool
    period_seconds: float
    timeout_seconds: float

    @property
    def probes(self) -> list[str]:
        asked = {"live": self.liveness, "ready": self.readiness, "startup": self.startup}
        return [probe for probe, counts in asked.items() if counts]


@dataclass(frozen=True, slots=True)
class Failure:
    told: str
    detail: str | None


@dataclass(frozen=True, slots=True)
class Finding:
    """A check, and what is known of it just now."""

    check: Check
    last: PollResult[HealthData]

    @property
    def data(self) -> HealthData | None:
        return self.last.value

    @property
    def failure(self) -> Failure | None:
        if self.last.hangs:
            return Failure(
                f"{self.check.name} timed out after {self.check.timeout_seconds:g} s", None
            )
        if self.last.error is not None:
            return Failure(f"{self.check.name} failed", as_detail(self.last.error))
        return None

    @property
    def status(self) -> str:
        """What it makes of the whole: a check that is not critical degrades it at most."""
        if self.failure is not None:
            status = UNHEALTHY
        elif self.data is None:
            status = DEGRADED
        else:
            status = self.data.status
        return DEGRADED if status == UNHEALTHY and not self.check.critical else status

    @property
    def own_reasons(self) -> list[str]:
        """Why it is not healthy, in its own words."""
        if self.failure is not None:
            return [self.failure.told]
        if self.data is None:
            return [f"{self.check.name} has not answered yet"]
        return [*self.data.reasons]

    @property
    def reasons(self) -> list[str]:
        """The same beside those of other checks, each under the name of its own."""
        told = self.own_reasons
        if self.failure is not None or self.data is None or self.check.name == HEALTH:
            return told
        name, status = self.check.name, self.data.status
        return [f"{name}: {reason}" for reason in told] or [f"{name}: {status}"] * (
            status != HEALTHY
        )

    @property
    def whys(self) -> list[str]:
        """Why a probe is answered badly for it, which always has a reason."""
        return self.reasons or [f"{self.check.name} says so"]

    @property
    def live(self) -> bool:
        if self.check.liveness and self.failure is not None:
            return False
        # The last word of one that hangs still counts; one that never spoke says nothing.
        if self.data is not None and self.data.live is not None:
            return self.data.live
        return not self.check.liveness or self.data is None or self.data.status != UNHEALTHY

    @property
    def ready(self) -> bool:
        if self.data is not None and not self.data.ready:
            return False
        if not self.check.readiness:
            return True
        if self.failure is not None or self.data is None:
            return False
        return self.data.status != UNHEALTHY

    @property
    def started(self) -> bool:
        if self.data is not None and not self.data.started:
            return False
        if not self.check.startup:
            return True
        if self.failure is not None or self.data is None:
            return False
        # What the callback tells of other things than loading is no matter of the start.
        return self.check.name == HEALTH or self.data.status != UNHEALTHY

    def told(self) -> dict[str, Any]:
        """Its part of /health."""
        figures = self.data.figures if self.data and self.failure is None else {}
        told = {
            "status": self._own_status(),
            "age_seconds": age(self.last.ended_at),
            "critical": self.check.critical,
        }
        reasons = {"reasons": self.own_reasons} if self.own_reasons else {}
        return {**told, **figures, **told, **reasons}

    def listed(self) -> dict[str, Any]:
        """Its line on the page."""
        return {
            "name": self.check.name,
            "status": self._own_status(),
            "reasons": self.own_reasons,
            "critical": self.check.critical,
            "probes": self.check.probes,
            "age_seconds": age(self.last.ended_at),
            "running_seconds": age(self.last.running_since),
            "timeout_seconds": self.check.timeout_seconds,
            "period_seconds": self.check.period_seconds,
            "figures": self.data.figures if self.data else {},
        }

    def _own_status(self) -> str:
        if self.failure is None and self.data is not None:
            return self.data.status
        return self.status if self.failure is None else UNHEALTHY


def as_detail(error: str) -> str:
    """An error as the details tell it, without what URLs in it have of passwords."""
    return str(payload.presentable(error, details=True))[:LONGEST_DETAIL]


def age(moment: float | None) -> float | None:
    """How many seconds ago that was on the monotonic clock; None if it never was."""
    return None if moment is None else round(monotonic() - moment, 3)
