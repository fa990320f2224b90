"""Ending messages that are cancelled or have expired."""

from __future__ import annotations

from collections.abc import Mapping

from shared_sync.common.guarded import Logger, Recorder
from shared_sync.protocol.job_options import options_of
from shared_sync.protocol.messages import CANCELLED, EXPIRED, Answer, Bury, Entry, Finish
from shared_sync.protocol.results import Results
from shared_sync.redis_consumer.charges import Charges, Death
from shared_sync.redis_consumer.jobs.cancellations import KnownMarks
from shared_sync.redis_consumer.jobs.expiry import Expiry
from shared_sync.redis_consumer.slot import Attempt


class EarlyEnds:
    """Decides which messages end as cancelled or expired. For one thread."""

    def __init__(
        self,
        results: Results,
        charges: Charges,
        *,
        marks: KnownMarks,
        expiry: Expiry,
        dead_letter_expired: bool,
        recorder: Recorder,
        logger: Logger,
    ) -> None:
        # Fixed after construction.
        self._results = results
        self._charges = charges
        self._marks = marks
        self._expiry = expiry
        self._dead_letter_expired = dead_letter_expired
        self._recorder = recorder
        self._logger = logger

    def before_start(self, entry: Entry, fields: Mapping[str, str | bytes]) -> Finish | Bury | None:
        """Return the outcome of a message that must not start; None if it may start."""
        if options_of(entry.items).cancelled or self._marks.has(entry):
            return self.cancelled(entry, fields)
        if self._expiry.seconds_left(entry) <= 0:
            return self._expired(entry, fields)
        return None

    def is_cancelled(self, entry: Entry, attempt: Attempt) -> bool:
        """Return whether a message was cancelled while it ran."""
        job = attempt.jobs.get(entry.id) if attempt.jobs is not None else None
        return job is not None and job.is_cancelled

    def cancelled(self, entry: Entry, fields: Mapping[str, str | bytes]) -> Finish:
        """Return the outcome of a message that was cancelled."""
        self._logger.debug("message %s was cancelled and ends", entry.id)
        return self._results.ended(entry, dict(fields), CANCELLED, CANCELLED)

    def longest_delay_seconds(self, entry: Entry) -> float:
        """Return how long a retry of a message may be parked at most."""
        return self._expiry.longest_delay_seconds(entry)

    def _expired(self, entry: Entry, fields: Mapping[str, str | bytes]) -> Finish | Bury:
        reason = f"expired after {self._expiry.limit_seconds(entry):g} s"
        finish = self._results.ended(entry, dict(fields), EXPIRED, reason)
        if not self._dead_letter_expired:
            self._logger.debug("message %s ends: %s", entry.id, reason)
            return finish
        self._recorder.increment_counter("jobs_expired")
        answer = Answer(finish.items, finish.channel, finish.payload, finish.address)
        return self._charges.bury(entry, fields, Death(reason), answer=answer)
