"""What the readings of a group have shown over time: rates, growth, the share of dead letters."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from shared_sync.group_status.limits import Limits
from shared_sync.protocol.group_reading import GroupReading
from shared_sync.protocol.survey import Survey

LEAST_DEAD: Final = 10
"""With fewer dead letters, their share says nothing."""

SAMPLE_SECONDS: Final = 10.0
"""Time between two samples that are kept for long."""

RATE_SECONDS: Final = 30.0
"""Over how long rates are measured."""

OLD_SECONDS: Final = 60.0
"""If the oldest message has waited for so long, a short history is enough to say that the queue
grows."""


class Rates(NamedTuple):
    """Messages per second."""

    arrivals: float
    completions: float
    seconds: float
    """Over how long they were measured."""


class Growth(NamedTuple):
    """More messages have arrived than were finished."""

    seconds: float
    arrived: int | None
    finished: int | None
    waiting: int


class DeadShare(NamedTuple):
    """Of the messages that have ended, too many became dead letters."""

    died: int
    ended: int
    is_whole: bool
    """Whether these are all messages of the stream so far, not the last ones."""


class _Sample(NamedTuple):
    """The counts of one moment."""

    at: float
    waiting: int
    added: int | None
    finished: int | None
    died: int
    """Dead letters that were added since the beginning."""


class _Count(NamedTuple):
    """The counts of one survey."""

    now_ms: int
    added: int
    completed: int


class History:
    """Remembers samples of a group. For one thread."""

    def __init__(
        self,
        limits: Limits,
        *,
        sample_seconds: float = SAMPLE_SECONDS,
        is_short: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`is_short` says that it covers some seconds only, so that dead letters are counted from
        the beginning of the stream."""
        # Fixed after construction.
        self._limits = limits
        self._sample_seconds = sample_seconds
        self._is_short = is_short
        self._clock = clock
        # Owned by the thread.
        self._samples: deque[_Sample] = deque()
        self._counts: deque[_Count] = deque()
        self._dead: int | None = None
        self._died = 0

    def note(self, reading: GroupReading, survey: Survey) -> None:
        """Note a reading and the newest survey."""
        self._count(survey)
        dead = reading.dead or 0
        if self._dead is not None:
            self._died += max(0, dead - self._dead)  # fewer of them means that some were removed
        self._dead = dead
        now, samples = self._clock(), self._samples
        if samples and now - samples[-1].at < self._sample_seconds:
            return
        samples.append(_Sample(now, reading.waiting, survey.added, survey.finished, self._died))
        while len(samples) > 1 and samples[1].at <= now - self._limits.window_seconds:
            samples.popleft()

    def _count(self, survey: Survey) -> None:
        counts, completed = self._counts, survey.completed
        if survey.now_ms is None or survey.added is None or completed is None:
            counts.clear()
            return
        if counts and survey.now_ms < counts[-1].now_ms:
            counts.clear()  # the clock was set back, or another server has taken over
        if not counts or survey.now_ms > counts[-1].now_ms:
            counts.append(_Count(survey.now_ms, survey.added, completed))
        while len(counts) > 2 and counts[1].now_ms <= survey.now_ms - 1000 * RATE_SECONDS:
            counts.popleft()

    def rates(self) -> Rates | None:
        """Return how many messages arrive and are finished; None if that is not known yet."""
        if len(self._counts) < 2:
            return None
        first, last = self._counts[0], self._counts[-1]
        seconds = (last.now_ms - first.now_ms) / 1000
        arrivals, completions = last.added - first.added, last.completed - first.completed
        return Rates(max(0, arrivals) / seconds, max(0, completions) / seconds, seconds)

    def growth(self, oldest_waiting_seconds: float | None) -> Growth | None:
        """Return by how much the queue has grown, if it has for too long."""
        limit, newest = self._limits.growth_seconds, self._samples[-1]
        if limit is None:
            return None
        past = [sample for sample in self._samples if sample.at <= newest.at - limit]
        if not past and (oldest_waiting_seconds or 0.0) < min(limit, OLD_SECONDS):
            return None
        start = past[-1] if past else self._samples[0]
        since = [sample for sample in self._samples if sample.at >= start.at]
        if min(sample.waiting for sample in since) == 0 or newest.waiting <= start.waiting:
            return None
        arrived = _growth(start.added, newest.added)
        finished = _growth(start.finished, newest.finished)
        if arrived is None or finished is None:
            return Growth(newest.at - start.at, None, None, newest.waiting)
        if arrived <= finished:
            return None
        return Growth(newest.at - start.at, arrived, finished, newest.waiting)

    def dead_share(self) -> DeadShare | None:
        """Return how many messages became dead letters, if that were too many."""
        limit, start, newest = self._limits.max_dead_share, self._samples[0], self._samples[-1]
        if self._is_short:
            died, finished = self._dead or 0, newest.finished
        else:
            died, finished = newest.died - start.died, _growth(start.finished, newest.finished)
        if limit is None or died < LEAST_DEAD or finished is None:
            return None
        ended = max(finished, died)
        return DeadShare(died, ended, self._is_short) if died > limit * ended else None


def _growth(before: int | None, now: int | None) -> int | None:
    """Return by how much a count has grown; None if the server does not count."""
    return None if before is None or now is None else now - before
