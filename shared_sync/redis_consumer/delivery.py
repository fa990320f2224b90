"""The outcome of an attempt: a message is done, is tried again later, or becomes a dead letter."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from shared_sync.common import log_attributes
from shared_sync.common.guarded import ErrorRecorder, Logger
from shared_sync.common.out_of_memory import release_memory
from shared_sync.errors import InvalidMessage, InvalidResult, JobCancelled
from shared_sync.isolation.errors import ChildCrashed, DeadlinePassed
from shared_sync.message import Fields, decode_fields, decode_readable
from shared_sync.protocol.job_options import OPTIONS, without_options
from shared_sync.protocol.messages import (
    Bury,
    Entry,
    Finish,
    HandBack,
    LostEntry,
    Outcome,
)
from shared_sync.protocol.results import refuse_unstarted
from shared_sync.redis_consumer import crashes
from shared_sync.redis_consumer.bad_input import BadInput
from shared_sync.redis_consumer.charges import Charges, Death, Rules
from shared_sync.redis_consumer.failures import CRASH, DEADLINE, Failure
from shared_sync.redis_consumer.faults.broken_worker import Faults
from shared_sync.redis_consumer.faults.circuit_breakers import CircuitBreakers
from shared_sync.redis_consumer.faults.failure_streak import FailureStreak
from shared_sync.redis_consumer.faults.uncharged import Uncharged
from shared_sync.redis_consumer.interruptions import Interruptions
from shared_sync.redis_consumer.jobs.cancellations import KnownMarks
from shared_sync.redis_consumer.jobs.early_ends import EarlyEnds
from shared_sync.redis_consumer.jobs.expiry import Expiry
from shared_sync.redis_consumer.running.runner import Runner
from shared_sync.redis_consumer.slot import Attempt, Slot
from shared_sync.values import has_run

NEVER_ARRIVED: Final = (
    "too large to fetch: each time that it was sent to a worker, also alone, the connection broke, "
    "while other replies arrived; raise client-output-buffer-limit of the Redis server (a reply "
    "that takes too long breaks the connection, too), or publish smaller messages"
)
"""Why a message becomes a dead letter whose replies are lost again and again."""


class Delivery:
    """Decides about the messages of one thread. Blocks only as long as the processor does."""

    def __init__(
        self,
        rules: Rules,
        *,
        recorder: ErrorRecorder,
        logger: Logger,
        on_retry: Callable[[float], None] = lambda _: None,
        interruptions: Interruptions | None = None,
        bad_input: BadInput | None = None,
        circuit_breakers: CircuitBreakers | None = None,
        faults: Faults | None = None,
        streak: FailureStreak | None = None,
        marks: KnownMarks | None = None,
        server_time: Callable[[], float] = time.time,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`marks` are those that the reader has read; None without a reader."""
        self._charges = Charges(
            rules, recorder=recorder, logger=logger, on_retry=on_retry, streak=streak, wall=wall
        )
        self._max_crashes = rules.max_crashes
        self._binary_fields = rules.binary_fields
        self._results = rules.results
        self._marks = marks or KnownMarks()
        self._ends = EarlyEnds(
            rules.results,
            self._charges,
            marks=self._marks,
            expiry=Expiry(rules.max_age_seconds, server_time),
            dead_letter_expired=rules.dead_letter_expired,
            recorder=recorder,
            logger=logger,
        )
        self._checks_each = rules.results.reads_fields or rules.max_age_seconds is not None
        self._wants_results = rules.results.wanted
        self._recorder = recorder
        self._logger = logger
        self._interruptions = interruptions or Interruptions()
        self._bad_input = bad_input or BadInput(rules.binary_fields)
        self._uncharged = Uncharged(
            self._charges,
            recorder=recorder,
            logger=logger,
            circuit_breakers=circuit_breakers,
            faults=faults,
        )
        self._streak = streak

    def run(self, attempt: Attempt, runner: Runner, slot: Slot) -> Outcome | None:
        """Run an attempt, unless it must not be run, and return what becomes of its message.

        None says that the message is done and has no result. Raises nothing that the processor
        raises, of whatever kind.
        """
        (entry,) = attempt.entries
        # As check() does, without its call: most messages come for the first time.
        try:
            fields = decode_fields(entry.items, self._binary_fields)
        except InvalidMessage as invalid:
            return self._undecodable(entry, invalid)
        has_options = OPTIONS in fields
        own = fields
        if has_options or self._checks_each or entry.deliveries > 1 or self._marks.ids:
            refused = self._refused(entry, fields)
            if refused is not None:
                return refused
            own = without_options(fields)  # the processor may change its own
        slot.runs_processor = True
        try:
            (result,) = runner.run(attempt, (own,))
            outcome = None
            if result is not None or has_options or attempt.jobs is not None:
                outcome = self.succeeded(entry, fields, result, attempt)
        except BaseException as error:  # noqa: BLE001 - even SystemExit must not end a reader
            slot.runs_processor = False  # what follows is not the user's, nor is the logger's time
            return self.raised(entry, fields, error, attempt)
        slot.runs_processor = False
        return outcome

    # --- the parts of an attempt, which one message and several share ---

    def check(self, entry: Entry) -> Fields | Finish | Bury:
        """Return the fields of a message, or what becomes of it if it must not be run."""
        try:
            fields = decode_fields(entry.items, self._binary_fields)
        except InvalidMessage as invalid:
            return self._undecodable(entry, invalid)
        return self._refused(entry, fields) or fields

    def fields_of(self, entry: Entry) -> Fields:
        """Return the fields of a message; raises `InvalidMessage` if it cannot be read."""
        return decode_fields(entry.items, self._binary_fields)

    def is_uncharged(self, error: BaseException) -> bool:
        """Return whether no message is to blame for an error, so that all go back uncharged."""
        return self._uncharged.covers(error)

    def succeeded(
        self, entry: Entry, fields: Fields, result: object, attempt: Attempt
    ) -> Finish | None:
        """Return what becomes of a message with this result, and with what was emitted for it.

        None says that there is nothing to publish. Raises what reading the result raises, which
        `raised()` takes: `InvalidResult` if it has no form, or has not run.
        """
        job = None if attempt.jobs is None else attempt.jobs.get(entry.id)
        if job is not None:
            job.end()
            if job.outputs:
                return self._results.success(
                    entry, fields, result, tuple(job.outputs), forwards_reply=job.forwards_reply
                )
        if OPTIONS in fields:
            finish = self._results.success(entry, fields, result)
            return None if finish.is_empty else finish
        if self._wants_results:
            return None if result is None else self._results.success(entry, fields, result)
        if not has_run(result):
            refuse_unstarted(result)
        return None

    def note_success(self) -> None:
        """Note that a message has succeeded beside the one that has failed: both in one batch."""
        if self._streak is not None:
            self._streak.succeeded()

    def raised(
        self,
        entry: Entry,
        fields: Fields,
        error: BaseException,
        attempt: Attempt,
        *,
        may_wait: bool = True,
    ) -> Outcome:
        """Return what becomes of a message whose attempt ended in this error.

        If it may wait, it blocks for a moment when the error may come of a drain that has not begun
        yet. For several errors of one attempt, one wait is enough.
        """
        release_memory(error)
        if isinstance(error, JobCancelled) or (
            self._ends.is_cancelled(entry, attempt) and not self._uncharged.covers(error)
        ):
            return self._ends.cancelled(entry, fields)
        if isinstance(error, DeadlinePassed):
            return self.overdue(entry, error.deadline_seconds, error.stack)
        failure = Failure.of(error)
        outcome = self._uncharged.outcome(entry, fields, error, failure, attempt)
        if outcome is not None:
            return outcome
        if isinstance(error, InvalidResult) or not self._interruptions.was_interrupted(
            error, attempt, may_wait=may_wait
        ):
            if isinstance(error, ChildCrashed):
                text = failure.error
                crash = Failure(CRASH, text, remote_traceback=error.stack, counted=CRASH)
                return self._charges.crashed(
                    entry, fields, crash, how=failure.error, within_seconds=self._longest(entry)
                )
            return self._charges.failed(entry, fields, failure, within_seconds=self._longest(entry))
        self._logger.info(
            "message %s was interrupted as the consumer stops (%s: %s), and goes back uncharged",
            entry.id,
            failure.error_type,
            failure.error,
        )
        return HandBack(entry.id)

    # --- outcomes of other causes ---

    def is_cancelled(self, entry: Entry, attempt: Attempt) -> bool:
        """Return whether a message was cancelled while it ran."""
        return self._ends.is_cancelled(entry, attempt)

    def cancelled(self, entry: Entry) -> Finish:
        """Return the outcome of a message that was cancelled while it ran."""
        return self._ends.cancelled(entry, decode_fields(entry.items, self._binary_fields))

    def overdue(
        self, entry: Entry, deadline_seconds: float, stack: str, *, batch_size: int = 1
    ) -> Outcome:
        """Return what becomes of a message that has run for too long, which is a failure.

        `stack` tells where its processor is; the end of it stays with the message if it dies.
        Nobody knows which message of a batch takes so long: each is charged, and runs alone next
        time.
        """
        self._recorder.increment_counter("jobs_overdue")
        together = f" in a batch of {batch_size}" if batch_size > 1 else ""
        text = f"still running after {deadline_seconds:g} s{together} (job_deadline_seconds)"
        failure = Failure(DEADLINE, text, stack=stack, counted=DEADLINE)
        place = f"at:\n{stack}" if stack else "where Python cannot see it"
        with log_attributes.about(message_id=entry.id, attempt=entry.deliveries):
            self._logger.error("message %s is %s; its processor is %s", entry.id, text, place)
        fields = decode_fields(entry.items, self._binary_fields)
        return self._charges.failed(entry, fields, failure, within_seconds=self._longest(entry))

    def give_up(self, finish: Finish, why: str) -> Bury | None:
        """Return the dead letter that a message becomes whose result Redis will never take.

        None if the message is not known any more.
        """
        entry = finish.entry
        if entry is None:
            return None
        error = InvalidResult(why)
        self._charges.count(error)
        fields = decode_fields(entry.items, self._binary_fields)
        return self._charges.bury(entry, fields, Death(f"bad result: {why}", Failure.of(error)))

    def never_arrived(self, lost: LostEntry) -> Bury:
        """Return the dead letter that a message becomes which can be fetched by no reply."""
        entry = Entry(lost.id, [], lost.deliveries, lost.history)
        return self._charges.bury(entry, {}, Death(NEVER_ARRIVED))

    def _longest(self, entry: Entry) -> float:
        return self._ends.longest_delay_seconds(entry)

    def _undecodable(self, entry: Entry, invalid: InvalidMessage) -> Finish | Bury:
        fields = decode_readable(entry.items)
        ended = self._ends.before_start(entry, fields)
        if ended is not None:
            return ended
        return self._refuse(entry, fields, invalid, self._bad_input.undecodable(invalid.field))

    def _refused(self, entry: Entry, fields: Fields) -> Finish | Bury | None:
        """Return the outcome of a message that must not start: it is cancelled, has expired, has
        too many crashes, or is bad input."""
        ended = self._ends.before_start(entry, fields)
        if ended is not None:
            return ended
        if entry.deliveries > 1 and crashes.is_given_up(entry, self._max_crashes):
            self._charges.count(CRASH)
            return self._charges.bury(entry, fields, Death(crashes.reason(entry.crashes)))
        fault = self._results.find_fault(fields)
        if fault is None:
            return None
        return self._refuse(entry, fields, fault.error, self._bad_input.unroutable(fault.summary))

    def _refuse(
        self,
        entry: Entry,
        fields: Mapping[str, str | bytes],
        invalid: InvalidMessage,
        remark: str | None,
    ) -> Bury:
        self._charges.count(invalid)
        return self._charges.bury(entry, fields, Death(f"bad input: {invalid}"), remark)
