"""Finds the result at which Redis closes the connection each time that it is sent."""

from __future__ import annotations

from typing import Final

from shared_sync.errors import RedisUnavailable
from shared_sync.protocol.messages import Finish

SMALLEST_LIMIT: Final = 1024 * 1024
"""Redis accepts values up to this size whatever its settings are (`proto-max-bulk-len` and
`client-query-buffer-limit`), so a smaller result is never the cause."""

MOST_BREAKS: Final = 5
"""How many times in a row the connection must break while only this result is sent."""

SHORTEST_CHECK_SECONDS: Final = 0.1
LONGEST_CHECK_SECONDS: Final = 1.0
CHECK_FACTOR: Final = 3.0
"""The next connection must last this many times as long as the one that broke, within these limits.
That shows that the result broke it: connections without the result last."""


class Breaks:
    """Counts how often the connection broke while a result was sent alone. For one thread.

    Count a break only if Redis answers right afterwards and the next connection lasts longer;
    otherwise it was an outage. If the network cuts connections all the time, it cuts those of large
    results most often, because sending these takes longest.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    @staticmethod
    def check_seconds(broke_after_seconds: float) -> float:
        """Return how long the next connection must last, for the break to count."""
        longer = CHECK_FACTOR * broke_after_seconds
        return min(max(longer, SHORTEST_CHECK_SECONDS), LONGEST_CHECK_SECONDS)

    def count(self, result: Finish | None, error: RedisUnavailable) -> str:
        """Note that the connection broke; return why the result will never be taken, or nothing.

        Other errors do not count, such as that Redis cannot write now. They, and a break that no
        result can have caused, clear all counts, because there is an outage.
        """
        if result is None or result.size < SMALLEST_LIMIT or not error.connection_broke:
            self.clear()
            return ""
        breaks = self._counts[result.id] = self._counts.get(result.id, 0) + 1
        if breaks < MOST_BREAKS:
            return ""
        return (
            f"the connection broke {breaks} times while this result of {result.size} bytes was "
            f"sent ({error}), and Redis answers otherwise; store the result elsewhere and return "
            "its location, or raise proto-max-bulk-len and client-query-buffer-limit of the server"
        )

    def clear(self) -> None:
        """Forget all breaks: everything was sent, or others break as well."""
        self._counts.clear()
