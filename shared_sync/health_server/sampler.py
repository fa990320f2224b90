"""Adds a sample to the history every few seconds, of values that are fetched for it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from shared_sync.common.poller import Poller
from shared_sync.health_server.checks import HEALTH
from shared_sync.health_server.payload import HealthData
from shared_sync.health_server.time_series import History

PERIOD_SECONDS = 5.0
STOOD_STILL_SECONDS = 5.0
"""Time between two steps after which the process has stood still."""


class Sampler:
    """Requests the metrics for each sample, and records them as soon as they are there.

    If they take longer than a period, the sample has no metrics. After the process stood still
    (it was frozen, or the machine suspended), older values are not recorded: the next sample would
    then show all that has happened meanwhile as the growth of one moment. One thread calls `step`,
    a few times each second.
    """

    def __init__(
        self,
        history: History,
        metrics: Poller[Any],
        *,
        clock: Callable[[], float] = monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._history = history
        self._metrics = metrics
        self._clock = clock
        self._wall = wall
        self._due = clock()
        self._ticket: int | None = None
        # When the last step was, on both clocks: one of them stands still while a machine sleeps.
        self._stepped_at = (clock(), wall())
        self._awake_since = -math.inf

    def step(self, checks: Mapping[str, Poller[HealthData]]) -> None:
        """Do what is due: request the metrics, or record a sample. Never blocks."""
        now = self._clock()
        if self._stood_still(now):
            self._awake_since = now
            self._ticket = None
            self._due = now
        is_due = now >= self._due
        if self._ticket is not None:
            answered = self._metrics.has_answered(self._ticket)
            if answered or is_due:
                self._ticket = None
                self._record(checks, self._metrics.result.value if answered else None)
        if is_due:
            self._due = max(self._due + PERIOD_SECONDS, now)
            self._ticket = self._metrics.request()

    def _stood_still(self, now: float) -> bool:
        before, self._stepped_at = self._stepped_at, (now, self._wall())
        return any(
            new - old > STOOD_STILL_SECONDS
            for new, old in zip(self._stepped_at, before, strict=True)
        )

    def _record(
        self, checks: Mapping[str, Poller[HealthData]], metrics: Mapping[str, Any] | None
    ) -> None:
        values: dict[str, Any] = {}
        # In reverse, so that those of the callback come last and win.
        for name, poller in reversed(list(checks.items())):
            result = poller.result
            if result.ended_at is not None and result.ended_at < self._awake_since:
                continue
            if result.value is not None and not (result.hangs and name != HEALTH):
                values |= result.value.values
        self._history.record(self._wall(), {**values, **(metrics or {})})
