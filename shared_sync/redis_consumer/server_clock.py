"""The server's clock, as its replies show it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

SLOWEST_REPLY_SECONDS: Final = 1.0
"""If a reply took longer, it is too uncertain when the server wrote it."""


class ServerClock:
    """Converts readings of this process's monotonic clock into the server's time.

    So this machine's clock may be wrong, or may be set while the process runs. It is only used
    until the first reply.

    One thread at a time calls `heard`; any thread may read the offset.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self.offset_seconds = wall() - clock()
        """The server's time (in seconds since 1970) less the reading of the monotonic clock."""
        self._was_heard = False
        self._error_seconds = 0.0
        """How far the offset may be wrong, by the reply that it comes from."""

    def now(self) -> float:
        """Return the server's time, in seconds since 1970. Any thread may call it."""
        return self._clock() + self.offset_seconds

    def heard(self, now_ms: int, asked_at: float, answered_at: float) -> None:
        """Learn from a reply in which the server gave its time.

        `asked_at` and `answered_at` are readings of the monotonic clock before and after the call.
        The server may have written its time at any moment between them, so a slow reply that allows
        the offset of a quicker one says nothing new.
        """
        error_seconds = (answered_at - asked_at) / 2
        offset_seconds = now_ms / 1000 - asked_at - error_seconds
        if self._was_heard:
            if 2 * error_seconds > SLOWEST_REPLY_SECONDS:
                return
            is_allowed = abs(offset_seconds - self.offset_seconds) <= error_seconds
            if is_allowed and error_seconds > self._error_seconds:
                return
        self.offset_seconds, self._error_seconds = offset_seconds, error_seconds
        self._was_heard = True
