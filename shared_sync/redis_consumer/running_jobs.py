"""The jobs that run just now, and for how long, with stalls of the whole process left out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from shared_sync.common.clock import StallTolerantClock
from shared_sync.common.fork import renew_lock_in_forks
from shared_sync.protocol.messages import Entry
from shared_sync.redis_consumer.in_flight import InFlight
from shared_sync.redis_consumer.slot import Attempt, Slot

LONGEST_STEP_SECONDS: Final = 3.0
"""Upper bound on how much a job's age may grow between two checks; there is one every 2 s."""


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A message that a reader runs just now."""

    entry: Entry
    attempt: Attempt
    slot: Slot
    seconds: float
    """For how long, by a stall-tolerant clock."""

    @property
    def reader(self) -> str:
        """The name of the reader."""
        return self.slot.name

    @property
    def given_up(self) -> bool:
        """Whether it ran past its deadline, and was given to others."""
        return self.attempt.given_up


class RunningJobs:
    """Keeps the ages of jobs. Any thread may call any method; none blocks long.

    A job grows older with each check, by no more than a step: one that was frozen together with
    its process, or beside a C extension that kept the interpreter, is not late for that. Whoever
    gives up on jobs has to check more often than `longest_step_seconds`.
    """

    def __init__(
        self,
        in_flight: InFlight,
        *,
        longest_step_seconds: float = LONGEST_STEP_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Fixed after construction.
        self._in_flight = in_flight
        self._clock = clock
        # Guarded by the lock, which is re-entrant: a signal handler may ask what runs while its own
        # thread is in here.
        self._lock = threading.RLock()
        renew_lock_in_forks(self)
        self._tolerant = StallTolerantClock(longest_step_seconds, clock)
        self._begun: dict[Slot, tuple[int, float]] = {}
        """For each slot, the number of its attempt and when that began, by the tolerant clock."""

    def check(self) -> list[RunningJob]:
        """Return the jobs that run just now, older by the time that passed since the last check."""
        with self._lock:
            before = self._tolerant()
            now = self._tolerant.advance()
            jobs = []
            for slot in self._in_flight.slots:
                attempt = slot.attempt
                if attempt is not None:
                    begun = self._begun_at(slot, attempt, before, now)
                    jobs += [RunningJob(one, attempt, slot, now - begun) for one in attempt.entries]
            return jobs

    def _begun_at(self, slot: Slot, attempt: Attempt, before: float, now: float) -> float:
        number, begun = self._begun.get(slot, (0, 0.0))
        if number != attempt.number:
            # It began since the last check, so no more than that step ago.
            age = min(max(0.0, self._clock() - attempt.started_at), now - before)
            begun = now - age
            self._begun[slot] = (attempt.number, begun)
        return begun

    def give_up(self, deadline_seconds: float) -> list[RunningJob]:
        """Return the jobs that have run for so long, each once.

        They stay in flight here, so that others take them.
        """
        late = [job for job in self.check() if job.seconds >= deadline_seconds and not job.given_up]
        for job in late:
            job.attempt.given_up = True
        return late
