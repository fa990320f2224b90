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
        cause = self._causes.get(row.fingerprint)
        if cause is None:
            cause = self._causes[row.fingerprint] = self._begin(row)
        cause["letters"] += 1
        cause["attempts"] = max(cause["attempts"], row.attempts or 0)
        if row.reason not in cause["reasons"] and len(cause["reasons"]) < MOST_REASONS:
            cause["reasons"].append(row.reason)
        # The letters come oldest first, so each is the newest so far.
        cause |= {
            "newest_id": row.id,
            "details": row.details,
            "seconds_ago": row.seconds_ago(self._wall_ms),
        }
        self._counted += 1

    def to_json(self) -> dict[str, Any]:
        """Return the causes, the one with the newest letter first, and how many were counted."""
        causes = sorted(self._causes.values(), key=lambda cause: float(cause["seconds_ago"]))
        return {"causes": causes, "counted": self._counted}

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
