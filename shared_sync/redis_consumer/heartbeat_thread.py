"""The heartbeat thread of a pool: it has a connection of its own, so that no reader delays it."""

from __future__ import annotations

import math
from typing import Final

from shared_sync.common.guarded import GuardedRecorder, Logger
from shared_sync.common.log_once import LogOnce
from shared_sync.connection import connection as redis_connection
from shared_sync.connection.availability import Availability
from shared_sync.connection.connection import Connection
from shared_sync.protocol.hazards import Hazards
from shared_sync.protocol.retention import ResultStreams, Retention
from shared_sync.protocol.scheduling import ScheduledJobs
from shared_sync.protocol.sweep import Sweep
from shared_sync.redis_consumer.charges import Rules
from shared_sync.redis_consumer.delivery import Delivery
from shared_sync.redis_consumer.faults.group_pause import GroupPause
from shared_sync.redis_consumer.faults.pauses import Pauses
from shared_sync.redis_consumer.heartbeat import BUSY_INTERVAL_SECONDS, Heartbeat
from shared_sync.redis_consumer.in_flight import InFlight
from shared_sync.redis_consumer.jobs.cancellations import CancelWatch
from shared_sync.redis_consumer.options import Options
from shared_sync.redis_consumer.outcome_share import OutcomeShare
from shared_sync.redis_consumer.running_jobs import RunningJobs
from shared_sync.redis_consumer.settling.outbox import Outbox
from shared_sync.redis_consumer.settling.tally import Tally
from shared_sync.redis_consumer.slot import Activity
from shared_sync.redis_consumer.subscription import Subscription
from shared_sync.redis_consumer.timeouts import Timeouts
from shared_sync.redis_consumer.watchdog import Snapshot
from shared_sync.redis_consumer.worker_reporter import WorkerReporter

SURVEY_SECONDS: Final = 30.0
"""Time between two surveys. The server reads two or three whole messages for each of them."""


class HeartbeatThread:
    """Sends heartbeats, and gives to others what takes too long here. For its own thread."""

    def __init__(
        self,
        name: str,
        subscription: Subscription,
        options: Options,
        *,
        rules: Rules,
        in_flight: InFlight,
        pauses: Pauses,
        group_pause: GroupPause,
        running_jobs: RunningJobs,
        availability: Availability,
        recorder: GuardedRecorder,
        logger: Logger,
        log_channel_refusal: LogOnce,
        outcome_share: OutcomeShare,
        reporter: WorkerReporter,
    ) -> None:
        self.name = name
        self.activity = Activity()
        # A connection that hangs must be given up on before the lease ends.
        reply_seconds = min(redis_connection.REPLY_MARGIN_SECONDS, options.lease_seconds / 4)
        self.connection = Connection(subscription.connector(reply_seconds))
        """Stays open when the thread has ended, for the thread that ended it."""
        self._recorder = recorder
        self._pauses = pauses
        self._group_pause = group_pause
        self.heartbeat = Heartbeat(
            name,
            connection=self.connection,
            commands=subscription.commands,
            activity=self.activity,
            recovery=subscription.recovery,
            group_pause=group_pause,
            availability=availability,
            recorder=recorder,
            logger=logger,
            lease_seconds=options.lease_seconds,
            server_clock=subscription.server_clock,
            reporter=reporter,
        )
        self._outbox = Outbox(
            name,
            connection=self.connection,
            commands=subscription.commands,
            activity=self.activity,
            availability=availability,
            recorder=recorder,
            tally=Tally(recorder, logger, log_channel_refusal, outcome_share),
        )
        in_flight.add_outbox(
            subscription.commands.keys, self._outbox.ids, self._outbox.returning_ids
        )
        self._cancel_watch = CancelWatch(subscription.cancellations, in_flight)
        self._sweep = Sweep(subscription.commands, logger)
        self._scheduled = ScheduledJobs(subscription.commands.keys, logger)
        result_streams = ResultStreams(subscription.commands.result_stream)
        if options.result_limits.are_set:
            subscription.commands.result_streams = result_streams
        self._retention = Retention(
            subscription.commands.keys,
            results=options.result_limits,
            letters=options.dead_letter_limits,
            result_streams=result_streams,
            recorder=recorder,
            logger=logger,
        )
        self.hazards = Hazards(
            subscription.commands.keys,
            period_seconds=SURVEY_SECONDS,
            recorder=recorder,
            logger=logger,
        )
        self._group_view = subscription.group_view
        self._timeouts = Timeouts(
            running_jobs=running_jobs,
            in_flight=in_flight,
            pauses=pauses,
            source=subscription.commands.keys,
            outbox=self._outbox,
            delivery=Delivery(
                rules,
                recorder=recorder,
                logger=logger,
                server_time=subscription.server_clock.now,
            ),
            job_deadline_seconds=options.give_up_seconds or math.inf,
        )

    def step(self, snapshot: Snapshot, *, jobs_unsettled: int) -> None:
        """Make one pass. Blocks up to the connection's time limits; raises what it raises."""
        self._recorder.set_gauge("jobs_late", snapshot.jobs_late)
        self._recorder.set_gauge("jobs_unsettled", jobs_unsettled)
        is_paused = self._group_pause.pause is not None or bool(self._pauses.reasons())
        self._recorder.set_gauge("consumer_paused", 1 if is_paused else 0)
        self._timeouts.check()
        self.heartbeat.step(snapshot.jobs)
        self._cancel_watch.check(
            self.heartbeat.marks, lambda command: self.connection.call(*command)
        )
        self._outbox.flush()
        self._scheduled.check(self.connection, self.heartbeat.next_scheduled_ms)
        queue = self.heartbeat.queue
        self._sweep.check(self.connection, is_empty=queue is not None and queue.backlog == 0)
        self._retention.check(self.connection)
        self.hazards.check(self.connection)
        self._group_view.watch(self.connection)

    @property
    def interval_seconds(self) -> float:
        """How long to wait until the next pass."""
        if self._retention.is_busy:
            return BUSY_INTERVAL_SECONDS
        return min(
            self.heartbeat.interval_seconds,
            self._timeouts.interval_seconds,
            self._scheduled.interval_seconds,
        )
