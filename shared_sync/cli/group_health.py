"""The reasons for which a group that is watched from outside is degraded, and their limits."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from shared_sync.protocol.groups import GroupOverview
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.survey import Survey

LEAST_DEAD: Final = 10
"""With fewer dead letters, their share says nothing."""

SAMPLE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits beyond which a group is degraded; None switches one off."""

    max_wait_seconds: float | None = 300.0
    """How long the oldest message may wait to be read."""

    growth_seconds: float | None = 300.0
    """For how long more messages may arrive than are finished, while some wait."""

    max_dead_share: float | None = 0.1
    """Which share of the messages that end may become dead letters, over five minutes."""

    @property
    def window_seconds(self) -> float:
        """How long samples are kept."""
        return max(300.0, self.growth_seconds or 0.0)


class _Sample(NamedTuple):
    """The counts of one moment."""

    at: float
    waiting: int
    added: int | None
    finished: int | None
    died: int
    """Dead letters that were added since the beginning."""


class GroupHealth:
    """Remembers what inspections found, and says what is wrong. For one thread."""

    def __init__(
        self, keys: Keys, limits: Limits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        # Fixed after construction.
        self._keys = keys
        self._limits = limits
        self._clock = clock
        # Owned by the thread.
        self._samples: deque[_Sample] = deque()
        self._dead: int | None = None
        self._died = 0

    def reasons(self, overview: GroupOverview, found: Survey) -> list[str]:
        """Note what an inspection and the newest survey have found, and return what is wrong."""
        self._note(overview, found)
        candidates = (
            self._no_consumer(overview),
            self._waits_long(found),
            self._grows(),
            self._dies(),
        )
        return [reason for reason in candidates if reason]

    def _note(self, overview: GroupOverview, found: Survey) -> None:
        now, metrics = self._clock(), overview.metrics
        dead = metrics.dead or 0
        if self._dead is not None:
            self._died += max(0, dead - self._dead)  # fewer of them means that some were removed
        self._dead = dead
        samples = self._samples
        if samples and now - samples[-1].at < SAMPLE_SECONDS:
            return
        waiting = metrics.waiting or 0
        samples.append(_Sample(now, waiting, found.added, found.finished, self._died))
        while len(samples) > 1 and samples[1].at <= now - self._limits.window_seconds:
            samples.popleft()

    def _no_consumer(self, overview: GroupOverview) -> str | None:
        waiting, pending = overview.metrics.waiting or 0, overview.metrics.pending
        if overview.consumers_alive or not (waiting or pending):
            return None
        return (
            f"no consumer of group {self._keys.group} is alive, and {waiting} messages wait and "
            f"{pending} were left unfinished; start a worker"
        )

    def _waits_long(self, found: Survey) -> str | None:
        limit, waited = self._limits.max_wait_seconds, found.oldest_waiting_seconds
        if limit is None or waited is None or waited <= limit:
            return None
        return (
            f"the oldest message has waited for {waited:.0f} s, the limit is {limit:g} s; "
            "start more workers, or find out what they wait for"
        )

    def _grows(self) -> str | None:
        seconds = self._limits.growth_seconds
        if seconds is None:
            return None
        newest = self._samples[-1]
        past = [sample for sample in self._samples if sample.at <= newest.at - seconds]
        if not past:
            return None
        start = past[-1]
        since = [sample for sample in self._samples if sample.at >= start.at]
        if min(sample.waiting for sample in since) == 0 or newest.waiting <= start.waiting:
            return None
        text = f"for {newest.at - start.at:.0f} s more messages have arrived than were finished"
        arrived = _growth(start.added, newest.added)
        finished = _growth(start.finished, newest.finished)
        if arrived is not None and finished is not None:
            if arrived <= finished:
                return None
            text += f" ({arrived} against {finished})"
        return f"{text}, and {newest.waiting} wait; start more workers"

    def _dies(self) -> str | None:
        limit, start, newest = self._limits.max_dead_share, self._samples[0], self._samples[-1]
        died = newest.died - start.died
        if limit is None or died < LEAST_DEAD:
            return None
        finished = _growth(start.finished, newest.finished)
        if finished is None:
            return None
        ended = max(finished, died)
        if died <= limit * ended:
            return None
        return (
            f"{died} of the last {ended} messages became dead letters, more than {100 * limit:.0f} "
            "%; list the dead letters for their causes"
        )


def _growth(before: int | None, now: int | None) -> int | None:
    """Return by how much a count has grown; None if the server does not count."""
    return None if before is None or now is None else now - before
