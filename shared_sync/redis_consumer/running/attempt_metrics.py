"""The durations of attempts, and how long messages waited before their first one."""

from __future__ import annotations

from shared_sync.common.guarded import ThreadRecorder
from shared_sync.protocol.keys import EARLIEST, age_seconds
from shared_sync.redis_consumer.running.runner import AttemptHook
from shared_sync.redis_consumer.server_clock import ServerClock
from shared_sync.redis_consumer.slot import Attempt


class AttemptMetrics(AttemptHook):
    """A hook that records `queue_wait` and `processing_latency`.

    Both ends of a wait are measured by the server's clock: the server put its time into the
    message's id, and the beginning of the attempt is converted into its time. A message whose
    publisher chose an id that is no time counts in `queue_wait_unknown` instead.
    """

    def __init__(self, recorder: ThreadRecorder, server_clock: ServerClock) -> None:
        self._recorder = recorder
        self._waits = recorder.durations("queue_wait")
        self._latencies = recorder.durations("processing_latency")
        self._server_clock = server_clock

    def after_attempt(self, attempt: Attempt, error: BaseException | None) -> None:
        """Record how long the attempt took, and how long new messages had waited for it."""
        started_at = attempt.started_at
        self._latencies.append(attempt.ended_at - started_at)
        for entry in attempt.entries:
            if entry.deliveries == 1:
                now = started_at + self._server_clock.offset_seconds
                # As age_seconds() does, without its call: most ids are times of the past.
                added = int(entry.id.partition("-")[0]) / 1000
                waited: float | None = now - added
                if not EARLIEST <= added <= now:
                    waited = age_seconds(entry.id, now)
                if waited is None:
                    self._recorder.increment_counter("queue_wait_unknown")
                else:
                    self._waits.append(waited)

    def after_repeat(self, attempt: Attempt, error: BaseException | None) -> None:
        """Record how long the attempt took: its messages have waited once, for an earlier one."""
        self._latencies.append(attempt.ended_at - attempt.started_at)
