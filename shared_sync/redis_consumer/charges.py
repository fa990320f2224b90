"""What a failure or a crash costs a message: it is tried again later, or becomes a dead letter."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shared_sync.common.guarded import ErrorRecorder, Logger
from shared_sync.errors import Directive, InvalidResult, Reject, Retry
from shared_sync.message import Fields
from shared_sync.policies import MAX_DELAY_SECONDS, RetryPolicy
from shared_sync.protocol.dead_letter_layout import Metadata, failure_line, failures_of
from shared_sync.protocol.job_options import options_of
from shared_sync.protocol.messages import Answer, Bury, Entry, Outcome, Park
from shared_sync.protocol.results import Results
from shared_sync.redis_consumer import crashes
from shared_sync.redis_consumer.failures import NO_FAILURE, Failure
from shared_sync.redis_consumer.faults.failure_streak import FailureStreak


@dataclass(frozen=True, slots=True)
class Rules:
    """How one consumer decides about messages; shared by all of its threads."""

    consumer: str
    binary_fields: frozenset[str]
    retry: RetryPolicy
    max_crashes: int
    results: Results
    max_age_seconds: float | None = None
    """Age at which every message expires; None for no limit of the consumer."""
    dead_letter_expired: bool = False
    """Whether expired messages become dead letters."""


@dataclass(frozen=True, slots=True)
class Death:
    """Why a message is given up on: its last failure, perhaps with a trace, or something else."""

    reason: str
    failure: Failure = NO_FAILURE
    trace: str = ""
    crashes: int | None = None
    """How many there were; None for those before this attempt."""


class Charges:
    """Charges the messages of one thread, and says so in the log."""

    def __init__(
        self,
        rules: Rules,
        *,
        recorder: ErrorRecorder,
        logger: Logger,
        on_retry: Callable[[float], None] = lambda _: None,
        streak: FailureStreak | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`on_retry` is called with the seconds after which a message is due again."""
        self._rules = rules
        self._recorder = recorder
        self._logger = logger
        self._on_retry = on_retry
        self._streak = streak
        self._wall = wall
        self._own_failures = failures_of(rules.consumer)

    def failed(
        self, entry: Entry, fields: Fields, failure: Failure, *, within_seconds: float = math.inf
    ) -> Outcome:
        """Charge a message whose attempt has failed. A retry is due within `within_seconds`."""
        retry = self._rules.retry
        failures = entry.failures + 1
        error = failure.raised
        self._count_attempt(entry, failure)
        if isinstance(error, Reject):
            death = Death(f"rejected: {failure.error}", failure)
        elif isinstance(error, InvalidResult):  # to run again would not help
            death = Death(f"bad result: {failure.error}", failure)
        elif failures >= retry.max_attempts:
            death = Death(f"failed {failures} times", failure, failure.trace())
        else:
            delay = retry.delay_seconds(failures)
            if isinstance(error, Retry) and error.delay_seconds is not None:
                delay = min(error.delay_seconds, MAX_DELAY_SECONDS)
            delay = min(delay, within_seconds)
            if self._logger.isEnabledFor(logging.WARNING):  # there may be many failures
                self._log_failure(entry, failure, delay)
            self._on_retry(delay)
            delay_ms = round(delay * 1000)
            line = self._failure_line(entry, failure, delay_ms)
            return _park(entry, line, delay_ms)
        return self.bury(entry, fields, death)

    def crashed(
        self,
        entry: Entry,
        fields: Fields,
        failure: Failure,
        *,
        how: str,
        within_seconds: float = math.inf,
    ) -> Outcome:
        """Charge a message with a crash: its child died while it ran, or it breaks its workers.

        `how` says how the child or the worker has ended.
        """
        self._count_attempt(entry, failure)
        count = entry.crashes + 1
        if count >= self._rules.max_crashes:
            last = ", the last time " if count > 1 else ": "
            reason = f"{crashes.reason(count)}{last}{how}"
            return self.bury(entry, fields, Death(reason, failure, failure.trace(), count))
        attempts = entry.failures + count
        longest = min(crashes.LONGEST_DELAY_SECONDS, within_seconds)
        delay = min(self._rules.retry.delay_seconds(attempts), longest)
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
        return _park(entry, "", round(delay * 1000))

    def bury(
        self,
        entry: Entry,
        fields: Mapping[str, str | bytes],
        death: Death,
        remark: str | None = "",
        *,
        answer: Answer | None = None,
    ) -> Bury:
        """Give a message up; return its dead letter.

        The line in the log ends with the remark; None for no line. `answer` is the
        result, if it differs from that of other dead letters.
        """
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
            self._rules.results.death(entry.id, fields, metadata) if answer is None else answer,
        )

    def count(self, error: BaseException | type[BaseException] | str) -> None:
        """Count an attempt that failed, whether or not the processor has run."""
        self._recorder.increment_counter("jobs_failed")
        self._recorder.record_error(error)

    def _count_attempt(self, entry: Entry, failure: Failure) -> None:
        """Count an attempt in which the processor has failed."""
        error = failure.raised
        self.count(failure.counted)
        if self._streak is not None and not isinstance(error, Directive):
            self._streak.failed(entry.id, failure, again=self._has_failed_here(entry))

    def _has_failed_here(self, entry: Entry) -> bool:
        return self._own_failures in entry.history

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

    def _failure_line(self, entry: Entry, failure: Failure, delay_ms: int | None = None) -> str:
        return failure_line(
            worker=self._rules.consumer,
            time=self._wall(),
            attempt=entry.deliveries,
            error_type=failure.error_type,
            error=failure.error,
            delay_ms=delay_ms,
        )


def _park(entry: Entry, failure: str, delay_ms: int) -> Park:
    return Park(entry.id, failure, delay_ms, entry.deliveries, options_of(entry.items).id)
