"""The server's clock, as replies tell it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

SLOWEST_REPLY_SECONDS: Final = 1.0
"""A reply that took longer does not say exactly enough when the server wrote it."""


class ServerClock:
    """Says what the server's clock showed at a moment of this process's monotonic clock.

    So the clock of this machine may be wrong, or may be set while the process runs. Until a reply
    has been heard, this machine's clock stands in for the server's.

    One thread at a time calls `heard`; any thread may read the offset.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.offset_seconds = wall() - clock()
        """The server's time (in seconds since 1970) less the reading of the monotonic clock."""
        self._was_heard = False

    def heard(self, now_ms: int, asked_at: float, answered_at: float) -> None:
        """Learn from a reply in which the server gave its time.

        `asked_at` and `answered_at` are readings of the monotonic clock before and after the call.
        """
        if self._was_heard and answered_at - asked_at > SLOWEST_REPLY_SECONDS:
            return
        self.offset_seconds = now_ms / 1000 - (asked_at + answered_at) / 2
        self._was_heard = True
