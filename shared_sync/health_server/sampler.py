"""Adds a sample to the history every few seconds, of values that are fetched for it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from time import monotonic
from typing import Any

from shared_sync.common.poller import Poller
from shared_sync.health_server.checks import HEALTH
from shared_sync.health_server.payload import HealthData
from shared_sync.health_server.time_series import History

PERIOD_SECONDS = 5.0


class Sampler:
    """Requests the metrics for each sample, and records them as soon as they are there.

    If they take longer than a period, the sample has no metrics. One thread calls `step`.
    """

    def __init__(self, history: History, metrics: Poller[Any]) -> None:
        self._history = history
        self._metrics = metrics
        self._due = monotonic()
        self._ticket: int | None = None

    def step(self, checks: Mapping[str, Poller[HealthData]]) -> None:
        """Do what is due: request the metrics, or record a sample. Never blocks."""
        now = monotonic()
        is_due = now >= self._due
        if self._ticket is not None:
            answered = self._metrics.has_answered(self._ticket)
            if answered or is_due:
                self._ticket = None
                self._record(checks, self._metrics.result.value if answered else None)
        if is_due:
            self._due = max(self._due + PERIOD_SECONDS, now)
            self._ticket = self._metrics.request()

    def _record(
        self, checks: Mapping[str, Poller[HealthData]], metrics: Mapping[str, Any] | None
    ) -> None:
        values: dict[str, Any] = {}
        # In reverse, so that those of the callback come last and win.
        for name, poller in reversed(list(checks.items())):
            result = poller.result
            if result.value is not None and not (result.hangs and name != HEALTH):
                values |= result.value.values
        self._history.record(time.time(), {**values, **(metrics or {})})
