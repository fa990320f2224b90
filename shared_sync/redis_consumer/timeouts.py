"""One pass over what runs: give up on messages that run past their deadline."""

from __future__ import annotations

import sys
import traceback

from shared_sync.common.guarded import Recorder
from shared_sync.connection.connection import Connection
from shared_sync.errors import RedisRefused, SharedSyncError
from shared_sync.protocol import commands as stream_commands
from shared_sync.protocol.commands import GroupCommands, Outcome
from shared_sync.redis_consumer.delivery import Delivery
from shared_sync.redis_consumer.in_flight import LONGEST_STEP_SECONDS, InHand, Running

PASSES_PER_DEADLINE = 4


def longest_step_seconds(job_deadline_seconds: float | None) -> float:
    """What a job may grow older by from one pass to the next: at most half of its deadline.

    Twice what is between two passes where the deadline is short, so that a pass may be slow.
    """
    if job_deadline_seconds is None:
        return LONGEST_STEP_SECONDS
    return min(LONGEST_STEP_SECONDS, 2 * job_deadline_seconds / PASSES_PER_DEADLINE)


class Deadline:
    """Hands messages that take too long to others. For the keeper's thread, whose link it uses.

    Their readers cannot be stopped and are stuck until their processors return. What they had
    prefetched goes back with them. A result that comes late is still published if nobody else was
    quicker.
    """

    def __init__(
        self,
        *,
        link: Connection,
        commands: GroupCommands,
        in_hand: InHand,
        delivery: Delivery,
        recorder: Recorder,
        job_deadline_seconds: float,
    ) -> None:
        self._link = link
        self._commands = commands
        self._in_hand = in_hand
        self._delivery = delivery
        self._recorder = recorder
        self._seconds = job_deadline_seconds
        self.interval_seconds = job_deadline_seconds / PASSES_PER_DEADLINE
        # Owned by the keeper's thread: what could not be sent yet.
        self._outcomes: list[Outcome] = []
        self._unanswered: set[str] = set()
        self._not_started: list[str] = []

    def look(self) -> None:
        """Give up on what is late by now; never blocks."""
        for job in self._in_hand.give_up(self._seconds):
            self._not_started += self._in_hand.set_aside(job.reader)
            stack = _stack_of(job)
            self._outcomes.append(self._delivery.overdue(job.entry, self._seconds, stack))

    def send(self) -> None:
        """Tell Redis what was given up on.

        Blocks up to the time limits of the link, and raises what that raises; what could not be
        sent is sent the next time.
        """
        refusal: SharedSyncError | None = None
        for outcome in list(self._outcomes):
            refusal = self._settle(outcome) or refusal
        if self._not_started:
            returned, _ = self._link.call(*self._commands.hand_back(self._not_started))
            self._in_hand.release(self._not_started)
            self._not_started.clear()
            self._recorder.increment_counter("jobs_handed_back", returned)
        if refusal is not None:
            raise refusal

    def _settle(self, outcome: Outcome) -> SharedSyncError | None:
        """Send one outcome; why it was refused, in which case it is sent again later."""
        ((command, _),) = self._commands.outcomes([outcome])
        repeated = outcome.id in self._unanswered
        self._unanswered.add(outcome.id)
        try:
            settled = stream_commands.parse_outcomes(self._link.call(*command))
        except RedisRefused as refused:
            settled = stream_commands.Settled([], refused)
        self._unanswered.discard(outcome.id)
        if settled.refusal is None:
            self._outcomes.remove(outcome)
            self._delivery.settle(outcome, settled.results[0], repeated=repeated)
        if settled.unpublished is not None:
            self._delivery.channel_refused(settled.unpublished)
        return settled.refusal


def _stack_of(job: Running) -> str:
    """Where the reader's thread is just now."""
    frame = sys._current_frames().get(job.thread)
    stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
    return stack.encode(errors="replace").decode()  # a file's name may be no valid Unicode
