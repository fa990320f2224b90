"""The outcome of an attempt: a message is done, is tried again later, or becomes a dead letter."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from shared_sync.common.guarded import ErrorRecorder, Logger
from shared_sync.common.out_of_memory import release_memory
from shared_sync.errors import Directive, InvalidMessage, InvalidResult, Reject, Retry
from shared_sync.isolation.errors import ChildCrashed, ChildGone, DeadlinePassed
from shared_sync.message import Fields, decode_fields, decode_readable
from shared_sync.policies import MAX_DELAY_SECONDS, RetryPolicy
from shared_sync.protocol.dead_letter_layout import Metadata, failure_line
from shared_sync.protocol.messages import (
    Bury,
    Entry,
    Finish,
    HandBack,
    LostEntry,
    Outcome,
    Park,
)
from shared_sync.protocol.results import Results, refuse_unstarted
from shared_sync.redis_consumer import crashes
from shared_sync.redis_consumer.bad_input import BadInput
from shared_sync.redis_consumer.broken_worker import Faults, Verdict
from shared_sync.redis_consumer.circuit_breakers import CircuitBreakers
from shared_sync.redis_consumer.failure_streak import FailureStreak
from shared_sync.redis_consumer.failures import CRASH, DEADLINE, NO_FAILURE, Failure
from shared_sync.redis_consumer.interruptions import Interruptions
from shared_sync.redis_consumer.runner import Runner
from shared_sync.redis_consumer.slot import Attempt, Slot
from shared_sync.values import has_run

NEVER_ARRIVED: Final = (
    "too large to fetch: each time that it was sent to a worker, also alone, the connection broke, "
    "while other replies arrived; raise client-output-buffer-limit of the Redis server (a reply "
    "that takes too long breaks the connection, too), or publish smaller messages"
)
"""Why a message becomes a dead letter whose replies are lost again and again."""


@dataclass(frozen=True, slots=True)
class _Death:
    """Why a message is given up on: its last failure, perhaps with a trace, or something else."""

    reason: str
    failure: Failure = NO_FAILURE
    trace: str = ""
    crashes: int | None = None
    """How many there were; None for those before this attempt."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How one consumer decides about messages; shared by all of its threads."""

    consumer: str
    binary_fields: frozenset[str]
    retry: RetryPolicy
    max_crashes: int
    results: Results


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
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._rules = rules
        self._binary_fields = rules.binary_fields
        self._results = rules.results
        self._reads_fields = rules.results.reads_fields
        self._wants_results = rules.results.wanted
        self._recorder = recorder
        self._logger = logger
        self._on_retry = on_retry
        self._interruptions = interruptions or Interruptions()
        self._bad_input = bad_input or BadInput(rules.binary_fields)
        self._circuit_breakers = circuit_breakers
        self._faults = faults
        self._streak = streak
        self._wall = wall

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
        if self._reads_fields or entry.deliveries > 1:
            refused = self._refused(entry, fields)
            if refused is not None:
                return refused
        own = dict(fields) if self._reads_fields else fields  # the processor may change its own
        slot.runs_processor = True
        try:
            (result,) = runner.run(attempt, (own,))
            outcome = None if result is None else self.succeeded(entry, fields, result)
        except BaseException as error:  # noqa: BLE001 - even SystemExit must not end a reader
            slot.runs_processor = False  # what follows is not the user's, nor is the logger's time
            return self.raised(entry, fields, error, attempt)
        slot.runs_processor = False
        return outcome

    # --- the parts of an attempt, which one message and several share ---

    def check(self, entry: Entry) -> Fields | Bury:
        """Return the fields of a message, or what becomes of it if it must not be run."""
        try:
            fields = decode_fields(entry.items, self._binary_fields)
        except InvalidMessage as invalid:
            return self._undecodable(entry, invalid)
        return self._refused(entry, fields) or fields

    def fields_of(self, entry: Entry) -> Fields:
        """Return the fields of a message; raises `InvalidMessage` if it cannot be read."""
        return decode_fields(entry.items, self._binary_fields)

    def is_of_the_worker(self, error: BaseException) -> bool:
        """Return whether no message is to blame for an error, so that all go back uncharged.

        If a circuit breaker is, the readers are held by now.
        """
        if isinstance(error, ChildGone) or (
            self._faults is not None and self._faults.is_fault(error)
        ):
            return True
        return self._circuit_breakers is not None and bool(self._circuit_breakers.stop_for(error))

    def succeeded(self, entry: Entry, fields: Fields, result: object) -> Finish | None:
        """Return what becomes of a message with this result, which is not None.

        None says that nobody reads the result. Raises what reading the result raises, which
        `raised()` takes: `InvalidResult` if it has no form, or has not run.
        """
        if self._wants_results:
            return self._results.success(entry, fields, result)
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
        may_hold: bool = True,
    ) -> Outcome:
        """Return what becomes of a message whose attempt ended in this error.

        Blocks for a moment if the error may come of a drain that has not begun yet, unless it must
        not: one error of an attempt has waited for that.
        """
        release_memory(error)
        if isinstance(error, DeadlinePassed):
            return self.overdue(entry, error.deadline_seconds, error.stack)
        failure = Failure.of(error)
        outcome = self._not_of_the_message(entry, fields, error, failure, attempt)
        if outcome is not None:
            return outcome
        if isinstance(error, InvalidResult) or not self._interruptions.was_interrupted(
            error, attempt, may_hold=may_hold
        ):
            if isinstance(error, ChildCrashed):
                crash = Failure(CRASH, failure.error, None, "", error.stack, CRASH)
                return self._crashed(entry, fields, crash, how=failure.error)
            return self._failed(entry, fields, failure)
        self._logger.info(
            "message %s was interrupted as the consumer stops (%s: %s), and goes back uncharged",
            entry.id,
            failure.error_type,
            failure.error,
        )
        return HandBack(entry.id)

    def _not_of_the_message(
        self,
        entry: Entry,
        fields: Fields,
        error: BaseException,
        failure: Failure,
        attempt: Attempt,
    ) -> Outcome | None:
        """Return what becomes of a message that its worker is to blame for, or a circuit breaker.

        None if neither is.
        """
        if isinstance(error, ChildGone):
            self._logger.info("message %s goes back uncharged: %s", entry.id, failure.error)
            return HandBack(entry.id)
        verdict = self._faults.judge(entry, error, attempt) if self._faults is not None else None
        if verdict is not None:
            return self._broke(entry, fields, failure, verdict)
        why = self._circuit_breakers.stop_for(error) if self._circuit_breakers is not None else None
        return None if why is None else self._stopped_by_breaker(entry, failure, why)

    # --- outcomes of other causes ---

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
        self._logger.error("message %s is %s; its processor is %s", entry.id, text, place)
        return self._failed(entry, decode_fields(entry.items, self._binary_fields), failure)

    def give_up(self, finish: Finish, why: str) -> Bury | None:
        """Return the dead letter that a message becomes whose result Redis will never take.

        None if the message is not known any more.
        """
        entry = finish.entry
        if entry is None:
            return None
        error = InvalidResult(why)
        self._count_failed(error)
        fields = decode_fields(entry.items, self._binary_fields)
        return self._bury(entry, fields, _Death(f"bad result: {why}", Failure.of(error)))

    def never_arrived(self, lost: LostEntry) -> Bury:
        """Return the dead letter that a message becomes which can be fetched by no reply."""
        entry = Entry(lost.id, [], lost.deliveries, lost.history)
        return self._bury(entry, {}, _Death(NEVER_ARRIVED))

    def _undecodable(self, entry: Entry, invalid: InvalidMessage) -> Bury:
        remark = self._bad_input.undecodable(invalid.field)
        return self._refuse(entry, decode_readable(entry.items), invalid, remark)

    def _refused(self, entry: Entry, fields: Fields) -> Bury | None:
        """Return the dead letter that a message becomes because of its crashes, or of a field."""
        if entry.deliveries > 1 and crashes.is_given_up(entry, self._rules.max_crashes):
            self._count_failed(CRASH)
            return self._bury(entry, fields, _Death(crashes.reason(entry.crashes)))
        missing = self._results.missing_field(fields)
        if missing is None:
            return None
        text = (
            f"field {missing!r}, which result_channel needs, is missing; "
            "publish it with the message"
        )
        remark = self._bad_input.missing(missing)
        return self._refuse(entry, fields, InvalidMessage(text, field=missing), remark)

    def _refuse(
        self,
        entry: Entry,
        fields: Mapping[str, str | bytes],
        invalid: InvalidMessage,
        remark: str | None,
    ) -> Bury:
        self._count_failed(invalid)
        return self._bury(entry, fields, _Death(f"bad input: {invalid}"), remark)

    def _count(self, entry: Entry, failure: Failure) -> None:
        """Count an attempt in which the processor has failed."""
        error = failure.raised
        self._count_failed(failure.counted)
        if self._streak is not None and not isinstance(error, Directive):
            self._streak.failed(entry.id, failure)

    def _count_failed(self, error: BaseException | type[BaseException] | str) -> None:
        """Count an attempt that failed, whether or not the processor has run."""
        self._recorder.increment_counter("jobs_failed")
        self._recorder.record_error(error)

    def _crashed(self, entry: Entry, fields: Fields, failure: Failure, *, how: str) -> Outcome:
        """Charge the message that a child was running when it died, and nothing else.

        The same for one that breaks its workers. `how` says how it has ended.
        """
        self._count(entry, failure)
        count = entry.crashes + 1
        if count >= self._rules.max_crashes:
            reason = f"{crashes.reason(count)}, the last time {how}"
            return self._bury(entry, fields, _Death(reason, failure, failure.trace(), count))
        attempts = entry.failures + count
        delay = min(self._rules.retry.delay_seconds(attempts), crashes.LONGEST_DELAY_SECONDS)
        stack, _ = failure.for_log()
        self._logger.warning(
            "message %s has crashed (attempt %d, crash %d of %d): %s; next attempt in %.1f s%s",
            entry.id,
            entry.deliveries,
            count,
            self._rules.max_crashes,
            how,
            delay,
            stack,
        )
        self._on_retry(delay)
        return Park(entry.id, "", round(delay * 1000), entry.deliveries)

    def _failed(self, entry: Entry, fields: Fields, failure: Failure) -> Outcome:
        retry = self._rules.retry
        failures = entry.failures + 1
        error = failure.raised
        self._count(entry, failure)
        if isinstance(error, Reject):
            death = _Death(f"rejected: {failure.error}", failure)
        elif isinstance(error, InvalidResult):  # to run again would not help
            death = _Death(f"bad result: {failure.error}", failure)
        elif failures >= retry.max_attempts:
            death = _Death(f"failed {failures} times", failure, failure.trace())
        else:
            delay = retry.delay_seconds(failures)
            if isinstance(error, Retry) and error.delay_seconds is not None:
                delay = min(error.delay_seconds, MAX_DELAY_SECONDS)
            if self._logger.isEnabledFor(logging.WARNING):  # there may be many failures
                self._log_failure(entry, failure, delay)
            self._on_retry(delay)
            delay_ms = round(delay * 1000)
            line = self._failure_line(entry, failure, delay_ms)
            return Park(entry.id, line, delay_ms, entry.deliveries)
        return self._bury(entry, fields, death)

    def _stopped_by_breaker(self, entry: Entry, failure: Failure, why: str) -> HandBack:
        """Hand a message back that has failed because of what is behind a circuit breaker."""
        if failure.raised is not None and not isinstance(failure.raised, Directive):
            self._recorder.record_error(failure.raised)
        self._logger.info(
            "message %s goes back uncharged, as %s: %s: %s",
            entry.id,
            why,
            failure.error_type,
            failure.error,
        )
        return HandBack(entry.id)

    def _broke(self, entry: Entry, fields: Fields, failure: Failure, verdict: Verdict) -> Outcome:
        """Return what becomes of a message at which its worker broke."""
        self._recorder.increment_counter("worker_faults")
        outcome = verdict.outcome
        if outcome is None:
            return self._crashed(entry, fields, failure, how="its worker broke")
        self._recorder.record_error(failure.counted)
        self._logger.warning(
            "message %s goes back uncharged, as its worker is broken: %s: %s",
            entry.id,
            failure.error_type,
            failure.error,
        )
        return outcome

    def _log_failure(self, entry: Entry, failure: Failure, delay: float) -> None:
        failures, error = entry.failures + 1, failure.raised
        is_shown = failures == 1 and not isinstance(error, Directive)
        text, raised = failure.for_log() if is_shown else ("", None)
        self._logger.warning(
            "message %s failed (attempt %d, failure %d of %d): %s: %s; next attempt in %.1f s%s",
            entry.id,
            entry.deliveries,
            failures,
            self._rules.retry.max_attempts,
            failure.error_type,
            failure.error,
            delay,
            text,
            exc_info=raised,
        )

    def _bury(
        self,
        entry: Entry,
        fields: Mapping[str, str | bytes],
        death: _Death,
        remark: str | None = "",
    ) -> Bury:
        """Return a dead letter. Its line in the log ends with the remark; None for no line."""
        failure, has_crashed = death.failure, death.crashes is not None
        if remark is not None:
            is_new = bool(death.trace) and not has_crashed
            text, raised = failure.for_log() if death.trace else ("", None)
            self._logger.error(
                "message %s becomes a dead letter (delivery %d): %s%s%s%s",
                entry.id,
                entry.deliveries,
                death.reason,
                f" ({failure.error_type}: {failure.error})" if is_new else "",
                remark,
                text,
                exc_info=raised,
            )
        metadata = Metadata(
            message_id=entry.id,
            reason=death.reason,
            error_type=failure.error_type,
            error=failure.error,
            traceback=death.trace,
            attempts=entry.deliveries,
            crashes=entry.crashes if death.crashes is None else death.crashes,
            worker=self._rules.consumer,
            time=self._wall(),
        )
        return Bury(
            entry.id,
            "" if has_crashed or failure is NO_FAILURE else self._failure_line(entry, failure),
            metadata.to_items(),
            self._results.death(entry.id, fields, metadata),
        )

    def _failure_line(self, entry: Entry, failure: Failure, delay_ms: int | None = None) -> str:
        return failure_line(
            worker=self._rules.consumer,
            time=self._wall(),
            attempt=entry.deliveries,
            error_type=failure.error_type,
            error=failure.error,
            delay_ms=delay_ms,
        )
