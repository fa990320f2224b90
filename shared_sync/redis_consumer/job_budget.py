"""How long a job may take: what was declared, and how long such jobs took so far."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from shared_sync.common.guarded import GuardedRecorder
from shared_sync.redis_consumer.running_jobs import RunningJob

DURATION: Final = "processing_latency"
LEARN_SECONDS: Final = 5.0
"""How often the metrics are asked how long jobs take."""

FEWEST_JOBS: Final = 100
"""Fewer jobs do not tell how long one in a hundred takes."""

SHORTEST_BUDGET_SECONDS: Final = 30.0
"""No job is late by the metrics before this. A pause of the machine, or of what a processor waits
for, makes a job of milliseconds take fifty times as long, and means nothing."""

LIMIT_PER_DEADLINE: Final = 1.5


@dataclass(frozen=True, slots=True)
class Job:
    """A running job, and its limits."""

    running: RunningJob
    budget_seconds: float | None
    limit_seconds: float | None

    @property
    def state(self) -> str:
        """`running`, `late`, or `stuck` once it was given to others."""
        if self.running.given_up:
            return "stuck"
        return "late" if _is_over(self.running.seconds, self.budget_seconds) else "running"

    @property
    def is_over_its_limit(self) -> bool:
        return _is_over(self.running.seconds, self.limit_seconds)

    def reason(self) -> str:
        """Return why it is late, in words."""
        over = self.is_over_its_limit
        name, seconds = ("limit", self.limit_seconds) if over else ("budget", self.budget_seconds)
        return (
            f"reader {self.running.reader} runs message {self.running.entry.id} for "
            f"{self.running.seconds:.0f} s, its {name} is {round(seconds or 0.0, 1):g} s"
        )


class Budget:
    """The limits of one consumer's jobs. The heartbeat thread calls `learn()`, anyone `of()`."""

    def __init__(
        self,
        *,
        deadline_seconds: float | None,
        limit_seconds: float | None,
        late_after_p99s: float | None,
        recorder: GuardedRecorder,
        kill_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`kill_seconds` is how long ending a job past its deadline may take; None if none is."""
        # Fixed after construction.
        self._deadline_seconds = deadline_seconds
        if limit_seconds is None and deadline_seconds is not None:
            limit_seconds = LIMIT_PER_DEADLINE * deadline_seconds
            if kill_seconds is not None:
                limit_seconds = max(limit_seconds, deadline_seconds + kill_seconds)
        self._limit_seconds = limit_seconds
        self._late_after_p99s = late_after_p99s
        self._recorder = recorder
        self._clock = clock
        # Owned by the heartbeat thread.
        self._learn_at = clock()
        # Replaced by the heartbeat thread as a whole; anyone may read it.
        self._seconds = deadline_seconds

    def learn(self) -> None:
        """Ask the metrics how long jobs take, if it is time to. Waits as long as they do."""
        if self._late_after_p99s is None or self._clock() < self._learn_at:
            return
        self._learn_at = self._clock() + LEARN_SECONDS
        p99 = self._recorder.quantile_seconds(DURATION, 0.99, FEWEST_JOBS)
        usual = [] if p99 is None else [max(self._late_after_p99s * p99, SHORTEST_BUDGET_SECONDS)]
        declared = [] if self._deadline_seconds is None else [self._deadline_seconds]
        self._seconds = min([*usual, *declared], default=None)

    def of(self, running: RunningJob) -> Job:
        """Return a running job with its limits."""
        return Job(running, self._seconds, self._limit_seconds)


def _is_over(seconds: float, limit: float | None) -> bool:
    return limit is not None and seconds >= limit
