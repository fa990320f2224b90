"""The checks of a health server, and what their newest results mean for health and probes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from shared_sync.common import arguments
from shared_sync.common.poller import PollResult
from shared_sync.errors import ConfigurationError
from shared_sync.health_server import payload
from shared_sync.health_server.payload import DEGRADED, HEALTHY, UNHEALTHY, HealthData

HEALTH: Final = "get_health_data"
"""The name of the check that calls the server's callback; its reasons are listed without it."""

SECONDS: Final = (0.01, 86_400)
"""The shortest and the longest period and time limit."""

LONGEST_DETAIL: Final = 2000
"""Characters of an error text that are shown."""


@dataclass(frozen=True, slots=True)
class Check:
    """A function that returns whether something is well, and what depends on that."""

    name: str
    function: Callable[[], object]
    critical: bool
    liveness: bool
    readiness: bool
    startup: bool
    period_seconds: float
    timeout_seconds: float

    def __post_init__(self) -> None:
        """Raises `ConfigurationError` for what cannot work."""
        arguments.text("name", self.name)
        if not callable(self.function):
            raise ConfigurationError(
                f"the check {self.name!r} must be a function, not {self.function!r}"
            )
        arguments.number("period_seconds", self.period_seconds, *SECONDS)
        arguments.number("timeout_seconds", self.timeout_seconds, *SECONDS)

    @property
    def probes(self) -> list[str]:
        """The probes that this check is registered for."""
        registered = {"live": self.liveness, "ready": self.readiness, "startup": self.startup}
        return [probe for probe, counts in registered.items() if counts]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a call brought no data."""

    reason: str
    """For everybody."""

    detail: str | None
    """Only shown by a server with `details=True`; None if there is none."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A check with its newest result."""

    check: Check
    polled: PollResult[HealthData]

    @property
    def data(self) -> HealthData | None:
        """What the last finished call returned; None before the first one, and if it raised."""
        return self.polled.value

    @property
    def failure(self) -> Failure | None:
        """Why the check has no valid data now; None if it has, or was not called yet."""
        if self.polled.hangs:
            return Failure(
                f"{self.check.name} timed out after {self.check.timeout_seconds:g} s", None
            )
        if self.polled.error is not None:
            return Failure(f"{self.check.name} failed", as_detail(self.polled.error))
        return None

    @property
    def status(self) -> str:
        """What the check contributes to the whole: degraded at worst, if it is not critical."""
        if self.failure is not None:
            status = UNHEALTHY
        elif self.data is None:
            status = DEGRADED
        else:
            status = self.data.status
        return DEGRADED if status == UNHEALTHY and not self.check.critical else status

    @property
    def own_status(self) -> str:
        """The status of the check itself, whether or not it is critical."""
        if self.failure is None and self.data is not None:
            return self.data.status
        return self.status if self.failure is None else UNHEALTHY

    @property
    def own_reasons(self) -> list[str]:
        """Why the check is not healthy, as it says itself."""
        if self.failure is not None:
            return [self.failure.reason]
        if self.data is None:
            return [f"{self.check.name} has not answered yet"]
        return [*self.data.reasons]

    @property
    def reasons(self) -> list[str]:
        """The same for a list with other checks, each reason under the name of its check."""
        reasons = self.own_reasons
        if self.failure is not None or self.data is None or self.check.name == HEALTH:
            return reasons
        name, status = self.check.name, self.data.status
        if reasons or status == HEALTHY:
            return [f"{name}: {reason}" for reason in reasons]
        return [f"{name}: {status}"]

    @property
    def probe_reasons(self) -> list[str]:
        """Why a probe fails because of this check; always at least one reason."""
        return self.reasons or [f"{self.check.name} says so"]

    @property
    def live(self) -> bool:
        """Whether the check lets the process count as live."""
        if self.check.liveness and self.failure is not None:
            return False
        # The last data of a check that hangs still count; a check without data says nothing.
        if self.data is not None and self.data.live is not None:
            return self.data.live
        return not self.check.liveness or self.data is None or self.data.status != UNHEALTHY

    @property
    def ready(self) -> bool:
        """Whether the check lets the process count as ready."""
        if self.data is not None and not self.data.ready:
            return False
        if not self.check.readiness:
            return True
        if self.failure is not None or self.data is None:
            return False
        return self.data.status != UNHEALTHY

    @property
    def started(self) -> bool:
        """Whether the check lets the process count as started."""
        if self.data is not None and not self.data.started:
            return False
        if not self.check.startup:
            return True
        if self.failure is not None or self.data is None:
            return False
        # The callback's status concerns more than loading, and so does not delay the start.
        return self.check.name == HEALTH or self.data.status != UNHEALTHY

    def to_dict(self) -> dict[str, Any]:
        """Return the check's part of /health."""
        values = self.data.values if self.data and self.failure is None else {}
        head = {
            "status": self.own_status,
            "age_seconds": age(self.polled.ended_at),
            "critical": self.check.critical,
        }
        reasons = {"reasons": self.own_reasons} if self.own_reasons else {}
        return {**head, **values, **head, **reasons}

    def to_row(self) -> dict[str, Any]:
        """Return the check's row on the dashboard."""
        return {
            "name": self.check.name,
            "status": self.own_status,
            "reasons": self.own_reasons,
            "critical": self.check.critical,
            "probes": self.check.probes,
            "age_seconds": age(self.polled.ended_at),
            "running_seconds": age(self.polled.running_since),
            "timeout_seconds": self.check.timeout_seconds,
            "period_seconds": self.check.period_seconds,
            "figures": self.data.values if self.data else {},
        }


class CheckResults:
    """The results of all checks at one moment, in the order in which these were registered."""

    def __init__(self, results: Iterable[CheckResult]) -> None:
        self._by_name = {result.check.name: result for result in results}

    @property
    def health(self) -> CheckResult:
        """The result of the server's callback."""
        return self._by_name[HEALTH]

    @property
    def all(self) -> list[CheckResult]:
        """All results, that of the callback included."""
        return list(self._by_name.values())

    @property
    def status(self) -> str:
        """The worst status of all."""
        return payload.worst(result.status for result in self.all)

    @property
    def reasons(self) -> list[str]:
        """Why the status is not healthy."""
        return [reason for result in self.all for reason in result.reasons]

    def not_live(self) -> list[str]:
        """Return why the process is not live; empty if it is."""
        return [reason for result in self.all if not result.live for reason in result.probe_reasons]

    def not_ready(self) -> list[str]:
        """Return why the process is not ready, apart from its start; empty if it is."""
        return [
            reason for result in self.all if not result.ready for reason in result.probe_reasons
        ]

    def not_started(self) -> list[str]:
        """Return what is still being loaded; empty if nothing is."""
        return [
            reason for result in self.all if not result.started for reason in result.probe_reasons
        ]

    def failures(self) -> dict[str, str]:
        """Return the error texts of the checks that failed, by the names of the checks."""
        return {
            result.check.name: result.failure.detail
            for result in self.all
            if result.failure is not None and result.failure.detail is not None
        }


def as_detail(error: str) -> str:
    """Return an error text as it is shown with `details=True`: without secrets, cut."""
    return str(payload.public(error, details=True))[:LONGEST_DETAIL]


def age(moment: float | None) -> float | None:
    """Return the seconds since a moment of the monotonic clock; None if it never came."""
    return None if moment is None else round(monotonic() - moment, 3)
