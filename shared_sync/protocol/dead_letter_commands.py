"""Reading dead letters without blocking the server for long, and replaying them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from shared_sync.connection import scripts
from shared_sync.connection.connection import Connection
from shared_sync.connection.scripts import Command
from shared_sync.errors import RedisAccessDenied
from shared_sync.protocol.dead_letter_layout import message_items, metadata_items, pack
from shared_sync.protocol.keys import Keys

MOST_BYTES: Final = 4_000_000
"""Bytes of dead letters after which one command reads no further one."""

Letter = tuple[str, Sequence[bytes]]
"""The id of a dead letter, and its names and values."""


def read_page(
    connection: Connection, keys: Keys, *, after: str, most: int, with_fields: bool
) -> tuple[list[Letter], bool]:
    """Return the dead letters behind an id, oldest first, and whether there may be more of them.

    There are `most` of them, fewer if they are large. `after` is empty for the oldest ones. Without
    fields they have their metadata only.
    """
    start = f"({after}" if after else "-"
    command = scripts.call(
        "letters", [keys.dead], start, most, MOST_BYTES, "1" if with_fields else ""
    )
    try:
        more, *rows = connection.call(*command)
    except RedisAccessDenied:  # this user may run no scripts: then one letter at a time
        rows = connection.call("XRANGE", keys.dead, start, "+", "COUNT", 1)
        more = bool(rows)
        if not with_fields:
            rows = [(letter_id, metadata_items(items)) for letter_id, items in rows]
    return [(letter_id.decode(), items) for letter_id, items in rows], bool(more)


def read_one(connection: Connection, keys: Keys, letter_id: str) -> Sequence[bytes] | None:
    """Return the names and values of a dead letter, None if there is none of that id."""
    reply = connection.call("XRANGE", keys.dead, letter_id, letter_id)
    items: Sequence[bytes] | None = reply[0][1] if reply else None
    return items


def replay(connection: Connection, keys: Keys, letter_id: str) -> str | None:
    """Move a dead letter back to the stream; return the new id, or None if it is gone."""
    reply = connection.call(*scripts.call("replay", [keys.stream, keys.dead], letter_id))
    if reply == 0:
        return _replay_large(connection, keys, letter_id)
    return None if reply is None else str(reply.decode())


def _replay_large(connection: Connection, keys: Keys, letter_id: str) -> str | None:
    """Move a dead letter whose fields no script can publish, in a transaction."""
    connection.call(*_remove_replayed(keys, letter_id, ""))  # raises if a right is missing
    letter = read_one(connection, keys, letter_id)
    if letter is None:
        return None
    items = message_items(letter)
    digest = hashlib.sha1(pack(items), usedforsecurity=False).hexdigest()
    message_id, removed = connection.transaction(
        ("XADD", keys.stream, "*", *items), _remove_replayed(keys, letter_id, digest)
    )
    return str(message_id.decode()) if removed else None


def _remove_replayed(keys: Keys, letter_id: str, digest: str) -> Command:
    return scripts.call("replay_large", [keys.stream, keys.dead], letter_id, digest)
