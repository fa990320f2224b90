"""Whether the loops of a consumer turn, and how long Redis has been silent, told in looks.

Time that nobody could use is no time: after a C extension has kept the interpreter for minutes, or
the machine was suspended, every loop stands where it stood, and each is about to go on. So what is
counted is not the clock but the looks at it, each for what has passed since the one before and for
no more than a little. Everybody who asks how a consumer is takes one, and so does its keeper.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from shared_sync.common.loop import Loop
from shared_sync.connection.availability import Availability
from shared_sync.redis_consumer.in_flight import InHand
from shared_sync.redis_consumer.job_budget import Budget, Job

STALLED_SECONDS: Final = 180.0
"""A loop that neither turned nor did what has a limit of its own for so long does not go on.

The longest turn that is right takes some 90 s, and no restart would shorten it: with no name server
that answers, two names to look up, that of a Sentinel and that of the master (30 s each, which is
how long the resolver tries, with three servers and two attempts at each); a search for the master
(7 s); the connect (5 s) and what is sent first (7 s); a pause (3 s). As much again is for hosts of
several addresses, each of which has its own 5 s.
"""

LONGEST_STEP_SECONDS: Final = 5.0
"""What one look counts at most of the time in which a loop has not turned."""

SILENT_SECONDS: Final = 4.0
"""Redis that answered nobody for so long is away: an idle reader's reads and the keeper's beats
come at least every 2 s."""

SILENT_STEP_SECONDS: Final = 1.0
"""What one look counts at most of that: with the usual 2 s it stays below the 4."""

MOST_CALLS: Final = 8
"""How many of the innermost calls tell where a thread is."""


class Worker(Protocol):
    """What is to be known of whoever works in a loop. Any thread may ask."""

    @property
    def in_bounds(self) -> bool: ...
    @property
    def moved_at(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Reader:
    """What a reader is doing, and for how long."""

    name: str
    state: str
    """`waiting`, `running`, `late`, `stuck`, `stalled` or `ended`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Sight:
    """What one look saw."""

    jobs: Sequence[Job]
    readers: Sequence[Reader]
    stalled: Mapping[str, str]
    """The loops that do not go on, by name, and where in the program each is."""

    redis_is_silent: bool
    silent_seconds: float
    """How long ago Redis last answered anyone."""

    @property
    def jobs_late(self) -> int:
        """Jobs past their budget, those that were given to others included."""
        return sum(job.state != "running" for job in self.jobs)

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """The readers and the jobs, as a dashboard shows them."""
        return {
            "readers": [
                {"name": reader.name, "state": reader.state, "seconds": round(reader.seconds, 3)}
                for reader in self.readers
            ],
            "jobs": [
                {
                    "reader": job.running.reader,
                    "message_id": job.running.entry.id,
                    "attempt": job.running.entry.deliveries,
                    "age_seconds": round(job.running.seconds, 3),
                    "budget_seconds": job.budget_seconds,
                    "limit_seconds": job.limit_seconds,
                    "state": job.state,
                }
                for job in self.jobs
            ],
        }


@dataclass(slots=True)
class _Watched:
    """A loop, and where it was seen last."""

    loop: Loop
    worker: Worker
    sign: tuple[int, float] = (-1, 0.0)
    still_seconds: float = 0.0


class Progress:
    """Looks at the loops of one consumer. Any thread may look; it never blocks long."""

    def __init__(
        self,
        *,
        keeper: tuple[Loop, Worker],
        readers: Sequence[tuple[Loop, Worker]],
        in_hand: InHand,
        budget: Budget,
        connectivity: Availability,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Fixed after construction.
        self._in_hand = in_hand
        self._budget = budget
        self._connectivity = connectivity
        self._clock = clock
        # Guarded by the lock, which is re-entrant: a signal handler may ask in the midst of a look.
        # Its look is whole, and the one around it counts what is left: nothing, or a little less.
        self._lock = threading.RLock()
        self._keeper = _Watched(*keeper)
        self._readers = [_Watched(*reader) for reader in readers]
        self._looked_at = clock()
        self._answered_at = connectivity.answered_at
        self._silent_seconds = 0.0

    def look(self) -> Sight:
        """Count what has passed since the last look, and tell how things are."""
        jobs = [self._budget.of(running) for running in self._in_hand.running()]
        with self._lock:
            now = self._clock()
            passed, self._looked_at = now - self._looked_at, now
            self._count_silence(passed)
            everyone = (self._keeper, *self._readers)
            for watched in everyone:
                _count_still(watched, passed)
            job_of = {job.running.reader: job for job in jobs}
            return Sight(
                jobs=jobs,
                readers=[
                    _reader(watched, job_of.get(watched.loop.name), now)
                    for watched in self._readers
                    if watched.loop.was_started
                ],
                stalled={
                    watched.loop.name: _place_of(watched.loop)
                    for watched in everyone
                    if _is_stalled(watched)
                },
                redis_is_silent=self._silent_seconds >= SILENT_SECONDS,
                silent_seconds=now - self._answered_at,
            )

    def learn(self) -> None:
        """Learn how long jobs take, if it is time to. For the keeper; waits as the metrics do."""
        self._budget.learn()

    def _count_silence(self, passed: float) -> None:
        answered_at = self._connectivity.answered_at
        if answered_at != self._answered_at:
            self._answered_at = answered_at
            self._silent_seconds = 0.0
        else:
            self._silent_seconds += min(passed, SILENT_STEP_SECONDS)


def _count_still(watched: _Watched, passed: float) -> None:
    sign = (watched.loop.turns, watched.worker.moved_at)
    if sign != watched.sign or watched.worker.in_bounds or not watched.loop.is_to_turn:
        watched.sign = sign
        watched.still_seconds = 0.0
    else:
        watched.still_seconds += min(passed, LONGEST_STEP_SECONDS)


def _is_stalled(watched: _Watched) -> bool:
    return watched.still_seconds >= STALLED_SECONDS and not watched.loop.has_ended


def _place_of(loop: Loop) -> str:
    """Where a loop's thread is, the innermost call first. Reads no file: it must not block."""
    frame = sys._current_frames().get(loop.thread.ident or 0)
    calls = itertools.islice(traceback.walk_stack(frame), MOST_CALLS) if frame is not None else ()
    return " < ".join(
        f"{call.f_code.co_name} ({call.f_code.co_filename}:{line})" for call, line in calls
    )


def _reader(watched: _Watched, job: Job | None, now: float) -> Reader:
    loop = watched.loop
    if loop.has_ended:
        return Reader(loop.name, "ended", watched.still_seconds)
    if _is_stalled(watched):
        return Reader(loop.name, "stalled", watched.still_seconds)
    if job is not None:
        return Reader(loop.name, job.state, job.running.seconds)
    return Reader(loop.name, "waiting", now - max(watched.worker.moved_at, loop.started_at))
