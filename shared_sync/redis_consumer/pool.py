"""The pool: builds the threads of one consumer, starts them, and drains them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from shared_sync.common.detached_logger import DetachedLogger
from shared_sync.common.guarded import GuardedRecorder
from shared_sync.common.log_once import LogOnce
from shared_sync.common.loop import Loop
from shared_sync.connection import url
from shared_sync.connection.availability import Availability
from shared_sync.connection.connection import REPLY_MARGIN_SECONDS
from shared_sync.errors import ConsumerBroken
from shared_sync.processors import ProcessorSource
from shared_sync.protocol.results import Results
from shared_sync.redis_consumer import connecting
from shared_sync.redis_consumer.bad_input import BadInput
from shared_sync.redis_consumer.batches.pool_batches import PoolBatches
from shared_sync.redis_consumer.charges import Rules
from shared_sync.redis_consumer.connecting import GiveUp
from shared_sync.redis_consumer.draining import Draining
from shared_sync.redis_consumer.error_handling import ErrorHandling
from shared_sync.redis_consumer.faults.broken_worker import BrokenWorker
from shared_sync.redis_consumer.faults.circuit_breakers import CircuitBreakers
from shared_sync.redis_consumer.faults.failure_streak import FailureStreak
from shared_sync.redis_consumer.faults.fatal_errors import FatalErrors
from shared_sync.redis_consumer.faults.group_pause import GroupPause
from shared_sync.redis_consumer.faults.pauses import Pauses
from shared_sync.redis_consumer.heartbeat_thread import HeartbeatThread
from shared_sync.redis_consumer.identity import NameWait
from shared_sync.redis_consumer.in_flight import InFlight
from shared_sync.redis_consumer.interruptions import Interruptions
from shared_sync.redis_consumer.job_budget import Budget
from shared_sync.redis_consumer.jobs.progress import ProgressSender
from shared_sync.redis_consumer.options import Options
from shared_sync.redis_consumer.outcome_share import OutcomeShare
from shared_sync.redis_consumer.reader import Reader
from shared_sync.redis_consumer.reader_builder import ReaderBuilder
from shared_sync.redis_consumer.running.child_memory import record_memory
from shared_sync.redis_consumer.running.isolation import EncodedResults
from shared_sync.redis_consumer.running.pool_processors import PoolProcessors
from shared_sync.redis_consumer.running_jobs import RunningJobs
from shared_sync.redis_consumer.subscription import Subscription
from shared_sync.redis_consumer.timeouts import longest_step_seconds
from shared_sync.redis_consumer.watchdog import Watchdog
from shared_sync.redis_consumer.worker_events import WorkerEvents
from shared_sync.redis_consumer.worker_reporter import WorkerReporter
from shared_sync.tracing.switch import consumer_spans


class Pool:
    """The threads of one consumer: readers, and one for heartbeats.

    Any thread may call any method. The consumer decides when: `connect()`, perhaps `keep_names()`,
    then `start()`, then `drain()`.
    """

    def __init__(
        self,
        options: Options,
        source: ProcessorSource,
        *,
        recorder: GuardedRecorder,
        logger: DetachedLogger,
        on_broken: Callable[[ConsumerBroken], None],
    ) -> None:
        # Fixed after construction.
        self._options = options
        self._recorder = recorder
        self._logger = logger
        self._log_channel_refusal = LogOnce(logger, logging.ERROR)
        self._rules = _rules(options, LogOnce(logger, logging.WARNING))
        self._outcome_share = OutcomeShare(options.max_failure_share)
        self._bad_input = BadInput(options.binary_fields)
        self.events = WorkerEvents(options.consumer_id)
        self.availability = Availability(
            url.safe_address(options.redis_url), logger, on_return=self.events.redis_returned
        )
        self._in_flight = InFlight()
        self.interruptions = Interruptions()
        self.subscriptions = [
            Subscription(
                options,
                in_flight=self._in_flight,
                events=self.events,
                recorder=recorder,
                logger=logger,
            )
        ]
        self._stop_reading = threading.Event()
        self._stop_heartbeats = threading.Event()
        self._wake_heartbeat = threading.Event()
        self._abandon = threading.Event()
        self._broken_worker = BrokenWorker(FatalErrors(options.fatal_errors), on_broken=on_broken)
        self.pauses = Pauses(logger=logger, on_hold=self._wake_heartbeat.set)
        self.group_pause = GroupPause(self.pauses, recorder)
        self.progress = self._new_progress()
        self.batches = PoolBatches(
            options.effective_batch,
            is_wanted=options.batch is not None,
            in_flight=self._in_flight,
            pauses=self.pauses,
            logger=logger.direct,
            end_jobs=self.progress.end,
        )
        self.circuit_breakers = CircuitBreakers(
            options.circuit_breakers, pauses=self.pauses, recorder=recorder
        )
        self._processors = PoolProcessors(
            options,
            source,
            circuit_breakers=self.circuit_breakers,
            recorder=recorder,
            logger=logger,
        )
        self.loading = self._processors.loading
        builder = self._new_reader_builder()
        self.readers = [builder.build(number) for number in range(1, options.threads + 1)]
        self._with_children = self._processors.children
        self._running_jobs = RunningJobs(
            self._in_flight,
            longest_step_seconds=longest_step_seconds(options.give_up_seconds),
        )
        self.heartbeat = heartbeat = self._new_heartbeat()
        errors = ErrorHandling(
            self.subscriptions[0],
            availability=self.availability,
            recorder=recorder,
            logger=logger,
            longest_pause_seconds=heartbeat.heartbeat.interval_seconds,
            on_broken=on_broken,
            on_loading_failed=self._broken_worker.end_if_fatal,
        )
        self.reader_loops = [self._new_reader_loop(reader, errors) for reader in self.readers]
        self.heartbeat_loop = Loop(
            heartbeat.name,
            step=self._step_heartbeat,
            stop=self._stop_heartbeats,
            on_error=partial(errors.handle, heartbeat.name),
        )
        self.watchdog = self._new_watchdog()
        self._draining = self._new_draining()
        # Written by whoever starts the pool; any thread may read.
        self.was_started = False
        """Whether the threads were started, as far as the system has given any."""

    # --- building ---

    def _new_progress(self) -> ProgressSender:
        options, (subscription,) = self._options, self.subscriptions
        return ProgressSender(
            f"{options.consumer_id}-progress",
            connect=subscription.connector(REPLY_MARGIN_SECONDS),
            commands=subscription.commands,
            results=self._rules.results,
            binary_fields=options.binary_fields,
            per_second=options.progress_per_second,
            recorder=self._recorder,
            logger=self._logger,
        )

    def _new_reader_builder(self) -> ReaderBuilder:
        options, (subscription,) = self._options, self.subscriptions
        return ReaderBuilder(
            options=options,
            subscription=subscription,
            rules=self._rules,
            spans=consumer_spans(
                options.tracing,
                stream=options.stream_name,
                group=options.consumer_group,
                consumer=options.consumer_id,
                server=url.server_of(options.redis_url),
            ),
            recorder=self._recorder,
            logger=self._logger,
            log_channel_refusal=self._log_channel_refusal,
            availability=self.availability,
            in_flight=self._in_flight,
            interruptions=self.interruptions,
            outcome_share=self._outcome_share,
            bad_input=self._bad_input,
            broken_worker=self._broken_worker,
            circuit_breakers=self.circuit_breakers,
            streak=FailureStreak(
                options.max_failures_in_a_row,
                pauses=self.pauses,
                successes=lambda: self._in_flight.successes,
            ),
            pauses=self.pauses,
            progress=self.progress,
            batches=self.batches,
            processors=self._processors,
        )

    def _new_reader_loop(self, reader: Reader, errors: ErrorHandling) -> Loop:
        return Loop(
            reader.slot.name,
            begin=reader.begin,
            step=reader.step,
            stop=self._stop_reading,
            on_error=partial(errors.handle, reader.slot.name),
            finish=partial(reader.finish, self._abandon),
        )

    def _new_heartbeat(self) -> HeartbeatThread:
        (subscription,) = self.subscriptions
        return HeartbeatThread(
            f"{self._options.consumer_id}-heartbeat",
            subscription,
            self._options,
            rules=self._rules,
            in_flight=self._in_flight,
            pauses=self.pauses,
            group_pause=self.group_pause,
            running_jobs=self._running_jobs,
            availability=self.availability,
            recorder=self._recorder,
            logger=self._logger,
            log_channel_refusal=self._log_channel_refusal,
            outcome_share=self._outcome_share,
            reporter=WorkerReporter(
                subscription.commands,
                self.events,
                release=self._options.release,
                threads=self._options.threads,
                state=self._reported_state,
                totals=lambda: self._outcome_share.totals,
                progress=self.progress.share_of,
                pauses=self.pauses,
                server_time=subscription.server_clock.now,
                recorder=self._recorder,
                logger=self._logger,
            ),
        )

    def _reported_state(self) -> str:
        """Return what the pool does, for the worker's report."""
        if self._stop_reading.is_set():
            return "draining"
        if not (self.was_started and self.loading.is_complete):
            return "loading"
        return "paused" if self.pauses.is_held else "running"

    def _new_draining(self) -> Draining:
        return Draining(
            readers=self.readers,
            reader_loops=self.reader_loops,
            running_jobs=self._running_jobs,
            interruptions=self.interruptions,
            heartbeat=self.heartbeat,
            heartbeat_loop=self.heartbeat_loop,
            subscriptions=self.subscriptions,
            stop_reading=self.stop_reading,
            wake_heartbeat=self._wake_heartbeat,
            stop_heartbeats=self._stop_heartbeats,
            abandon=self._abandon,
        )

    def _new_watchdog(self) -> Watchdog:
        options = self._options
        return Watchdog(
            heartbeat=(self.heartbeat_loop, self.heartbeat.activity),
            readers=[
                (loop, reader.slot)
                for loop, reader in zip(self.reader_loops, self.readers, strict=True)
            ],
            running_jobs=self._running_jobs,
            budget=Budget(
                deadline_seconds=options.job_deadline_seconds,
                limit_seconds=options.job_limit_seconds,
                late_after_p99s=options.late_after_p99s,
                kill_seconds=options.kill_seconds,
                recorder=self._recorder,
            ),
            availability=self.availability,
        )

    # --- running ---

    def connect(self, give_up: GiveUp, for_seconds: float) -> bool:
        """Claim the consumer's name in every group; False if `give_up` ended the wait.

        Tries again for so long while Redis is away. Then raises what the last attempt has raised.
        """
        user = self._options.consumer_id

        def connect(give_up: GiveUp) -> bool:
            return connecting.until_redis_answers(
                self._claim_names,
                give_up=give_up,
                for_seconds=for_seconds,
                on_failure=partial(self.availability.failed, user),
            )

        if not connecting.interruptibly(connect, give_up=give_up, undo=self._undo_connect):
            return False
        self.availability.succeeded(user)
        return True

    def forget_names(self) -> None:
        """Note that the process which this one was forked from has the names."""
        for subscription in self.subscriptions:
            subscription.forget_name()

    def abandon(self) -> None:
        """In a forked process: leave everything to the other one.

        If a processor has forked and returns in both processes, its reader ends in this one.
        """
        self.forget_names()
        self.pauses.close()
        self.loading.cancel()
        self._in_flight.abandon()
        self.progress.abandon()
        for loop in (self.heartbeat_loop, *self.reader_loops):
            loop.abandon()

    def _claim_names(self, give_up: GiveUp) -> bool:
        (subscription,) = self.subscriptions
        if not subscription.claim_name(give_up):
            return False
        self.group_pause.note(subscription.pause)  # before the readers start
        return True

    def _undo_connect(self) -> None:
        self.leave(time.monotonic())

    @property
    def has_name(self) -> bool:
        """Whether the consumer's name is claimed."""
        return all(one.has_name for one in self.subscriptions)

    @property
    def sends_heartbeats(self) -> bool:
        """Whether the name is kept alive."""
        return self.heartbeat_loop.is_to_turn

    @property
    def name_waits(self) -> list[NameWait]:
        """What the claim of a name is waiting for."""
        waits = (one.name_wait for one in self.subscriptions)
        return [wait for wait in waits if wait is not None]

    def keep_names(self) -> None:
        """Send heartbeats from now on. Raises RuntimeError if the system gives no more threads."""
        self.heartbeat_loop.start()

    def start(self) -> None:
        """Start the threads. Raises RuntimeError if the system gives no more of them."""
        self.was_started = True
        self.loading.begin()
        for loop in (self.heartbeat_loop, *self.reader_loops):
            loop.start()

    @property
    def unsettled(self) -> int:
        """How many outcomes of the readers Redis has not confirmed."""
        return sum(reader.outbox.unsettled for reader in self.readers)

    def ended_threads(self) -> list[str]:
        """Return the names of the threads that have ended."""
        return [loop.name for loop in (self.heartbeat_loop, *self.reader_loops) if loop.has_ended]

    def hazards(self) -> list[str]:
        """Return why somebody should look, although every thread goes on."""
        share = self._outcome_share.reason()
        dead_letters = [*self._bad_input.reasons(), *([share] if share else [])]
        return [
            *self._processors.problems,
            *self.circuit_breakers.reasons(),
            *self.heartbeat.hazards.reasons,
            *dead_letters,
        ]

    def is_reader(self, thread: threading.Thread) -> bool:
        """Return whether a thread is one of the readers."""
        return any(loop.thread is thread for loop in self.reader_loops)

    def _step_heartbeat(self) -> None:
        """Make one pass of the heartbeat thread."""
        snapshot = self.watchdog.check()
        self.watchdog.learn()
        self.circuit_breakers.record()
        record_memory(self._with_children, self._recorder)
        self.heartbeat.step(snapshot, jobs_unsettled=self.unsettled)
        if self._wake_heartbeat.wait(self.heartbeat.interval_seconds):
            self._wake_heartbeat.clear()

    # --- stopping ---

    def stop_reading(self) -> None:
        """Let no reader begin another pass, nor another attempt, nor load its processor."""
        self._stop_reading.set()
        self.loading.cancel()
        self.pauses.close()

    def drain(self, stop_by: Callable[[], float]) -> tuple[bool, bool]:
        """Stop reading, let what runs finish, hand back the rest, and leave the groups.

        As `Draining.drain()`, which has the order and the reasons.
        """
        try:
            return self._draining.drain(stop_by)
        finally:
            self.progress.stop()  # the readers have sent the last of it

    def leave(self, stop_by: float) -> bool:
        """Leave the groups; return whether Redis knows."""
        return self._draining.leave(stop_by)


def _rules(options: Options, log_renamed: LogOnce) -> Rules:
    binary_fields = tuple(options.binary_fields)
    results = Results if options.isolation == "thread" else EncodedResults
    return Rules(
        consumer=options.consumer_id,
        binary_fields=frozenset(binary_fields),
        retry=options.retry,
        max_crashes=options.max_crashes,
        results=results(
            stream=options.stream_name,
            result_stream=options.result_stream,
            result_channel=options.result_channel,
            carry_fields=options.carry_fields,
            binary_fields=binary_fields,
            log_renamed=log_renamed,
        ),
        max_age_seconds=options.max_age_seconds,
        dead_letter_expired=options.dead_letter_expired,
    )
