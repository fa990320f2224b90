"""Progress that was reported in a child, on its way to those who wait for it."""

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
    """Reports the progress of the attempts of one reader, as its children have reported it.

    It comes in two ways: at once, through a thread that receives it, and the last of each message
    once more with the answer. Whichever is later is left out, so that all stays in its order.
    """

    def __init__(self, context: JobContext) -> None:
        # Fixed after construction.
        self._context = context
        # Written by the reader's thread.
        self._attempt: Attempt | None = None
        # Guarded by the lock, so that all is reported in its order.
        self._lock = threading.RLock()
        renew_lock_in_forks(self)
        self._newest: dict[str, tuple[int, int]] = {}
        """By the ids of messages, the numbers of the attempt and of what was reported last."""

    def begin(self, attempt: Attempt) -> None:
        """An attempt is about to run."""
        if self._newest:
            with self._lock:
                self._newest.clear()
        self._attempt = attempt

    def receive(self, header: Sequence[Any]) -> None:
        """Report what a child has sent while an attempt runs; nothing if that has ended."""
        attempt_number, *reported = header
        with self._lock:
            attempt = self._attempt
            if attempt is not None and attempt.number == attempt_number:
                self._report(attempt, reported)

    def end(self, last: Sequence[Sequence[Any]] = ()) -> None:
        """The attempt has ended, with this as the last progress of its messages."""
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
        # It was checked in the child, and may come too late.
        with suppress(SharedSyncError, ValueError, RecursionError):
            fields = progress.content_of(content)
            job.report_progress(fields.pop(progress.VALUE, None), fields)
