"""Errors of a processor for which no message is to blame: it goes back uncharged."""

from __future__ import annotations

from shared_sync.common.guarded import ErrorRecorder, Logger
from shared_sync.errors import Directive
from shared_sync.isolation.errors import ChildGone
from shared_sync.message import Fields
from shared_sync.protocol.messages import Entry, HandBack, Outcome
from shared_sync.redis_consumer.charges import Charges
from shared_sync.redis_consumer.failures import Failure
from shared_sync.redis_consumer.faults.broken_worker import Decision, Faults
from shared_sync.redis_consumer.faults.circuit_breakers import CircuitBreakers
from shared_sync.redis_consumer.slot import Attempt


class Uncharged:
    """Finds errors of the worker, and of what is behind a circuit breaker. For one thread."""

    def __init__(
        self,
        charges: Charges,
        *,
        recorder: ErrorRecorder,
        logger: Logger,
        circuit_breakers: CircuitBreakers | None,
        faults: Faults | None,
    ) -> None:
        # Fixed after construction.
        self._charges = charges
        self._recorder = recorder
        self._logger = logger
        self._circuit_breakers = circuit_breakers
        self._faults = faults

    def covers(self, error: BaseException) -> bool:
        """Return whether no message is to blame for an error, so that all go back uncharged.

        If a circuit breaker is, the readers are held by now.
        """
        if isinstance(error, ChildGone) or (
            self._faults is not None and self._faults.is_fault(error)
        ):
            return True
        return self._circuit_breakers is not None and bool(self._circuit_breakers.stop_for(error))

    def outcome(
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
        decision = self._faults.decide(entry, error, attempt) if self._faults is not None else None
        if decision is not None:
            return self._broke(entry, fields, failure, decision)
        why = self._circuit_breakers.stop_for(error) if self._circuit_breakers is not None else None
        return None if why is None else self._stopped_by_breaker(entry, failure, why)

    def _stopped_by_breaker(self, entry: Entry, failure: Failure, why: str) -> HandBack:
        """Hand a message back that has failed because of what is behind a circuit breaker."""
        if not isinstance(failure.raised, Directive):
            self._recorder.record_error(failure.counted)
        self._logger.info(
            "message %s goes back uncharged, as %s: %s: %s",
            entry.id,
            why,
            failure.error_type,
            failure.error,
        )
        return HandBack(entry.id)

    def _broke(self, entry: Entry, fields: Fields, failure: Failure, decision: Decision) -> Outcome:
        """Return what becomes of a message at which its worker broke."""
        self._recorder.increment_counter("worker_faults")
        outcome = decision.outcome
        if outcome is None:
            return self._charges.crashed(entry, fields, failure, how="its worker broke")
        self._recorder.record_error(failure.counted)
        self._logger.warning(
            "message %s goes back uncharged, as its worker is broken: %s: %s",
            entry.id,
            failure.error_type,
            failure.error,
        )
        return outcome
