"""One pass of the heartbeat thread for a subscription: renew the lease, tidy up, read the queue."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from shared_sync.common.guarded import GuardedRecorder, Logger
from shared_sync.common.log_once import LogOnce
from shared_sync.common.queue_metrics import queue_values
from shared_sync.connection.availability import Availability
from shared_sync.connection.connection import Connection
from shared_sync.connection.scripts import Command
from shared_sync.errors import RedisAccessDenied, RedisUnavailable
from shared_sync.protocol.commands import GroupCommands, heartbeat_seconds
from shared_sync.protocol.keys import PARKED
from shared_sync.protocol.replies import (
    HeartbeatReply,
    Pending,
    QueueMetrics,
    parse_heartbeat,
    parse_pending,
)
from shared_sync.protocol.scan import START
from shared_sync.redis_consumer.faults.group_pause import GroupPause
from shared_sync.redis_consumer.job_budget import Job
from shared_sync.redis_consumer.recovery import Recovery
from shared_sync.redis_consumer.server_clock import ServerClock
from shared_sync.redis_consumer.slot import Activity
from shared_sync.redis_consumer.worker_reporter import WorkerReporter

DROP_STEP: Final = 100
"""How many messages drop_progress.lua checks in one call."""

BUSY_INTERVAL_SECONDS: Final = 0.05
"""Pause while due times are being restored, in steps."""


class Heartbeat:
    """Sends heartbeats. Methods belong to the heartbeat thread; anyone may read `queue`."""

    def __init__(
        self,
        name: str,
        *,
        connection: Connection,
        commands: GroupCommands,
        activity: Activity,
        recovery: Recovery,
        group_pause: GroupPause,
        availability: Availability,
        recorder: GuardedRecorder,
        logger: Logger,
        lease_seconds: float,
        server_clock: ServerClock,
        reporter: WorkerReporter | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Without a `reporter` no worker report is sent."""
        self._name = name
        self._connection = connection
        self._commands = commands
        self._activity = activity
        self._recovery = recovery
        self._group_pause = group_pause
        self._availability = availability
        self._recorder = recorder
        self._server_clock = server_clock
        self._reporter = reporter
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._logger = logger
        self._log_refusal = LogOnce(logger, logging.WARNING)
        self._interval_seconds = heartbeat_seconds(lease_seconds)
        # Owned by the heartbeat thread.
        self._ended_from = 0
        self._progress_from = 0
        self._restore_from = ""
        self._checks_due_times = False
        self._last_now_ms = 0
        self._last_heartbeat = math.inf
        # Replaced by the heartbeat thread as a whole.
        self.queue: QueueMetrics | None = None
        """The sizes of the queue at the last heartbeat."""
        self.next_scheduled_ms: int | None = None
        """Time from the last heartbeat to the next scheduled job, in ms; None for none."""
        self.marks = 0
        """The number of marks of cancelled messages at the last heartbeat."""

    @property
    def interval_seconds(self) -> float:
        """How long to wait until the next heartbeat."""
        is_restoring = self._restore_from not in ("", START)
        return BUSY_INTERVAL_SECONDS if is_restoring else self._interval_seconds

    def step(self, jobs: Sequence[Job] = ()) -> None:
        """Send one heartbeat, and the worker's report with it if one is due. `jobs` are running.

        Blocks up to the connection's time limits; raises what it raises.
        """
        command = self._commands.heartbeat(
            ended_from=self._ended_from,
            restore_from=self._restore_from,
            has_paused=self._group_pause.pause is not None,
        )
        asked_at = self._clock()
        try:
            reply = parse_heartbeat(self._send(command, jobs))
        except RedisUnavailable as error:
            if error.connection_broke:
                self._recovery.heartbeat_broke()
            raise
        self._server_clock.heard(reply.now_ms, asked_at, self._clock())
        self._note_silence(reply.now_ms)
        summary = reply.pending or parse_pending(self._call(self._commands.pending()))
        self._availability.succeeded(self._name)
        self.marks = reply.cancelled
        self._ended_from = reply.ended_from
        self._restore_from = self._next_to_restore(summary, reply)
        self.next_scheduled_ms = reply.next_scheduled_ms
        self._group_pause.note(reply.pause)
        self._recovery.found_consumers(name for name in summary.by_consumer if name != PARKED)
        self._report(summary, reply)
        if reply.progress > summary.total:  # some of these messages have ended
            self._call(self._commands.drop_progress(self._progress_from))
            self._progress_from += DROP_STEP

    def _send(self, heartbeat: Command, jobs: Sequence[Job]) -> Any:
        """Send a heartbeat, and a report if one is due; return the reply to the heartbeat."""
        reporter = self._reporter
        report = None if reporter is None else reporter.command(jobs)
        if reporter is None or report is None:
            return self._call(heartbeat)
        self._activity.receives = True
        try:
            reply, reported = self._connection.call_with(heartbeat, report)
        finally:
            self._activity.receives = False
        self._recorder.increment_counter("redis_operations", 2)
        reporter.answered(reported)
        return reply

    def _note_silence(self, now_ms: int) -> None:
        """Note that the lease had ended, if it was not Redis that was away."""
        now, before = self._clock(), self._last_heartbeat
        self._last_heartbeat = now
        silent_seconds = min(now - before, (now_ms - self._last_now_ms) / 1000)
        was_away = not self._availability.connected
        if self._reporter is not None and not was_away and silent_seconds > self._lease_seconds:
            self._reporter.was_silent(silent_seconds)

    def _call(self, command: Command) -> Any:
        self._activity.receives = True
        try:
            reply = self._connection.call(*command)
        finally:
            self._activity.receives = False
        self._recorder.increment_counter("redis_operations")
        return reply

    def _next_to_restore(self, summary: Pending, reply: HeartbeatReply) -> str:
        """Return where to go on restoring due times, or '' if there is nothing to restore.

        All are checked if the server's clock went back. Some are lost if there are fewer due times
        than parked messages.
        """
        went_back_ms, self._last_now_ms = self._last_now_ms - reply.now_ms, reply.now_ms
        if went_back_ms > 0:
            self._logger.warning(
                "the clock of the Redis server went back by %.1f s or more, or another server took "
                "over whose clock is behind; leases and the times of retries are corrected",
                went_back_ms / 1000,
            )
            self._checks_due_times = True
            return START
        if self._checks_due_times and reply.restore_from:
            return reply.restore_from
        self._checks_due_times = False
        if summary.parked <= reply.due_times:
            return ""
        return reply.restore_from or START

    def _report(self, summary: Pending, reply: HeartbeatReply) -> None:
        if isinstance(reply.refusal, RedisAccessDenied):
            self._log_refusal(
                "a right is missing, so that names of ended consumers stay in the group or sizes "
                "of the queue are unknown: %s; grant +xgroup|delconsumer and +xlen. Messages go "
                "on; this is logged once",
                reply.refusal,
            )
        queue = self.queue = QueueMetrics(
            backlog=reply.backlog,
            pending=summary.total,
            parked=summary.parked,
            dead=reply.dead,
        )
        sizes = queue_values(
            unfinished=queue.backlog,
            waiting=queue.waiting,
            pending=queue.pending,
            parked=queue.parked,
            scheduled=reply.scheduled,
            dead_letters=queue.dead,
        )
        keys = self._commands.keys
        self._recorder.record_queue(sizes, stream=keys.stream, group=keys.group)
