"""Threads that make no progress, and a Redis that answers nobody, as one snapshot.

Time in which nobody could run does not count: after a C extension has kept the interpreter for
minutes, or the machine was suspended, every loop is where it was, and each is about to go on. So
the watchdog counts from check to check, each time no more than a step. Whoever asks how a consumer
is makes a check, and so does its heartbeat thread.
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

from shared_sync.common.clock import StallTolerantClock
from shared_sync.common.fork import renew_lock_in_forks
from shared_sync.common.loop import Loop
from shared_sync.connection.availability import Availability
from shared_sync.redis_consumer.job_budget import Budget, Job
from shared_sync.redis_consumer.running_jobs import RunningJobs

STALLED_SECONDS: Final = 180.0
"""A loop that neither turned nor did what has a limit of its own for so long makes no progress.

The longest turn that is right takes some 90 s, and no restart would shorten it: with no name server
that answers, two names to look up, that of a Sentinel and that of the master (30 s each, which is
how long the resolver tries, with three servers and two attempts at each); a search for the master
(7 s); the connect (5 s) and what is sent first (7 s); a pause (3 s). As much again is for hosts of
several addresses, each of which has its own 5 s.
"""

LONGEST_STEP_SECONDS: Final = 5.0
"""Most of the time without a turn that one check counts."""

SILENT_SECONDS: Final = 4.0
"""A Redis that answered nobody for so long is away: an idle reader's reads and the heartbeats come
at least every 2 s."""

SILENT_STEP_SECONDS: Final = 1.0
"""Most of that time that one check counts: with the usual 2 s it stays below the 4."""

MOST_CALLS: Final = 8
"""How many of the innermost calls tell where a thread is."""


class Worker(Protocol):
    """What is to be known of whoever works in a loop. Any thread may ask."""

    @property
    def is_in_bounds(self) -> bool: ...
    @property
    def moved_at(self) -> float: ...
    @property
    def loads_since(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class ReaderState:
    """What a reader is doing, and for how long."""

    name: str
    state: str
    """`loading`, `waiting`, `running`, `late`, `stuck`, `stalled` or `ended`."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one check saw."""

    jobs: Sequence[Job]
    readers: Sequence[ReaderState]
    stalled: Mapping[str, str]
    """The loops that make no progress, by name, and where in the program each is."""
    redis_is_silent: bool
    silent_seconds: float
    """How long ago Redis last answered anyone."""

    @property
    def jobs_late(self) -> int:
        """How many jobs are past their budget, those that were given to others included."""
        return sum(job.state != "running" for job in self.jobs)

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Return the readers and the jobs as a dashboard shows them."""
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


NOTHING_SEEN: Final = Snapshot(
    jobs=(), readers=(), stalled={}, redis_is_silent=False, silent_seconds=0.0
)


@dataclass(slots=True)
class _Watched:
    """A loop, and where it was at the last check."""

    loop: Loop
    worker: Worker
    last_seen: tuple[int, float] = (-1, 0.0)
    still_seconds: float = 0.0


class Watchdog:
    """Checks the loops of one consumer. Any thread may call it; it never blocks long."""

    def __init__(
        self,
        *,
        heartbeat: tuple[Loop, Worker],
        readers: Sequence[tuple[Loop, Worker]],
        running_jobs: RunningJobs,
        budget: Budget,
        availability: Availability,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Fixed after construction.
        self._running_jobs = running_jobs
        self._budget = budget
        self._availability = availability
        self._clock = clock
        # Guarded by the lock, which is re-entrant: a signal handler may ask in the middle of a
        # check. Its check is whole, and the one around it counts what is left: nothing, or a little
        # less.
        self._lock = threading.RLock()
        renew_lock_in_forks(self)
        self._heartbeat = _Watched(*heartbeat)
        self._readers = [_Watched(*reader) for reader in readers]
        self._progress_clock = StallTolerantClock(LONGEST_STEP_SECONDS, clock)
        self._silence_clock = StallTolerantClock(SILENT_STEP_SECONDS, clock)
        self._answered_at = availability.answered_at
        self._silent_since = 0.0  # by the silence clock

    def check(self) -> Snapshot:
        """Count what has passed since the last check, and return how things are."""
        jobs = [self._budget.of(running) for running in self._running_jobs.check()]
        with self._lock:
            now = self._clock()
            before = self._progress_clock()
            passed = self._progress_clock.advance() - before
            silent_seconds = self._count_silence()
            everyone = (self._heartbeat, *self._readers)
            for watched in everyone:
                _count_still(watched, passed)
            job_of = {job.running.reader: job for job in jobs}
            return Snapshot(
                jobs=jobs,
                readers=[
                    _state_of(watched, job_of.get(watched.loop.name), now)
                    for watched in self._readers
                    if watched.loop.was_started
                ],
                stalled={
                    watched.loop.name: _place_of(watched.loop)
                    for watched in everyone
                    if _is_stalled(watched)
                },
                redis_is_silent=silent_seconds >= SILENT_SECONDS,
                silent_seconds=now - self._answered_at,
            )

    def learn(self) -> None:
        """Learn how long jobs take, if it is time to. For the heartbeat thread."""
        self._budget.learn()

    def _count_silence(self) -> float:
        now = self._silence_clock.advance()
        answered_at = self._availability.answered_at
        if answered_at != self._answered_at:
            self._answered_at = answered_at
            self._silent_since = now
        return now - self._silent_since


def _count_still(watched: _Watched, passed: float) -> None:
    seen = (watched.loop.turns, watched.worker.moved_at)
    if seen != watched.last_seen or watched.worker.is_in_bounds or not watched.loop.is_to_turn:
        watched.last_seen = seen
        watched.still_seconds = 0.0
    else:
        watched.still_seconds += passed


def _is_stalled(watched: _Watched) -> bool:
    return watched.still_seconds >= STALLED_SECONDS and not watched.loop.has_ended


def _place_of(loop: Loop) -> str:
    """Return where a loop's thread is, the innermost call first. Reads no file, as that may
    block."""
    frame = sys._current_frames().get(loop.thread.ident or 0)
    calls = itertools.islice(traceback.walk_stack(frame), MOST_CALLS) if frame is not None else ()
    return " < ".join(
        f"{call.f_code.co_name} ({call.f_code.co_filename}:{line})" for call, line in calls
    )


def _state_of(watched: _Watched, job: Job | None, now: float) -> ReaderState:
    loop = watched.loop
    if loop.has_ended:
        return ReaderState(loop.name, "ended", watched.still_seconds)
    if _is_stalled(watched):
        return ReaderState(loop.name, "stalled", watched.still_seconds)
    loads_since = watched.worker.loads_since
    if loads_since is not None:
        return ReaderState(loop.name, "loading", now - loads_since)
    if job is not None:
        return ReaderState(loop.name, job.state, job.running.seconds)
    return ReaderState(loop.name, "waiting", now - max(watched.worker.moved_at, loop.started_at))
