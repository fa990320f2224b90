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


class Breaks:
    """Counts how often the connection broke while a result was sent alone. For one thread.

    Count a break only if Redis answers right afterwards; otherwise it was an outage.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def count(self, result: Finish, error: RedisUnavailable) -> str:
        """Note that the connection broke; return why the result will never be taken, or nothing.

        Errors other than a broken connection do not count, such as that Redis cannot write now.
        """
        if result.size < SMALLEST_LIMIT or not error.connection_broke:
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
        """Forget all breaks: everything was sent."""
        self._counts.clear()
