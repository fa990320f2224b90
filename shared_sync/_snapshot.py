"""What a registry held at one moment: plain data, for whoever shows it in whichever format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shared_sync._histogram import Histogram
from shared_sync._process import ProcessSample


@dataclass(frozen=True, slots=True)
class DurationSnapshot:
    """One duration: `last_seconds`, all that was `recent`, and all of its `lifetime`."""

    last_seconds: float | None
    recent: Histogram
    lifetime: Histogram


@dataclass(frozen=True, slots=True)
class MetricsSnapshot:
    """Every metric at one moment. Nobody writes to it any more, so any thread may read it.

    `taken_at` is wall-clock time in seconds since 1970. `errors` has the number of errors by type;
    they are not among the `counters`.
    """

    instance_id: str
    taken_at: float
    uptime_seconds: float
    counters: Mapping[str, float]
    errors: Mapping[str, float]
    gauges: Mapping[str, float]
    durations: Mapping[str, DurationSnapshot]
    process: ProcessSample

    @property
    def total_errors(self) -> float:
        """The number of errors of all types."""
        return sum(self.errors.values())

    @property
    def error_rate(self) -> float | None:
        """The share of finished attempts that failed, 0 to 1, since the start.

        Failed are `jobs_failed`, or all errors in a program that does not count these; they are
        divided by themselves plus `jobs_processed`. 0.0 before anything happened. None if there
        were errors but no jobs: then there is nothing to divide by.
        """
        failed = self.counters.get("jobs_failed", self.total_errors)
        if not self.counters.keys() & {"jobs_failed", "jobs_processed"}:
            return None if failed else 0.0
        finished = failed + self.counters.get("jobs_processed", 0)
        return failed / finished if finished else 0.0
