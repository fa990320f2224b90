"""The durations of attempts, and how long messages waited before their first one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from shared_sync.protocol.keys import id_milliseconds
from shared_sync.redis_consumer.slot import Attempt


class DurationRecorder(Protocol):
    """What is used of a recorder."""

    def record_duration(self, name: str, seconds: float) -> None: ...


class AttemptMetrics:
    """A hook that records `queue_wait` and `processing_latency`."""

    def __init__(
        self, recorder: DurationRecorder, *, wall: Callable[[], float] = time.time
    ) -> None:
        self._recorder = recorder
        self._wall = wall

    def before_attempt(self, attempt: Attempt) -> None:
        """Record how long the messages that run for the first time have waited."""
        for entry in attempt.entries:
            if entry.deliveries == 1:
                waited = self._wall() - id_milliseconds(entry.id) / 1000
                self._recorder.record_duration("queue_wait", max(0.0, waited))

    def after_attempt(self, attempt: Attempt, error: BaseException | None) -> None:
        """Record how long the attempt took, whatever came of it."""
        self._recorder.record_duration("processing_latency", attempt.ended_at - attempt.started_at)
