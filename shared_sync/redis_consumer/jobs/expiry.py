"""When a message expires: as its publisher says, or because of its age."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from shared_sync.protocol.job_options import options_of
from shared_sync.protocol.keys import age_seconds
from shared_sync.protocol.messages import Entry

MARGIN_SECONDS: Final = 0.05
"""How much longer a retry is parked than until its message expires: clocks differ by a little."""


class Expiry:
    """Says which messages have expired. Safe from any thread.

    The time counts from the one in the entry's id, which the server has given, and by the server's
    clock. An id that its publisher has chosen and that is no time never expires.
    """

    def __init__(self, max_age_seconds: float | None, now: Callable[[], float]) -> None:
        """`now` returns the server's time, in seconds since 1970."""
        self.max_age_seconds = max_age_seconds
        self._now = now

    def limit_seconds(self, entry: Entry) -> float:
        """Return after how long a message expires; infinite for never."""
        own, of_all = options_of(entry.items).expires_seconds, self.max_age_seconds
        return min(
            math.inf if own is None else own,
            math.inf if of_all is None else of_all,
        )

    def seconds_left(self, entry: Entry) -> float:
        """Return how long a message may still be started: 0 or less once it has expired."""
        limit = self.limit_seconds(entry)
        if limit == math.inf:
            return limit
        age = age_seconds(entry.id, self._now())
        return math.inf if age is None else limit - age

    def longest_delay_seconds(self, entry: Entry) -> float:
        """Return how long a retry of a message may be parked at most."""
        return max(0.0, self.seconds_left(entry)) + MARGIN_SECONDS
