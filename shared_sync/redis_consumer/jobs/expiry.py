"""When a message expires: by its own option, or by the `max_age_seconds` of the consumer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from shared_sync.protocol.job_options import options_of
from shared_sync.protocol.keys import expires_at
from shared_sync.protocol.messages import Entry

MARGIN_SECONDS: Final = 0.05
"""How long after the expiry of its message a retry becomes due, because clocks differ a little."""


class Expiry:
    """Says which messages have expired. Safe from any thread.

    The age counts from the time in the entry's id, by the server's clock. If the publisher chose an
    id that is not a time, the message never expires.
    """

    def __init__(self, max_age_seconds: float | None, now: Callable[[], float]) -> None:
        """`now` returns the server's time, in seconds since 1970."""
        self.max_age_seconds = max_age_seconds
        self._now = now

    def limit_seconds(self, entry: Entry) -> float:
        """Return the age at which a message expires; infinite for never."""
        own, of_all = options_of(entry.items).expires_seconds, self.max_age_seconds
        return min(
            math.inf if own is None else own,
            math.inf if of_all is None else of_all,
        )

    def seconds_left(self, entry: Entry) -> float:
        """Return the time until a message expires; 0 or less once it has expired."""
        own, now = options_of(entry.items).expires_seconds, self._now()
        ends_at = expires_at(entry.id, now, own, self.max_age_seconds)
        return math.inf if ends_at is None else ends_at - now

    def longest_delay_seconds(self, entry: Entry) -> float:
        """Return how long a retry of a message may be parked at most."""
        return max(0.0, self.seconds_left(entry)) + MARGIN_SECONDS
