"""Consumers that died, remembered for an hour after the group has forgotten them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shared_sync.protocol.group_tables import ConsumerRow, Table

KEPT_MS: Final = 3_600_000
MOST_KEPT: Final = 100


@dataclass(slots=True)
class _LastSeen:
    """A consumer with a lease, as the group had it last."""

    row: ConsumerRow
    longest_left_ms: int
    """The longest time to the end of its lease at any reading: nearly the whole lease."""

    left_ms: int
    """The time to the end of its lease at the last reading."""

    @property
    def has_died(self) -> bool:
        """Whether its heartbeats had stopped. A consumer that leaves sends them until then."""
        return self.left_ms < self.longest_left_ms / 2


class GoneConsumers:
    """Notes which consumers a group has, and returns those that died. Safe from any thread.

    A dead consumer is removed from the group as soon as its messages were taken over. Its death is
    not noticed if nobody read the group in the second half of its last lease.
    """

    def __init__(self) -> None:
        # Guarded by the lock.
        self._lock = threading.Lock()
        self._noted_ms = 0
        self._seen: dict[bytes, _LastSeen] = {}
        self._gone: dict[bytes, ConsumerRow] = {}

    def note(self, consumers: Table[ConsumerRow], now_ms: int) -> None:
        """Note the consumers that the group had at this time of the server."""
        with self._lock:
            if now_ms < self._noted_ms:  # another thread was quicker
                return
            self._noted_ms = now_ms
            rows = {row.name: row for row in consumers.rows}
            if len(rows) == consumers.total:  # else some are missing that are there
                for name in self._seen.keys() - rows.keys():
                    last_seen = self._seen.pop(name)
                    if last_seen.has_died:
                        self._gone[name] = last_seen.row
            for name, row in rows.items():
                self._gone.pop(name, None)
                if row.lease_end_ms is not None:
                    self._see(row, row.lease_end_ms - now_ms)
            kept = [row for row in self._gone.values() if now_ms - _end_of(row) < KEPT_MS]
            kept.sort(key=_end_of, reverse=True)
            self._gone = {row.name: row for row in kept[:MOST_KEPT]}

    def _see(self, row: ConsumerRow, left_ms: int) -> None:
        before = self._seen.get(row.name)
        longest = max(left_ms, before.longest_left_ms if before else 1)
        self._seen[row.name] = _LastSeen(row, longest, left_ms)

    def rows(self) -> Sequence[ConsumerRow]:
        """Return the dead consumers that are gone from the group, the newest death first."""
        with self._lock:
            return tuple(self._gone.values())


def _end_of(row: ConsumerRow) -> int:
    return row.lease_end_ms or 0
