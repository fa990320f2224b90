"""Finds the names that an error about a missing stream or group suggests."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Final

from shared_sync.connection.connection import Connection
from shared_sync.errors import GroupMissing, RedisAccessDenied, RedisRefused
from shared_sync.protocol import groups
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.replies import text_of

MOST_STEPS: Final = 100
"""How often the server is asked for more names of streams; a server may have millions of keys."""

KEYS_A_STEP: Final = 1000
MOST_NAMES: Final = 3


def check_stream(connection: Connection, stream: str) -> None:
    """Raise `GroupMissing`, which gives the nearest names, if the stream does not exist.

    Raises nothing if the user lacks the right to list groups (`+xinfo|groups`); without the right
    to list keys (`+scan`) the error names no streams. In a cluster it names those of one node.
    """
    _group_names(connection, stream)


def check_group(connection: Connection, keys: Keys) -> None:
    """Raise `GroupMissing` if the stream or the group does not exist; see `check_stream()`."""
    names = _group_names(connection, keys.stream)
    if names is not None and keys.group not in names:
        there = _nearest(keys.group, names) or "it has none"
        raise GroupMissing(f"there is no group {keys.group!r} of stream {keys.stream!r}; {there}")


def _group_names(connection: Connection, stream: str) -> Collection[str] | None:
    """Return the names of the groups; None without the right to list them."""
    try:
        return groups.group_names(connection, stream)
    except RedisAccessDenied:
        return None
    except RedisRefused as refusal:
        if "no such key" not in str(refusal):
            raise
        there = _nearest(stream, _streams(connection))
        raise GroupMissing(
            f"there is no stream {stream!r} on this server; {there or 'check the address'}"
        ) from None


def _nearest(name: str, names: Collection[str]) -> str:
    """Return a suggestion: similar names, or else a few of all; empty if there are no names."""
    alike = difflib.get_close_matches(name, names, MOST_NAMES)
    if alike:
        return f"did you mean {' or '.join(map(repr, alike))}?"
    few = sorted(names)[:MOST_NAMES]
    rest = f" and {len(names) - len(few)} more" if len(names) > len(few) else ""
    return f"there are {', '.join(map(repr, few))}{rest}" if few else ""


def _streams(connection: Connection) -> Collection[str]:
    found: set[str] = set()
    cursor = b"0"
    for _ in range(MOST_STEPS):
        try:
            cursor, names = connection.call("SCAN", cursor, "COUNT", KEYS_A_STEP, "TYPE", "stream")
        except RedisAccessDenied:
            break
        # Dead letters and events are streams too.
        found.update(text_of(name) for name in names if not name.endswith((b":dead", b":events")))
        if cursor == b"0":
            break
    return found
