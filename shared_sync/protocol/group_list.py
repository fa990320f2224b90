"""The groups of a stream, with what each of them holds back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shared_sync.connection import scripts
from shared_sync.connection.connection import Connection
from shared_sync.errors import GroupMissing, RedisAccessDenied
from shared_sync.protocol import group_reading
from shared_sync.protocol.group_reading import GroupReading
from shared_sync.protocol.keys import Keys, age_seconds, id_is_after, id_numbers
from shared_sync.protocol.replies import text_of


@dataclass(frozen=True, slots=True)
class ListedGroup:
    """A group of a stream. What is not known is None."""

    name: str
    reading: GroupReading
    last_delivered_id: str
    idle_seconds: float | None
    """Time since a consumer has last asked for messages; None if it has no consumer."""
    needs_from: str
    """The group has finished all entries before this one; those behind are pending or not read."""
    holds_back: int | None = 0
    """Entries that only this group still needs. None before Redis 7.0."""
    holds_back_seconds: float | None = None
    """The age of the oldest of them; None if there are none."""


def read(connection: Connection, stream: str) -> list[ListedGroup]:
    """Return the groups of a stream by name. Raises what the connection raises.

    A few round trips for each group, so it is no snapshot of one moment.
    """
    rows = connection.call("XINFO", "GROUPS", stream)
    facts = [dict(zip(row[::2], row[1::2], strict=True)) for row in rows]
    found = [one for one in (_read_group(connection, stream, row) for row in facts) if one]
    found.sort(key=lambda one: one.name)
    return [_with_held_back(connection, stream, one, found) for one in found]


def _read_group(
    connection: Connection, stream: str, facts: Mapping[bytes, Any]
) -> ListedGroup | None:
    """Return a group; None if it has gone meanwhile."""
    name = text_of(facts[b"name"])
    reading = group_reading.read(connection, Keys.of(stream, name))
    if not reading.group_exists:
        return None
    last = text_of(facts[b"last-delivered-id"])
    try:
        first_pending = connection.call("XPENDING", stream, name, "-", "+", 1)
        idle_seconds = _idle_seconds(connection, stream, name)
    except GroupMissing:
        return None
    needs_from = _id_after(last)
    if first_pending:
        needs_from = min(needs_from, text_of(first_pending[0][0]), key=id_numbers)
    return ListedGroup(name, reading, last, idle_seconds, needs_from)


def _idle_seconds(connection: Connection, stream: str, group: str) -> float | None:
    try:
        rows = connection.call("XINFO", "CONSUMERS", stream, group)
    except RedisAccessDenied:
        return None
    idle = [dict(zip(row[::2], row[1::2], strict=True))[b"idle"] for row in rows]
    return min(idle) / 1000 if idle else None


def _with_held_back(
    connection: Connection, stream: str, group: ListedGroup, all_groups: Sequence[ListedGroup]
) -> ListedGroup:
    """Return the group with what it alone keeps in the stream."""
    others = [one for one in all_groups if one.name != group.name]
    if not others or any(not id_is_after(one.needs_from, group.needs_from) for one in others):
        return group
    oldest = _first_id(connection, stream, group.needs_from)
    nearest = min((one.needs_from for one in others), key=id_numbers)
    if not oldest or not id_is_after(nearest, oldest):
        return group
    needed = [one.reading.pending + (one.reading.unread or 0) for one in others]
    is_known = all(one.reading.unread is not None for one in others)
    return replace(
        group,
        holds_back=max(0, group.reading.entries - max(needed)) if is_known else None,
        holds_back_seconds=age_seconds(oldest, group.reading.now_ms / 1000),
    )


def _first_id(connection: Connection, stream: str, from_id: str) -> str:
    """Return the id of the first entry from an id on, or that id if it may not be read."""
    try:
        return text_of(connection.call(*scripts.call("first_id", [stream], from_id)))
    except RedisAccessDenied:
        return from_id


def _id_after(entry_id: str) -> str:
    milliseconds, sequence = id_numbers(entry_id)
    return f"{milliseconds}-{min(sequence + 1, 2**64 - 1)}"
