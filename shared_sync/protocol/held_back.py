"""Groups that keep entries in the stream which this group has finished, such as mistyped ones."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from shared_sync.connection import scripts
from shared_sync.connection.connection import Connection
from shared_sync.errors import RedisAccessDenied, RedisRefused
from shared_sync.protocol.keys import Keys, age_seconds, id_is_after
from shared_sync.protocol.replies import text_of

HELD_BACK_SECONDS: Final = 300.0
"""How old an entry must be before its group is reported."""


@dataclass(frozen=True, slots=True)
class HeldBack:
    """What a group holds back that makes no progress and has no live consumer."""

    group: str
    seconds: float
    """The age of the oldest entry that it holds back."""

    entries: int | None
    """How many entries this group has finished that are still there. None before Redis 7.0."""

    def text(self, keys: Keys) -> str:
        """Return it in words."""
        number = "entries" if self.entries is None else f"{self.entries} entries"
        return (
            f"group {self.group} holds back {number} of stream {keys.stream} that group "
            f"{keys.group} has finished, the oldest for {_length(self.seconds)}"
        )

    def remedy(self, keys: Keys) -> str:
        """Return what to do about it, with the command."""
        return (
            "start its workers, or if nobody uses it (a slip in the name of a group makes a new "
            f"one), remove it: shared-sync groups drop --stream {shlex.quote(keys.stream)} "
            f"{shlex.quote(self.group)}"
        )


@dataclass(slots=True)
class _Seen:
    """Where a group was at the last search."""

    from_id: str
    oldest_id: str | None = None


class HeldBackSearch:
    """Looks for groups that hold entries back. For one thread."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys  # fixed after construction
        # Owned by the thread.
        self._seen: dict[str, _Seen] = {}

    def search(self, connection: Connection) -> list[HeldBack]:
        """Return the groups that have not moved since the last search and hold back old entries.

        One round trip, and a few more while there are such groups. Raises what the connection
        raises.
        """
        try:
            command = scripts.call("held_back", [self._keys.stream], self._keys.group)
            now_ms, length, pending, unread, own_from, rows = connection.call(*command)
        except RedisRefused:
            rows = []  # there is no stream
        behind = {text_of(name): (text_of(at), is_pending) for name, at, is_pending in rows}
        self._seen = {name: seen for name, seen in self._seen.items() if name in behind}
        found = []
        for name, (from_id, is_pending) in behind.items():
            seen = self._seen.get(name)
            if seen is None or seen.from_id != from_id:
                self._seen[name] = _Seen(from_id, from_id if is_pending else None)
                continue
            if seen.oldest_id is None:
                seen.oldest_id = self._first_id(connection, from_id)
            if seen.oldest_id == "" or not id_is_after(text_of(own_from), seen.oldest_id):
                continue  # whatever it has not read, this group has not finished either
            seconds = age_seconds(seen.oldest_id, now_ms / 1000) or 0.0
            if seconds >= HELD_BACK_SECONDS and not self._is_alive(connection, name, now_ms):
                entries = None if unread < 0 else max(0, length - pending - unread)
                found.append(HeldBack(name, seconds, entries))
        return found

    def _first_id(self, connection: Connection, from_id: str) -> str:
        """Return the id of the first entry from an id on, or that id if it may not be read."""
        try:
            return text_of(connection.call(*scripts.call("first_id", [self._keys.stream], from_id)))
        except RedisAccessDenied:
            return from_id

    def _is_alive(self, connection: Connection, group: str, now_ms: int) -> bool:
        """Return whether a consumer of this library reads the group."""
        presence = Keys.of(self._keys.stream, group).presence
        newest: Sequence[Any] = connection.call("ZRANGE", presence, -1, -1, "WITHSCORES")
        return bool(newest) and float(newest[1]) > now_ms


def _length(seconds: float) -> str:
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"
