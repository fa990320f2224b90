"""Progress that a processor reports in a child process: sent to the parent at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shared_sync.common.fork import renew_lock_in_forks
from shared_sync.protocol import progress
from shared_sync.protocol.live_job import LiveJob

Check = Callable[[LiveJob, "float | None", Mapping[str, object]], None]


class ChildProgress:
    """Sends the progress of messages to the parent. Any thread may report.

    Progress that was sent survives the death of this process. If the parent receives nothing,
    progress is dropped; the last of each message is sent again with the outcome.
    """

    def __init__(self, check: Check, send: Callable[[Sequence[Any]], None]) -> None:
        """`check` raises `InvalidMessage` for what cannot be published."""
        # Fixed after construction.
        self._check = check
        self._send = send
        # Written by the main thread.
        self._job_number = 0
        # Guarded by the lock.
        self._lock = threading.RLock()
        renew_lock_in_forks(self)
        self._sequence = 0
        self._last: dict[str, tuple[str, int, str]] = {}

    def begin(self, job_number: int) -> None:
        """Note the start of a job with the number that the parent has given."""
        self._job_number = job_number
        if self._last:
            with self._lock:
                self._last.clear()

    def report(self, job: LiveJob, value: float | None, fields: Mapping[str, object]) -> None:
        """Send progress. Blocks for up to 1 s the first time that the parent receives nothing.

        Raises `InvalidMessage` for what cannot be stored.
        """
        progress.check(value, fields)
        self._check(job, value, fields)
        content = progress.store(value, fields).decode()
        message_id = job.entry.id
        with self._lock:  # so that reports are sent in order
            self._sequence += 1
            self._last[message_id] = (message_id, self._sequence, content)
            self._send((self._job_number, message_id, self._sequence, content))

    def last(self) -> list[tuple[str, int, str]]:
        """Return the last progress of each message: id, sequence number, content."""
        with self._lock:
            return list(self._last.values())
