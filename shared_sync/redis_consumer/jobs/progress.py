"""Sends the progress of running messages, in one thread for each pool."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from shared_sync.common.fork import renew_lock_in_forks
from shared_sync.common.guarded import Logger, Recorder
from shared_sync.common.log_once import LogOnce
from shared_sync.common.loop import Loop
from shared_sync.common.outage import Outage
from shared_sync.connection.connection import Connect, Connection
from shared_sync.connection.remedies import is_about_key
from shared_sync.errors import RedisAccessDenied, RedisRefused, SharedSyncError
from shared_sync.message import decode_fields
from shared_sync.protocol import progress
from shared_sync.protocol.commands import GroupCommands
from shared_sync.protocol.live_job import LiveJob
from shared_sync.protocol.progress import Report
from shared_sync.protocol.replies import Reported, parse_reported
from shared_sync.protocol.results import Results
from shared_sync.redis_consumer.settling.outbox import Outbox

MOST_REPORTS: Final = 100
"""Reports that are sent in one round trip."""

IDLE_SECONDS: Final = 60.0
PAUSE_SECONDS: Final = 1.0
"""How long to wait before the next try if Redis did not answer."""

STOP_SECONDS: Final = 0.5
"""How long stopping waits for the thread, which may be waiting for a reply."""


EndJobs = Callable[[Iterable[LiveJob], Outbox], None]
"""`ProgressSender.end()`."""


def end_no_jobs(jobs: Iterable[LiveJob], outbox: Outbox) -> None:
    """`EndJobs` without a `ProgressSender`."""
    for job in jobs:
        job.end()


class _Reporting:
    """A running message that has reported progress. Guarded by the lock of its `ProgressSender`."""

    __slots__ = ("confirmed", "is_lost", "newest", "next_at")

    def __init__(self, newest: Report) -> None:
        self.newest = newest
        self.confirmed = 0
        """The sequence number of the newest report to which Redis has replied."""
        self.next_at = 0.0
        """When the next report may be sent, on the clock."""
        self.is_lost = False
        """Whether nothing more is sent: another worker has the message, or a right is missing."""


class _Stop:
    """The stop event of the thread, which waits for reports. Any thread may call any method."""

    def __init__(self) -> None:
        self.wake = threading.Event()
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()
        self.wake.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, timeout: float, /) -> bool:
        return self._event.wait(timeout)


class ProgressSender:
    """Takes the reports of running messages, and sends the newest of each at the allowed rate.

    The first report starts the thread. Any thread may call any method; only the sender's own thread
    waits for Redis.
    """

    def __init__(
        self,
        name: str,
        *,
        connect: Connect,
        commands: GroupCommands,
        results: Results,
        binary_fields: Collection[str],
        per_second: float,
        recorder: Recorder,
        logger: Logger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`per_second` is the maximal number of reports of one message in a second."""
        # Fixed after construction.
        self._connection = Connection(connect)
        self._commands = commands
        self._results = results
        self._binary_fields = frozenset(binary_fields)
        self._interval_seconds = 1 / per_second
        self._recorder = recorder
        self._logger = logger
        self._log_refusal = LogOnce(logger, logging.WARNING)
        self._log_no_thread = LogOnce(logger, logging.WARNING)
        self._outage = Outage(clock)
        self._clock = clock
        self._token = secrets.token_hex(4)
        self._stop = _Stop()
        self._loop = Loop(
            name,
            step=self._step,
            stop=self._stop,
            on_error=self._handle,
            finish=self._connection.close,
        )
        # Guarded by the lock.
        self._lock = threading.RLock()
        renew_lock_in_forks(self)
        self._sequence = 0
        self._reporting: dict[LiveJob, _Reporting] = {}
        self._waiting: dict[LiveJob, _Reporting] = {}
        """Jobs with an unsent report, in the order of their reports."""

    # --- for the threads of the processors, and of the readers ---

    def report(self, job: LiveJob, value: float | None, fields: Mapping[str, object]) -> None:
        """Take a report, and send it soon unless a newer one replaces it. Never blocks.

        Raises `InvalidMessage` for what cannot be stored.
        """
        progress.check(value, fields)
        entry = job.entry
        own = decode_fields(entry.items, self._binary_fields)
        kept = progress.store(value, fields)
        answer = self._results.progress(entry.id, own, value, fields)
        with self._lock:
            self._sequence += 1
            report = Report(entry.id, entry.deliveries, self._token, self._sequence, kept, answer)
            reporting = self._reporting.get(job)
            if job.has_ended or (reporting is not None and reporting.is_lost):
                return
            if reporting is None:
                reporting = self._reporting[job] = _Reporting(report)
            reporting.newest = report
            is_new = job not in self._waiting
            self._waiting[job] = reporting
        if is_new:
            self._start()
            self._stop.wake.set()

    def end(self, jobs: Iterable[LiveJob], outbox: Outbox) -> None:
        """End jobs whose attempt has ended.

        A last report that was not confirmed is sent together with the outcome.
        """
        for job in jobs:
            job.end()
            with self._lock:
                self._waiting.pop(job, None)
                reporting = self._reporting.pop(job, None)
                if reporting is None:
                    continue
                newest = reporting.newest
                is_open = newest.sequence > reporting.confirmed and not reporting.is_lost
            outbox.add_progress(job.entry.id, newest if is_open else None)

    def share_of(self, job: LiveJob) -> float | None:
        """Return the share of a running message that is done, as it was last reported."""
        with self._lock:
            reporting = self._reporting.get(job)
            newest = None if reporting is None else reporting.newest
        return None if newest is None else progress.content_of(newest.stored).get(progress.VALUE)

    def _start(self) -> None:
        if self._loop.was_started or self._stop.is_set():
            return
        try:
            self._loop.start()
        except RuntimeError as error:
            self._log_no_thread(
                "the thread for progress cannot be started (%s), so only the last report of each "
                "message is sent, together with its outcome. This is logged once",
                error,
            )

    # --- its life ---

    def stop(self) -> bool:
        """End the thread, and return whether it has ended. Blocks for half a second at most."""
        self._stop.set()
        return self._loop.join(time.monotonic() + STOP_SECONDS)

    def abandon(self) -> None:
        """In a forked process: do nothing, because the original process has the thread."""
        self._stop.set()
        self._loop.abandon()

    # --- in its own thread ---

    def _step(self) -> None:
        """Wait for reports that may be sent, and send them."""
        with self._lock:
            due, wait_seconds = self._take_due()
        if due:
            self._send(due)
        elif self._stop.wake.wait(wait_seconds):
            self._stop.wake.clear()

    def _take_due(self) -> tuple[list[tuple[LiveJob, _Reporting, Report]], float]:
        """Return the reports to send now, or how long to wait for the first."""
        now, wait_seconds = self._clock(), IDLE_SECONDS
        due: list[tuple[LiveJob, _Reporting, Report]] = []
        for job, reporting in self._waiting.items():
            if reporting.next_at > now:
                wait_seconds = min(wait_seconds, reporting.next_at - now)
            elif len(due) < MOST_REPORTS:
                due.append((job, reporting, reporting.newest))
        for job, reporting, _ in due:
            del self._waiting[job]
            reporting.next_at = now + self._interval_seconds
        return due, wait_seconds

    def _send(self, due: list[tuple[LiveJob, _Reporting, Report]]) -> None:
        """Send reports in one round trip. After an error of the connection they are kept."""
        answered = 0
        try:
            self._connection.close_if_stale()
            self._connection.send([self._commands.report(report) for _, _, report in due])
            for _, reporting, report in due:
                self._receive(reporting, report)
                answered += 1
                if not self._connection.is_open:
                    break  # the server refuses this stream; the other reports are sent again
        finally:
            with self._lock:
                for job, reporting, _ in due[answered:]:
                    if not job.has_ended:
                        self._waiting[job] = reporting
        seconds = self._outage.ends()
        if seconds is not None:
            self._logger.info("progress is sent again after %.1f s", seconds)

    def _receive(self, reporting: _Reporting, report: Report) -> None:
        try:
            reported = parse_reported(self._connection.receive())
        except RedisRefused as error:
            reported = Reported(is_sent=False, is_owned=True, refusals=[error])
        except RedisAccessDenied as error:
            if not is_about_key(error):
                raise
            # As with each further report of this message.
            reported = Reported(is_sent=False, is_owned=False, refusals=[error])
        with self._lock:
            reporting.confirmed = report.sequence
            reporting.is_lost = not reported.is_owned
        self._recorder.increment_counter("redis_operations")
        if reported.is_sent:
            self._recorder.increment_counter("progress_sent")
        for refusal in reported.refusals:
            self._log_refusal(
                "progress of message %s was dropped: %s. The message itself is not affected; this "
                "is logged once",
                report.message_id,
                refusal,
            )

    def _handle(self, error: BaseException, failures: int) -> float:
        del failures
        cause = getattr(error, "cause", type(error).__name__)
        if self._outage.begins(str(cause)):
            known = isinstance(error, SharedSyncError)
            self._logger.warning(
                "progress cannot be sent: %s; the newest of each message is kept and sent again",
                error,
                exc_info=None if known else error,
            )
        return PAUSE_SECONDS
