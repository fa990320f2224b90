"""Counting dead letters by their causes."""

from __future__ import annotations

from typing import Any

from shared_sync.protocol import dead_letter_rows
from shared_sync.protocol.dead_letter_commands import Row
from shared_sync.protocol.dead_letter_rows import MOST_REASONS, DeadLetterRow


class CauseCounter:
    """Counts dead letters, which are added oldest first. For one thread."""

    def __init__(self, wall_ms: int) -> None:
        """`wall_ms` is the time of now, from which ages are counted."""
        self._wall_ms = wall_ms
        self._counted = 0
        self._causes: dict[str, dict[str, Any]] = {}

    @property
    def causes(self) -> int:
        """How many causes there are so far."""
        return len(self._causes)

    def add(self, listed: Row) -> None:
        """Count a letter."""
        row = dead_letter_rows.of_items(listed.id, listed.items, listed.size)
        # Taken out and put back behind the others: the letters come oldest first.
        cause = self._causes.pop(row.fingerprint, None) or self._begin(row)
        self._causes[row.fingerprint] = cause
        cause["letters"] += 1
        cause["attempts"] = max(cause["attempts"], row.attempts or 0)
        if row.reason not in cause["reasons"] and len(cause["reasons"]) < MOST_REASONS:
            cause["reasons"].append(row.reason)
        cause |= {
            "newest_id": row.id,
            "details": row.details,
            "seconds_ago": row.seconds_ago(self._wall_ms),
        }
        self._counted += 1

    def to_json(self) -> dict[str, Any]:
        """Return the causes, the one with the newest letter first, and how many were counted."""
        return {"causes": list(reversed(self._causes.values())), "counted": self._counted}

    def _begin(self, row: DeadLetterRow) -> dict[str, Any]:
        return {
            "fingerprint": row.fingerprint,
            "error_type": row.error_type,
            "reasons": [],
            "letters": 0,
            "attempts": 0,
            "oldest_id": row.id,
            "oldest_seconds_ago": row.seconds_ago(self._wall_ms),
        }
