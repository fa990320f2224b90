"""Dropping a group: with the keys that belong to it, and what only it kept in the stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from shared_sync.connection import driver_errors, scripts
from shared_sync.connection.connection import Connection
from shared_sync.errors import GroupMissing, SharedSyncError
from shared_sync.protocol import groups, nearest_names
from shared_sync.protocol.events import record_event
from shared_sync.protocol.keys import Keys

MOST_STEPS: Final = 1000
"""Steps of sweeping, of 10,000 entries each. The consumers of the other groups do the rest."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """What became of a group that was to be dropped."""

    is_dropped: bool
    """False if it has something to lose, and `force` was not given."""
    pending: int
    """Messages that it has read and not finished."""
    live_consumers: int
    is_last: bool
    """Whether it is the only group of the stream."""
    entries: int
    """Entries of the stream before."""
    was_gone: bool = False
    """Whether the group had been destroyed before, and had left keys."""
    freed: int = 0
    """Entries that only this group had kept, and that are deleted now."""
    entries_left: int = 0
    dead_letters: int = 0
    """How many it has."""
    refusal: SharedSyncError | None = None
    """Why the entries were not deleted, if the server has refused it."""


def drop(
    connection: Connection, keys: Keys, *, force: bool, with_dead_letters: bool, by: str
) -> Dropped:
    """Destroy a group, delete the keys that belong to it, and free what only it kept.

    A group with messages pending or with live consumers, and the only group of a stream that has
    entries, are only dropped with `force`. Dead letters stay unless `with_dead_letters` is given.
    May be called again after it was broken off. Raises `GroupMissing` with the nearest names, and
    what the connection raises.
    """
    others = [
        Keys.of(keys.stream, name) for name in _group_names(connection, keys) if name != keys.group
    ]
    for other in others:  # so that they know up to where they had read when this group was there
        _sweep(connection, other)
    dead_letters: int = connection.call("XLEN", keys.dead)
    result = _destroy(connection, keys, force=force)
    if not result.is_dropped:
        return result
    keeps_letters = dead_letters > 0 and not with_dead_letters
    kept = (keys.dead, keys.dead_index) if keeps_letters else ()
    connection.call("DEL", *(key for key in keys.own() if key not in kept))
    freed, refusal = 0, None
    for other in others:
        for _ in range(MOST_STEPS):
            deleted, refusal = _sweep(connection, other)
            freed += deleted
            if not deleted:
                break
        record_event(connection, other, "dropped", f"{by} dropped the group {keys.group}", who=by)
    return Dropped(
        is_dropped=True,
        pending=result.pending,
        live_consumers=result.live_consumers,
        is_last=result.is_last,
        entries=result.entries,
        was_gone=result.was_gone,
        freed=freed,
        entries_left=connection.call("XLEN", keys.stream),
        dead_letters=dead_letters,
        refusal=refusal,
    )


def _group_names(connection: Connection, keys: Keys) -> list[str]:
    nearest_names.check_stream(connection, keys.stream)
    return groups.group_names(connection, keys.stream)


def _destroy(connection: Connection, keys: Keys, *, force: bool) -> Dropped:
    command = scripts.call(
        "drop_group", [keys.stream, keys.presence], keys.group, "1" if force else ""
    )
    try:
        destroyed, pending, leases, number, entries = connection.call(*command)
    except GroupMissing:
        if not connection.call("EXISTS", *keys.own()):
            nearest_names.check_group(connection, keys)
        entries = connection.call("XLEN", keys.stream)
        return Dropped(True, 0, 0, is_last=False, entries=entries, was_gone=True)
    return Dropped(destroyed == 1, pending, leases, is_last=number == 1, entries=entries)


def _sweep(connection: Connection, keys: Keys) -> tuple[int, SharedSyncError | None]:
    """Make a step of another group's sweep; return how many entries it has deleted."""
    deleted, refused = connection.call(
        *scripts.call("sweep", [keys.stream, keys.kept], keys.group, "")
    )
    return deleted, driver_errors.refusal(refused)
