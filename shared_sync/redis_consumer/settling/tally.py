"""Counts what became of outcomes, and logs those that did not count."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Final

from shared_sync.common.guarded import Logger, Recorder
from shared_sync.common.log_once import LogOnce
from shared_sync.errors import SharedSyncError
from shared_sync.protocol.messages import (
    CANCELLED,
    DONE,
    EXPIRED,
    Bury,
    Fault,
    Finish,
    Outcome,
    Park,
)
from shared_sync.protocol.replies import DROPPED
from shared_sync.redis_consumer.outcome_share import OutcomeShare

_STATUSES: Final = {DONE: "jobs_processed", EXPIRED: "jobs_expired", CANCELLED: "jobs_cancelled"}
_COUNTERS: Final[dict[type[Outcome], str]] = {
    Park: "jobs_retried",
    Bury: "jobs_dead",
    Fault: "jobs_handed_back",
}


class Tally:
    """Records what Redis has confirmed. Safe from any thread that its recorder is safe from."""

    def __init__(
        self,
        recorder: Recorder,
        logger: Logger,
        log_channel_refusal: LogOnce,
        share: OutcomeShare,
    ) -> None:
        self._recorder = recorder
        self._logger = logger
        self._log_channel_refusal = log_channel_refusal
        self._share = share
        self._log_reply_refusal = LogOnce(logger, logging.ERROR)

    def done(self, messages: int, *, lost: int) -> None:
        """Count messages that ended without a result; `lost` of them had ended otherwise before."""
        self._recorder.increment_counter("jobs_processed", messages - lost)
        self._share.count(done=messages - lost)
        if lost:
            self._recorder.increment_counter("jobs_lost", lost)
            self._logger.warning(
                "%d messages that are done here were taken over by other consumers or deleted, or "
                "were pending when this consumer was deleted from the group; what became of them "
                "here does not count",
                lost,
            )

    def outcomes(
        self, outcomes: Sequence[Outcome], results: Sequence[int], in_doubt: Collection[str]
    ) -> None:
        """Count the results of outcomes of one kind; those in doubt had been sent before."""
        dropped = results.count(DROPPED)
        if dropped:
            self._recorder.increment_counter("replies_dropped", dropped)
        if outcomes and min(results) > 0:  # as nearly always
            self._count(outcomes)
            return
        counted: list[Outcome] = []
        for outcome, result in zip(outcomes, results, strict=True):
            if result > 0 or (result == 0 and outcome.id in in_doubt):
                counted.append(outcome)
            elif result == 0:
                self._recorder.increment_counter("jobs_lost")
                self._logger.warning(
                    "message %s was taken over by another consumer or deleted, or was pending when "
                    "this consumer was deleted from the group; what became of it here (%s) does "
                    "not count",
                    outcome.id,
                    type(outcome).__name__.lower(),
                )
            else:
                self._recorder.increment_counter("lost_bodies")
                self._logger.warning(
                    "message %s cannot be kept: its entry was deleted from the stream by others",
                    outcome.id,
                )
        if counted:
            self._count(counted)

    def handed_back(self, messages: int, lost_bodies: int) -> None:
        """Count messages that went back, and those whose entry was gone."""
        if messages:
            self._recorder.increment_counter("jobs_handed_back", messages)
        if lost_bodies:
            self._recorder.increment_counter("lost_bodies", lost_bodies)

    def _count(self, outcomes: Sequence[Outcome]) -> None:
        first = outcomes[0]
        kind = type(first)
        if isinstance(first, Finish):
            done = len(outcomes)
            if first.special is not None:
                done = self._count_statuses([one.status for one in outcomes])  # type: ignore[union-attr]
            else:
                self._recorder.increment_counter("jobs_processed", done)
            self._share.count(done=done)
            return
        self._recorder.increment_counter(_COUNTERS[kind], len(outcomes))
        if kind is Park:
            self._share.count(retried=len(outcomes))
        elif kind is Bury:
            self._share.count(dead=len(outcomes))

    def _count_statuses(self, statuses: Sequence[str]) -> int:
        """Count messages that have ended, and return how many of them are done."""
        for status, counter in _STATUSES.items():
            ended = statuses.count(status)
            if ended:
                self._recorder.increment_counter(counter, ended)
        return statuses.count(DONE)

    def dropped_reply(self, refusal: SharedSyncError) -> None:
        """Count a result that could not be written to its reply stream; its message ends."""
        self._recorder.increment_counter("replies_dropped")
        self._log_reply_refusal(
            "the result of a message cannot be written to the reply stream of its caller: %s. Such "
            "messages end without a result for the caller; this is logged once",
            refusal,
        )

    def unpublished(self, refusal: SharedSyncError) -> None:
        """Count a result that could not be published although its message has ended."""
        self._recorder.increment_counter("results_unpublished")
        self._log_channel_refusal(
            "results cannot be published: %s; grant the worker's user +publish and, with &, the "
            "channels, or name another result_stream if that has no ids left. Messages go on; this "
            "is logged once",
            refusal,
        )
