"""Pausing a group: its consumers take no messages until somebody resumes it."""

from __future__ import annotations

from typing import Any, Final

from shared_sync.connection.connection import Connection
from shared_sync.protocol import nearest_names
from shared_sync.protocol.events import record_event
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.pause import Pause

_PAUSE: Final = "pause"
"""The field of the key `paused` that says who has paused the group; the others are consumers that
have confirmed it."""

LONGEST_TEXT: Final = 200


def pause(connection: Connection, keys: Keys, *, by: str, reason: str = "") -> Pause | None:
    """Pause a group; return the pause that was there before, which then stays, or None.

    Its consumers notice within a heartbeat. Raises `GroupMissing` with the nearest names if there
    is no such group, and what the connection raises.
    """
    nearest_names.check_group(connection, keys)
    seconds, microseconds = connection.call("TIME")
    at_ms = int(seconds) * 1000 + int(microseconds) // 1000
    made = Pause(by[:LONGEST_TEXT], at_ms, reason[:LONGEST_TEXT])
    connection.call("HSETNX", keys.paused, _PAUSE, made.text())
    found = read(connection, keys)
    if found != made:
        return found
    why = f": {made.reason}" if made.reason else ""
    record_event(connection, keys, "paused", f"{made.by} paused the group{why}", who=made.by)
    return None


def resume(connection: Connection, keys: Keys, *, by: str = "") -> Pause | None:
    """End the pause of a group, and return it; None if the group was not paused.

    `by` says for the events of the group who does so.

    Raises `GroupMissing` with the nearest names if there is no such group, and what the connection
    raises.
    """
    nearest_names.check_group(connection, keys)
    found = read(connection, keys)
    connection.call("DEL", keys.paused)
    if found is not None:
        who = by[:LONGEST_TEXT]
        text = f"{who or 'somebody'} resumed the group, which {found.by} had paused"
        record_event(connection, keys, "resumed", text, who=who)
    return found


def read(connection: Connection, keys: Keys) -> Pause | None:
    """Return the pause of a group, or None. One round trip; raises what the connection raises."""
    found: Any = connection.call("HGET", keys.paused, _PAUSE)
    return Pause.parse(found or b"")
