"""Recent results, for jobs that are published again with the same `deduplicate_key`."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from shared_sync.result_listener.result import Result

MOST: Final = 1_000
MOST_BYTES: Final = 16 * 1024 * 1024
"""Limit of the size of all values together."""
KEPT_SECONDS: Final = 300.0


class RecentResults:
    """Keeps recent final results. For one thread at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[str, tuple[Result, int, float]] = OrderedDict()
        """By the id of the job: the result, its size, and when it arrived."""
        self._bytes = 0

    def add(self, result: Result) -> None:
        """Keep the first result of a job; remove results that are too old or too many."""
        if result.id in self._kept:
            return
        size = sum(_size(value) for value in result.fields.values())
        self._kept[result.id] = (result, size, self._clock())
        self._bytes += size
        while self._kept and self._is_over(next(iter(self._kept.values()))):
            _, (_, oldest_size, _) = self._kept.popitem(last=False)
            self._bytes -= oldest_size

    def find(self, job_id: str) -> Result | None:
        """Return the final result of a job, if it is kept."""
        kept = self._kept.get(job_id)
        return kept[0] if kept is not None else None

    def _is_over(self, oldest: tuple[Result, int, float]) -> bool:
        is_full = len(self._kept) > MOST or self._bytes > MOST_BYTES
        return is_full or self._clock() - oldest[2] > KEPT_SECONDS


def _size(value: object) -> int:
    return len(value) if isinstance(value, (str, bytes)) else len(repr(value))
