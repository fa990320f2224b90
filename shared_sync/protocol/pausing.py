"""Pausing a group: its consumers take no messages until somebody resumes it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from shared_sync.connection.connection import Connection
from shared_sync.protocol import nearest_names
from shared_sync.protocol.keys import Keys

_PAUSE: Final = "pause"
"""The field of the key `paused` that says who has paused the group; the others are consumers that
have confirmed it."""

LONGEST_TEXT: Final = 500


@dataclass(frozen=True, slots=True)
class Pause:
    """Who has paused a group, when, and why."""

    by: str
    at_ms: int
    """The server's time, in ms since 1970."""
    reason: str = ""

    @classmethod
    def parse(cls, text: bytes) -> Pause | None:
        """Return the pause that stands in Redis; None if there is none.

        A text that no version of this library writes is a pause as well, of somebody unknown.
        """
        if not text:
            return None
        try:
            facts = json.loads(text)
            return cls(str(facts["by"]), int(facts["at"]), str(facts["reason"]))
        except (ValueError, TypeError, KeyError):
            return cls("somebody unknown", 0)

    def text(self) -> str:
        """Return the text that stands in Redis."""
        return json.dumps({"by": self.by, "at": self.at_ms, "reason": self.reason})


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
    return None if found == made else found


def resume(connection: Connection, keys: Keys) -> Pause | None:
    """End the pause of a group, and return it; None if the group was not paused.

    Raises `GroupMissing` with the nearest names if there is no such group, and what the connection
    raises.
    """
    nearest_names.check_group(connection, keys)
    found = read(connection, keys)
    connection.call("DEL", keys.paused)
    return found


def read(connection: Connection, keys: Keys) -> Pause | None:
    """Return the pause of a group, or None. One round trip; raises what the connection raises."""
    found: Any = connection.call("HGET", keys.paused, _PAUSE)
    return Pause.parse(found or b"")
