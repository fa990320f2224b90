"""The bodies of a health server's answers, as JSON shows them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timezone
from typing import Any

from shared_sync.health_server import sampler
from shared_sync.health_server.checks import HEALTH, CheckResults
from shared_sync.health_server.payload import HEALTHY, UNHEALTHY
from shared_sync.health_server.state import HealthState
from shared_sync.health_server.waiting import CallFailed


class Answers:
    """Makes the bodies from the state. Any thread may call any method.

    `actions_on` are the stream and group on which the page may act; None if it may not.
    """

    def __init__(
        self,
        state: HealthState,
        instance_id: str,
        *,
        details: bool,
        actions_on: Mapping[str, str] | None = None,
    ) -> None:
        self._state = state
        self._instance_id = instance_id
        self._details = details
        self._actions_on = actions_on

    def health(self) -> tuple[dict[str, Any], bool]:
        """Return the body of /health, and whether the status is better than unhealthy.

        Waits for a moment for new health data.
        """
        results = self._state.results(refresh=True)
        data, failure = results.health.data, results.health.failure
        status, reasons = self._state.overall(results)
        body = self.stamped(data.values if data and not failure else {}, status=status)
        if failure is not None:
            body["error"] = failure.reason
        if reasons:
            body["reasons"] = reasons
        checks = {
            result.check.name: result.to_dict()
            for result in results.all
            if result.check.name != HEALTH
        }
        if checks:
            body["checks"] = checks
        self._add_details(body, results)
        return body, status != UNHEALTHY

    def probe(self, name: str, *, with_reasons: bool) -> tuple[dict[str, Any], bool]:
        """Return the body of a probe, and whether the probe succeeds. Never blocks."""
        reasons = self._state.failed_probes(self._state.results())[name]
        body = self.stamped({"probe": name}, status=UNHEALTHY if reasons else HEALTHY)
        if reasons and with_reasons:
            body["reasons"] = reasons
        return body, not reasons

    def metrics(self) -> dict[str, Any]:
        """Return the body of /metrics. Waits and raises as `HealthState.new_metrics` does."""
        return self.stamped(self._state.new_metrics())

    def failed_metrics(self, failed: CallFailed) -> dict[str, Any]:
        """Return the body of /metrics if the call failed."""
        details = {"details": failed.detail} if self._details and failed.detail is not None else {}
        return self.stamped({"error": str(failed), **details}, status=UNHEALTHY)

    def dashboard(self) -> dict[str, Any]:
        """Return everything that the dashboard shows except the history.

        Waits for a moment each for views without a result, for health data and for metrics. Raises
        `CallFailed` while the server stops.
        """
        views = self._state.shown_views()
        results = self._state.results(refresh=True)
        data = results.health.data
        status, reasons = self._state.overall(results)
        metrics = self._state.newest_metrics()
        failed = self._state.failed_probes(results)
        body: dict[str, Any] = {
            "run": self._state.run,
            **self.stamped({}),
            "status": status,
            "reasons": reasons,
            "live": not failed["live"],
            "ready": not failed["ready"],
            "started": not failed["startup"],
            "checks": [result.to_row() for result in results.all],
            "health": data.values if data else {},
            "metrics": metrics,
            "views": views,
            "actions": self._actions_on,
        }
        self._add_details(body, results)
        return body

    def history(self, since: int | None, names: Collection[str]) -> dict[str, Any]:
        """Return the history of the named values, or of all if there are no names.

        `since` is the `next` of an earlier answer; None for everything that is kept.
        """
        return {
            "run": self._state.run,
            "period_seconds": sampler.PERIOD_SECONDS,
            **self._state.history_since(since, names),
        }

    def stamped(self, data: Mapping[str, Any], **first: str) -> dict[str, Any]:
        """Return the data after `first`, `instance_id` and `timestamp`, which win over their
        namesakes in the data."""
        stamp = {
            **first,
            "instance_id": self._instance_id,
            "timestamp": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        }
        return {**stamp, **data, **stamp}

    def _add_details(self, body: dict[str, Any], results: CheckResults) -> None:
        failures = results.failures()
        if self._details and failures:
            body["failures"] = failures
