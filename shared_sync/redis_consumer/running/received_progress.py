"""Reports the progress that a child process has sent."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from shared_sync.common.fork import renew_lock_in_forks
from shared_sync.errors import SharedSyncError
from shared_sync.protocol import progress
from shared_sync.protocol.live_job import JobContext
from shared_sync.redis_consumer.slot import Attempt


class ReceivedProgress:
    """Reports the progress that the children of one reader have sent.

    Progress arrives in two ways: at once, through the thread that reads the side channel, and the
    last of each message again with the outcome. The one that arrives second is dropped, so all
    reports stay in order.
    """

    def __init__(self, context: JobContext) -> None:
        # Fixed after construction.
        self._context = context
        # Written by the reader's thread.
        self._attempt: Attempt | None = None
        # Guarded by the lock, so that reports stay in order.
        self._lock = threading.RLock()
        renew_lock_in_forks(self)
        self._newest: dict[str, tuple[int, int]] = {}
        """By the id of a message: the number of the attempt, and that of the last report."""

    def begin(self, attempt: Attempt) -> None:
        """Note that an attempt is about to run."""
        if self._newest:
            with self._lock:
                self._newest.clear()
        self._attempt = attempt

    def receive(self, header: Sequence[Any]) -> None:
        """Report progress from a child, if its attempt is still running."""
        attempt_number, *reported = header
        with self._lock:
            attempt = self._attempt
            if attempt is not None and attempt.number == attempt_number:
                self._report(attempt, reported)

    def end(self, last: Sequence[Sequence[Any]] = ()) -> None:
        """Note that the attempt has ended, with the last progress of its messages."""
        attempt, self._attempt = self._attempt, None
        if last and attempt is not None:
            with self._lock:
                for reported in last:
                    self._report(attempt, reported)

    def _report(self, attempt: Attempt, reported: Sequence[Any]) -> None:
        message_id, number, content = reported
        this = (attempt.number, number)
        if this <= self._newest.get(message_id, (0, 0)):
            return
        self._newest[message_id] = this
        entry = next((one for one in attempt.entries if one.id == message_id), None)
        if entry is None:
            return
        job = attempt.job(entry)
        job.context = self._context
        # It was checked in the child; the attempt may have ended meanwhile.
        with suppress(SharedSyncError, ValueError, RecursionError):
            fields = progress.content_of(content)
            job.report_progress(fields.pop(progress.VALUE, None), fields)
