"""What one reader has in flight: the one object in which all that it is doing stands.

The reader's thread is the only writer, so it needs no lock. Others read a moment's state:

- Messages that are not started lie in `waiting`. The reader takes from the left; siblings and the
  heartbeat thread take from the right, one at a time under the lock of `InFlight`. The pop itself
  decides who has a message.
- A message never stands nowhere on its way from `waiting` to `attempt` to the outbox: it is written
  to its next place before it leaves the last one. Whoever reads the places in that order finds it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from shared_sync.common.fork import renew_lock_in_forks
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.live_job import LiveJob
from shared_sync.protocol.messages import Entry


class _Making:
    """Guards the creation of `Attempt.jobs`, which two threads may need at the same time."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        renew_lock_in_forks(self)

    def jobs_of(self, attempt: Attempt) -> dict[str, LiveJob]:
        with self._lock:
            jobs = attempt.jobs
            if jobs is None:
                jobs = attempt.jobs = {}
            return jobs


_making = _Making()


class Attempt:
    """One run of a message, or of several messages together, by a reader."""

    __slots__ = ("ended_at", "entries", "given_up", "jobs", "number", "started_at")
    is_repeat = False
    """Whether its messages have run before in the same delivery."""

    def __init__(self, entries: Sequence[Entry], number: int, started_at: float) -> None:
        # Fixed once the processor runs.
        self.entries = entries
        self.number = number
        """Grows with each attempt of its reader."""
        self.started_at = started_at
        """On the monotonic clock."""
        # Written by the reader's thread, when the processor has returned.
        self.ended_at = started_at
        # Written by the heartbeat thread.
        self.given_up = False
        """It ran past its deadline, and its messages were given to others."""
        # Added to by any thread, through `job()`.
        self.jobs: dict[str, LiveJob] | None = None
        """By the id of the message; a `LiveJob` is made when it is first needed, which is rare."""

    def job(self, entry: Entry) -> LiveJob:
        """Return the `LiveJob` of one of its messages. Any thread may call it."""
        jobs = self.jobs
        if jobs is None:
            jobs = _making.jobs_of(self)
        job = jobs.get(entry.id)
        return jobs.setdefault(entry.id, LiveJob(entry)) if job is None else job

    def end_jobs(self) -> None:
        """End the jobs of its messages: the processor has returned."""
        for job in list((self.jobs or {}).values()):
            job.end()


def _set_cancelled(attempt: Attempt, entry: Entry) -> None:
    attempt.job(entry).cancelled.set()


class PartialAttempt(Attempt):
    """Another run of messages that have run before, in a batch that failed."""

    __slots__ = ()
    is_repeat = True


class Activity:
    """What a thread that talks to Redis is doing. Its thread writes, any thread may read."""

    def __init__(self) -> None:
        self.receives = False
        """Whether it waits for a reply, which has a time limit of its own."""
        self.loads_since: float | None = None
        """Since when a reader has waited for a processor, on the monotonic clock; else None."""

    @property
    def is_in_bounds(self) -> bool:
        """Whether something else limits its time, such as how long a reply may take."""
        return self.receives

    @property
    def moved_at(self) -> float:
        """When it last began or ended a piece of work within its step, on the monotonic clock."""
        return 0.0


class Slot(Activity):
    """All that one reader is doing. Methods belong to the reader's thread."""

    def __init__(self, name: str, *, now: float = 0.0) -> None:
        super().__init__()
        # Fixed after construction.
        self.name = name
        # Written by the reader's thread, any thread may read; see above for `waiting`.
        self.thread_id = 0
        self.cancel: Callable[[Attempt, Entry], None] = _set_cancelled
        """Tells the processor that a message of the attempt that runs is cancelled. Any thread may
        call it, and again for the same message; never blocks."""
        self.source: Keys | None = None
        """The stream and group that its messages are of, all at a time of the same."""
        self.waiting: deque[Entry] = deque()
        self.attempt: Attempt | None = None
        self.unsettled_suspects: list[Entry] = []
        """Messages that have a crash behind them and have ended, which Redis has not confirmed: if
        the process died now, they would be charged with another."""
        self.holds_parts = False
        """Whether what waits are parts of a batch that has failed, which this reader has to run."""
        self.is_idle = False
        """Whether it waits for a message, with nothing to do."""
        self.fetches_since: float | None = None
        """When it sent the fetch whose messages are not in here yet, on the monotonic clock."""
        self.runs_processor = False
        """Whether the user's function runs just now."""
        self.is_loading = False
        """Whether its processor is being loaded just now, which nobody can end."""
        self.unsuccessful = 0
        """How many of its attempts have ended in something else than success."""
        self._attempts = 0
        self._moved_at = now

    @property
    def is_in_bounds(self) -> bool:
        """Whether a job's deadline or the time limit of a reply limits its time.

        Loading a model may take any time; the health says that it is loading.
        """
        return self.runs_processor or self.receives or self.loads_since is not None

    @property
    def moved_at(self) -> float:
        """When it last began or ended an attempt, on the monotonic clock."""
        attempt = self.attempt
        return self._moved_at if attempt is None else attempt.started_at

    def running(self) -> Sequence[Entry]:
        """Return the messages of the attempt that runs. Any thread may call it."""
        attempt = self.attempt
        return () if attempt is None else attempt.entries

    @property
    def successes(self) -> int:
        """How many of its attempts have ended in success. May be wrong by one for a moment."""
        is_at_work = self.attempt is not None
        return self._attempts - is_at_work - self.unsuccessful

    def start_next(self, now: float) -> Attempt | None:
        """Begin an attempt of the next waiting message; None if there is none."""
        waiting = self.waiting
        try:
            entry = waiting[0]
            number = self._attempts = self._attempts + 1
            attempt = self.attempt = Attempt((entry,), number, now)
            waiting.popleft()
        except IndexError:  # there was none, or a sibling was quicker
            if self.attempt is not None:
                self.unsuccessful += 1
                self.attempt = None
            return None
        return attempt

    def start_several(self, count: int, now: float, *, again: bool = False) -> Attempt | None:
        """Begin an attempt of so many waiting messages, or fewer; None if there is none.

        `again` says that they have run before. The caller holds the lock of `InFlight`.
        """
        entries = list(islice(self.waiting, count))
        if not entries:
            return None
        self._attempts += 1
        kind = PartialAttempt if again else Attempt
        attempt = self.attempt = kind(entries, self._attempts, now)
        for _ in entries:
            self.waiting.popleft()
        return attempt

    def end_attempt(self) -> None:
        """The attempt has ended, and what became of it stands in the outbox."""
        attempt = self.attempt
        if attempt is not None:
            self._moved_at = attempt.ended_at
            self.attempt = None

    def belongs_here(self) -> None:
        """Note the thread that runs this reader."""
        self.thread_id = threading.get_ident()
