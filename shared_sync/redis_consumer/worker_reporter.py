"""Makes the worker's reports: who it is, what it runs, how long its messages take."""

from __future__ import annotations

import logging
import math
import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from shared_sync import __version__
from shared_sync.common.guarded import GuardedRecorder, Logger
from shared_sync.common.log_once import LogOnce
from shared_sync.connection.scripts import Command
from shared_sync.errors import RedisAccessDenied, RedisRefused
from shared_sync.protocol import worker_reports
from shared_sync.protocol.commands import GroupCommands, heartbeat_seconds
from shared_sync.protocol.events import BACK
from shared_sync.protocol.live_job import LiveJob
from shared_sync.protocol.worker_reports import (
    MAY_NOT_EXPIRE,
    MOST_IDS,
    MOST_JOBS,
    ReportedJob,
    ReportedProcess,
    WorkerReport,
)
from shared_sync.redis_consumer.faults.pauses import Pauses
from shared_sync.redis_consumer.job_budget import Job
from shared_sync.redis_consumer.outcome_share import Totals
from shared_sync.redis_consumer.worker_events import WorkerEvents

HEARTBEATS_PER_REPORT: Final = 2
"""Unless something happens, which is reported with the next heartbeat."""

REFUSED_SECONDS: Final = 60.0
"""How long to wait after Redis has refused a report for another cause than a missing right."""

RATE_SECONDS: Final = 60.0
"""Over how long the throughput is measured."""

SHORTEST_RATE_SECONDS: Final = 2.0


class WorkerReporter:
    """Says when a report is due, and makes it. Methods belong to the heartbeat thread."""

    def __init__(
        self,
        commands: GroupCommands,
        events: WorkerEvents,
        *,
        release: str,
        threads: int,
        state: Callable[[], str],
        totals: Callable[[], Totals],
        progress: Callable[[LiveJob], float | None],
        pauses: Pauses,
        server_time: Callable[[], float],
        recorder: GuardedRecorder,
        logger: Logger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`progress` returns the share of a message that is done, if its processor reports that.

        `state` is one of `worker_reports.STATES`.
        """
        # Fixed after construction.
        self._commands = commands
        self._events = events
        self._release = release
        self._threads = threads
        self._state = state
        self._totals = totals
        self._progress = progress
        self._pauses = pauses
        self._server_time = server_time
        self._recorder = recorder
        self._log_refusal = LogOnce(logger, logging.WARNING)
        self._clock = clock
        self._made_at = clock()
        self._host = socket.gethostname()
        self._token = secrets.token_hex(8)
        self._report_seconds = (HEARTBEATS_PER_REPORT - 0.5) * heartbeat_seconds(
            commands.lease_ms / 1000
        )
        """A report is due with the first heartbeat that comes so long after the last report."""
        # Owned by the heartbeat thread.
        self._next_at = clock()
        self._refused_until = -math.inf
        """When the next report may be sent after one was refused."""
        self._may_expire = True
        self._last_state = ""
        self._events_sent = 0
        self._done: deque[tuple[float, int]] = deque()
        """At each report of the last minute, when it was and how many messages were done."""

    def command(self, jobs: Sequence[Job]) -> Command | None:
        """Return the command that stores a report, or None if none is due. `jobs` are running."""
        now = self._clock()
        if now < self._refused_until:
            return None
        if not self._events.has_reported:
            self._events.has_reported = True
            self._events.note("started", self._started())
        state, (first_event, events) = self._state(), self._events.waiting()
        if now < self._next_at and state == self._last_state and not events:
            return None
        self._next_at, self._last_state = now + self._report_seconds, state
        self._events_sent = len(events)
        totals = self._totals()
        oldest_first = sorted(jobs, key=lambda job: job.running.seconds, reverse=True)
        report = WorkerReport(
            process=ReportedProcess(
                host=self._host,
                pid=os.getpid(),
                version=__version__,
                release=self._release,
                started_at=self._server_time() - (now - self._made_at),
                threads=self._threads,
                running=len(jobs),
                message_ids=[job.running.entry.id for job in oldest_first[:MOST_IDS]],
            ),
            state=state,
            paused=self._pauses.reasons(with_intended=True) if state == "paused" else (),
            done=totals.done,
            retried=totals.retried,
            dead=totals.dead,
            done_per_second=self._rate(now, totals.done),
            jobs=[self._of_job(job) for job in oldest_first[:MOST_JOBS]],
        )
        rest = worker_reports.rest_of_report(
            report,
            latency=self._recorder.recent_durations("processing_latency"),
            queue_wait=self._recorder.recent_durations("queue_wait"),
        )
        who = (self._commands.consumer, self._commands.identity, self._token)
        return worker_reports.publish(
            self._commands.keys,
            who,
            self._commands.lease_ms,
            report.process,
            rest,
            first_event,
            events,
            expires=self._may_expire,
        )

    def answered(self, reply: Any) -> None:
        """Note the reply to a report, or the error in its place."""
        if isinstance(reply, int):
            self._events.were_sent(self._events_sent)
            self._may_expire = self._may_expire and reply != MAY_NOT_EXPIRE
        elif isinstance(reply, (RedisAccessDenied, RedisRefused)):
            is_final = isinstance(reply, RedisAccessDenied)
            self._refused_until = math.inf if is_final else self._clock() + REFUSED_SECONDS
            self._log_refusal(
                "this worker cannot report what it does to the page of its group: %s. Messages go "
                "on; this is logged once",
                reply,
            )
        else:  # the connection broke; the events are sent again with the next heartbeat
            self._next_at = self._clock()

    def was_silent(self, seconds: float) -> None:
        """Note that the lease had ended before a heartbeat that came after so long."""
        text = (
            f"worker {self._commands.consumer} sends heartbeats again after {seconds:.0f} s; "
            "others may have taken over its messages meanwhile"
        )
        self._events.note(BACK, text)

    def _started(self) -> str:
        release = f"release {self._release}, " if self._release else ""
        return (
            f"worker {self._commands.consumer} started on {self._host} ({release}shared_sync "
            f"{__version__})"
        )

    def _rate(self, now: float, done: int) -> float | None:
        samples = self._done
        samples.append((now, done))
        while len(samples) > 1 and now - samples[1][0] >= RATE_SECONDS:
            samples.popleft()
        since, before = samples[0]
        seconds = now - since
        return (done - before) / seconds if seconds >= SHORTEST_RATE_SECONDS else None

    def _of_job(self, job: Job) -> ReportedJob:
        running = job.running
        live = (running.attempt.jobs or {}).get(running.entry.id)
        return ReportedJob(
            message_id=running.entry.id,
            reader=running.reader.removeprefix(f"{self._commands.consumer}-"),
            state=job.state,
            attempt=running.entry.deliveries,
            seconds=running.seconds,
            progress=None if live is None else self._progress(live),
        )
