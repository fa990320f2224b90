"""Finds the group that keeps a stream full."""

from __future__ import annotations

from dataclasses import dataclass

from shared_sync.connection import scripts
from shared_sync.connection.connection import Connection
from shared_sync.protocol.keys import age_seconds
from shared_sync.protocol.replies import text_of


@dataclass(frozen=True, slots=True)
class SlowestGroup:
    """The group that needs the oldest entry of a stream."""

    name: str
    entries: int | None
    """How many entries the group has not finished; None before Redis 7.0."""
    oldest_seconds: float | None
    """The age of the oldest of them; None if it is not known."""


def find(connection: Connection, stream: str) -> SlowestGroup | None:
    """Return the slowest group of a stream, or None if it has none.

    Takes one round trip, which reads one whole message. Raises errors of the connection.
    """
    now_ms, *found = connection.call(*scripts.call("slowest_group", [stream]))
    if not found:
        return None
    name, pending, unread, oldest = found
    return SlowestGroup(
        text_of(name),
        entries=None if unread < 0 else pending + unread,
        oldest_seconds=age_seconds(oldest.decode(), now_ms / 1000) if oldest else None,
    )
