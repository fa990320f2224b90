"""Builds the readers of a pool, each with what it does not share with the others."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from shared_sync.common.detached_logger import DetachedLogger
from shared_sync.common.guarded import GuardedRecorder, ThreadRecorder
from shared_sync.common.log_once import LogOnce
from shared_sync.connection.availability import Availability
from shared_sync.protocol.attempt_attributes import AttemptAttributes
from shared_sync.redis_consumer.bad_input import BadInput
from shared_sync.redis_consumer.batches.pool_batches import PoolBatches
from shared_sync.redis_consumer.charges import Rules
from shared_sync.redis_consumer.delivery import Delivery
from shared_sync.redis_consumer.faults.broken_worker import BrokenWorker, Faults
from shared_sync.redis_consumer.faults.circuit_breakers import CircuitBreakers
from shared_sync.redis_consumer.faults.failure_streak import FailureStreak
from shared_sync.redis_consumer.faults.pauses import Pauses
from shared_sync.redis_consumer.in_flight import InFlight
from shared_sync.redis_consumer.interruptions import Interruptions
from shared_sync.redis_consumer.jobs.cancellations import Marks
from shared_sync.redis_consumer.jobs.progress import ProgressSender
from shared_sync.redis_consumer.options import Options
from shared_sync.redis_consumer.outcome_share import OutcomeShare
from shared_sync.redis_consumer.prefetch import Prefetch
from shared_sync.redis_consumer.reader import Reader
from shared_sync.redis_consumer.running.attempt_metrics import AttemptMetrics
from shared_sync.redis_consumer.running.pool_processors import PoolProcessors
from shared_sync.redis_consumer.running.reader_processor import ReaderProcessor
from shared_sync.redis_consumer.settling.outbox import Outbox
from shared_sync.redis_consumer.settling.tally import Tally
from shared_sync.redis_consumer.slot import Slot
from shared_sync.redis_consumer.subscription import Subscription

if TYPE_CHECKING:
    from shared_sync.redis_consumer.running.attempt_tracing import AttemptTracing
    from shared_sync.redis_consumer.running.runner import AttemptHook
    from shared_sync.tracing.consumer_spans import ConsumerSpans


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderBuilder:
    """What all readers of a pool share; builds one after the other, before the pool starts."""

    options: Options
    subscription: Subscription
    rules: Rules
    spans: ConsumerSpans | None
    """None if tracing is off."""
    recorder: GuardedRecorder
    logger: DetachedLogger
    log_channel_refusal: LogOnce
    availability: Availability
    in_flight: InFlight
    interruptions: Interruptions
    outcome_share: OutcomeShare
    bad_input: BadInput
    broken_worker: BrokenWorker
    circuit_breakers: CircuitBreakers
    streak: FailureStreak
    pauses: Pauses
    progress: ProgressSender
    batches: PoolBatches
    processors: PoolProcessors

    def build(self, number: int) -> Reader:
        """Return a reader (1, 2, ...), whose slot and outbox count as in flight from now on."""
        subscription = self.subscription
        slot = Slot(f"{self.options.consumer_id}-reader-{number}", now=time.monotonic())
        recorder = ThreadRecorder(self.recorder)
        tracing = self._new_tracing()
        processor = self._new_processor(number, slot, recorder, tracing)
        marks = Marks(subscription.cancellations)
        delivery = self._new_delivery(slot, recorder, processor, marks)
        outbox = self._new_outbox(slot, recorder, delivery, tracing)
        self.in_flight.add_slot(slot)
        self.in_flight.add_outbox(subscription.commands.keys, outbox.ids, outbox.returning_ids)
        return Reader(
            slot,
            subscription=subscription,
            in_flight=self.in_flight,
            outbox=outbox,
            delivery=delivery,
            processor=processor,
            availability=self.availability,
            prefetch=Prefetch(self.options.effective_prefetch),
            marks=marks,
            pauses=self.pauses,
            batches=self.batches.maker(
                slot, outbox=outbox, delivery=delivery, runner=processor.runner, recorder=recorder
            ),
            check_streak=self.streak.check,
            end_jobs=self.progress.end,
            log_source=AttemptAttributes(
                slot.running,
                subscription.commands.keys,
                self.options.consumer_id,
                None if tracing is None else tracing.span_ids,
            ),
            block_seconds=self.options.block_seconds,
        )

    def _new_tracing(self) -> AttemptTracing | None:
        if self.spans is None:
            return None
        from shared_sync.redis_consumer.running.attempt_tracing import (  # noqa: PLC0415 - loads OpenTelemetry
            AttemptTracing,
        )

        return AttemptTracing(
            self.spans,
            self.subscription.server_clock,
            self.logger.direct,
            is_batch=self.options.takes_batches,
        )

    def _new_processor(
        self, number: int, slot: Slot, recorder: ThreadRecorder, tracing: AttemptTracing | None
    ) -> ReaderProcessor:
        hooks: list[AttemptHook] = []
        if self.recorder.records:
            hooks.append(AttemptMetrics(recorder, self.subscription.server_clock))
        jobs = replace(self.subscription.jobs, progress=self.progress)
        if tracing is not None:
            hooks.append(tracing)
            jobs = replace(jobs, trace_output=tracing.emitted)
        return self.processors.add(number, slot, hooks, jobs, tracing)

    def _new_delivery(
        self, slot: Slot, recorder: ThreadRecorder, processor: ReaderProcessor, marks: Marks
    ) -> Delivery:
        has_child = self.options.isolation == "process"
        return Delivery(
            self.rules,
            recorder=recorder,
            logger=self.logger.direct,  # a reader may wait for it, as for the processor's own
            on_retry=self.subscription.recovery.due_in,
            interruptions=self.interruptions,
            bad_input=self.bad_input,
            circuit_breakers=self.circuit_breakers,
            faults=Faults(
                self.broken_worker,
                successes=lambda: (slot if has_child else self.in_flight).successes,
                replace=processor.runner.close if has_child else None,
            ),
            streak=self.streak,
            marks=marks,
            server_time=self.subscription.server_clock.now,
        )

    def _new_outbox(
        self,
        slot: Slot,
        recorder: ThreadRecorder,
        delivery: Delivery,
        tracing: AttemptTracing | None,
    ) -> Outbox:
        tally = Tally(recorder, self.logger.direct, self.log_channel_refusal, self.outcome_share)
        return Outbox(
            slot.name,
            connection=self.subscription.connection(),
            commands=self.subscription.commands,
            activity=slot,
            availability=self.availability,
            recorder=recorder,
            tally=tally,
            give_up=delivery.give_up,
            flush_metrics=recorder.flush,
            tracing=tracing,
        )
