"""Finds the `LiveJob` of each message of an attempt in a thread."""

from __future__ import annotations

from collections.abc import Callable

from shared_sync.protocol.live_job import JobContext, LiveJob
from shared_sync.protocol.messages import Entry
from shared_sync.redis_consumer.slot import Attempt


class AttemptJobs:
    """Finds the `LiveJob` of each message of an attempt. Any thread may call it."""

    __slots__ = ("_attempt", "_context", "_entries", "_is_running")

    def __init__(
        self,
        is_running: Callable[[Attempt], bool],
        context: JobContext | None,
        attempt: Attempt,
    ) -> None:
        # Fixed after construction.
        self._is_running = is_running
        self._context = context
        self._attempt = attempt
        # Written once, by any thread.
        self._entries: dict[str, Entry] | None = None

    def control(self, message_id: str) -> LiveJob:
        """Return the job of the message of this id."""
        entries, attempt = self._entries, self._attempt
        if entries is None:
            entries = self._entries = {entry.id: entry for entry in attempt.entries}
        job = attempt.job(entries[message_id])
        job.context = self._context
        if not self._is_running(attempt):
            job.end()
        return job
