"""The durations of attempts, and how long messages waited before their first one."""

from __future__ import annotations

import time
from collections.abc import Callable

from shared_sync.common.guarded import ThreadRecorder
from shared_sync.redis_consumer.runner import AttemptHook
from shared_sync.redis_consumer.slot import Attempt


class AttemptMetrics(AttemptHook):
    """A hook that records `queue_wait` and `processing_latency`."""

    def __init__(self, recorder: ThreadRecorder, *, wall: Callable[[], float] = time.time) -> None:
        self._waits = recorder.durations("queue_wait")
        self._latencies = recorder.durations("processing_latency")
        self._wall = wall

    def after_attempt(self, attempt: Attempt, error: BaseException | None) -> None:
        """Record how long the attempt took, and how long new messages had waited for it."""
        seconds = attempt.ended_at - attempt.started_at
        self._latencies.append(seconds)
        for entry in attempt.entries:
            if entry.deliveries == 1:
                published = int(entry.id.partition("-")[0]) / 1000
                waited = self._wall() - seconds - published
                self._waits.append(waited if waited > 0.0 else 0.0)
