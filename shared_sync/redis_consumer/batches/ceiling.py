"""How many messages a reader runs together: fewer after memory ran out, then slowly more again."""

from __future__ import annotations

from typing import Final

FEWEST_BATCHES: Final = 16
"""So many full batches in a row let the ceiling grow for the first time."""

MOST_BATCHES: Final = 1024
"""The same after memory ran out again and again."""

GROWTH: Final = 1.25


class Ceiling:
    """The most messages of one reader's batches. For the reader's thread; any thread may read.

    When a batch of `n` messages runs out of memory, the ceiling becomes half of `n`, or the largest
    size that has run since it last happened, if that is between the two. It grows by a quarter, and
    by 1 at least, after 16 full batches in a row. This number doubles each time that memory runs
    out, up to 1024. If a message runs out of memory alone, it was the cause, and the ceiling is
    again what it was before its batch.
    """

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size  # fixed after construction
        # Written by the reader's thread.
        self.size = max_size
        self._before = max_size
        """The ceiling when the newest batch began."""
        self._largest_good = 0
        """The most messages that have run together since memory last ran out at so many."""
        self._full_batches = 0
        self._batches_needed = FEWEST_BATCHES

    def batch_begins(self) -> None:
        """Note that a new batch begins, to which the next calls belong."""
        self._before = self.size

    def succeeded(self, messages: int) -> None:
        """Note that so many messages have run together."""
        self._largest_good = max(self._largest_good, messages)
        if messages < self.size:
            return
        self._full_batches += 1
        if self._full_batches >= self._batches_needed and self.size < self._max_size:
            self.size = min(self._max_size, max(self.size + 1, int(self.size * GROWTH)))
            self._full_batches = 0

    def ran_out_of_memory(self, messages: int) -> None:
        """Note that memory ran out with so many messages together, 2 or more."""
        if messages <= self._largest_good:
            self._largest_good = 0  # what fitted once does not any more
        self.size = min(self.size, max(1, messages // 2, self._largest_good))
        self._full_batches = 0
        self._batches_needed = min(MOST_BATCHES, 2 * self._batches_needed)

    def one_ran_out_of_memory(self) -> None:
        """Note that memory ran out with one message alone."""
        self.size = self._before
