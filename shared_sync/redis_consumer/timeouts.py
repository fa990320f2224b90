"""Jobs that take long: past their deadline they are given to others; nothing waits behind them."""

from __future__ import annotations

import sys
import traceback
from typing import Final

from shared_sync.protocol.keys import Keys
from shared_sync.protocol.messages import Outcome
from shared_sync.redis_consumer.delivery import Delivery
from shared_sync.redis_consumer.faults.pauses import Pauses
from shared_sync.redis_consumer.in_flight import InFlight
from shared_sync.redis_consumer.running_jobs import LONGEST_STEP_SECONDS, RunningJob, RunningJobs
from shared_sync.redis_consumer.settling.outbox import Outbox

CHECKS_PER_DEADLINE: Final = 4

LONGEST_WAIT_SECONDS: Final = 1.0
"""How long a job may run before the messages that wait behind it are handed back.

With the heartbeat thread's interval of 2 s, none waits longer than some 3 s for other processes.
"""


def longest_step_seconds(give_up_seconds: float | None) -> float:
    """Return how much older a job may grow between two checks: half of its deadline at most.

    Twice what is between two checks if the deadline is short, so that a check may be slow.
    `give_up_seconds` is None if no job is given up on here.
    """
    if give_up_seconds is None:
        return LONGEST_STEP_SECONDS
    return min(LONGEST_STEP_SECONDS, 2 * give_up_seconds / CHECKS_PER_DEADLINE)


class Timeouts:
    """Puts what is given to others into an outbox. For the heartbeat thread, which sends it.

    The reader of a job that is past its deadline cannot be stopped, and is stuck until its
    processor returns. A result that comes late is still published if nobody else was quicker.

    With child processes `job_deadline_seconds` is infinite here: the runner ends a child that takes
    too long, and its message is given to nobody before.
    """

    def __init__(
        self,
        *,
        running_jobs: RunningJobs,
        in_flight: InFlight,
        pauses: Pauses,
        source: Keys,
        outbox: Outbox,
        delivery: Delivery,
        job_deadline_seconds: float,
    ) -> None:
        self._running_jobs = running_jobs
        self._in_flight = in_flight
        self._pauses = pauses
        self._source = source
        self._outbox = outbox
        self._delivery = delivery
        self._deadline_seconds = job_deadline_seconds
        self.interval_seconds = job_deadline_seconds / CHECKS_PER_DEADLINE
        """How often to check."""

    def check(self) -> None:
        """Give up on late jobs, and hand back what waits behind long ones. Never blocks.

        While the pool pauses or stops, nothing more is started, and all that waits is handed back.
        """
        if self._pauses.is_held:
            self._in_flight.withdraw(self._source, into=self._outbox.hand_back)
        for job in self._running_jobs.give_up(self._deadline_seconds):
            self._hand_back_waiting(job)
            self._outbox.add(self._outcome_of(job))
        for job in self._running_jobs.check():
            if job.seconds >= LONGEST_WAIT_SECONDS and not job.slot.holds_parts:
                self._hand_back_waiting(job)

    def _outcome_of(self, job: RunningJob) -> Outcome:
        """Return what becomes of a job that is past its deadline."""
        if self._delivery.is_cancelled(job.entry, job.attempt):
            return self._delivery.cancelled(job.entry)
        batch_size = len(job.attempt.entries)
        return self._delivery.overdue(
            job.entry, self._deadline_seconds, _stack_of(job), batch_size=batch_size
        )

    def _hand_back_waiting(self, job: RunningJob) -> None:
        if job.slot.waiting:
            self._in_flight.withdraw(self._source, job.slot, into=self._outbox.hand_back)


def _stack_of(job: RunningJob) -> str:
    """Return where the reader's thread is just now."""
    frame = sys._current_frames().get(job.slot.thread_id)
    stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
    return stack.encode(errors="replace").decode()  # a file's name may be no valid Unicode
