"""Reading, replaying, removing and importing dead letters without blocking the server for long."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from shared_sync.connection import scripts
from shared_sync.connection.connection import Connection
from shared_sync.connection.scripts import Command
from shared_sync.errors import RedisAccessDenied
from shared_sync.protocol.dead_letter_layout import (
    FIELDS,
    MOST_ITEMS,
    message_items,
    pack,
    size_of,
    unpack,
)
from shared_sync.protocol.keys import Keys

MOST_BYTES: Final = 4_000_000
"""Bytes of dead letters after which one command reads no further one."""

KEPT_RECORD_MS: Final = 600_000
"""How long it can be known which message a dead letter has become, if the reply was lost."""

SHORT_FIELD: Final = 256
"""Bytes of a name and a value up to which a row has the field, unless there are many."""

Letter = tuple[str, Sequence[bytes]]
"""The id of a dead letter, and its names and values."""


class Row(NamedTuple):
    """A dead letter as it is listed without its message."""

    id: str
    size: int
    """Bytes of the dead letter with its message."""
    left_out: int
    """Fields of the message that are left out: 0 for none, 1 for those that are longer than
    `SHORT_FIELD`, 2 for others, too."""
    items: Sequence[bytes]
    """Names and values of the other fields, and of the metadata."""


def read_page(
    connection: Connection, keys: Keys, *, after: str, most: int
) -> tuple[list[Letter], bool]:
    """Return the dead letters behind an id, oldest first, and whether there may be more of them.

    There are `most` of them, fewer if they are large. `after` is empty for the oldest ones.
    """
    start = f"({after}" if after else "-"
    command = scripts.call("letters", [keys.dead], start, most, MOST_BYTES)
    try:
        more, *rows = connection.call(*command)
    except RedisAccessDenied:  # this user may run no scripts: then one letter at a time
        rows = _read_next(connection, keys, after)
        more = bool(rows)
    return [(letter_id.decode(), items) for letter_id, items in rows], bool(more)


def read_rows(
    connection: Connection, keys: Keys, *, after: str, most: int
) -> tuple[list[Row], bool]:
    """Return the dead letters behind an id as `read_page()`, without their messages.

    Those that are large and not in the index yet are read, some of them at a time.
    """
    command = scripts.call("letter_rows", [keys.dead, keys.dead_index], after, most, MOST_BYTES)
    try:
        more, *rows = connection.call(*command)
    except RedisAccessDenied:
        rows = [(row[0], size_of(row[1]), 0, row[1]) for row in _read_next(connection, keys, after)]
        more = bool(rows)
    return [
        Row(letter_id.decode(), size, left_out, unpack(items) if type(items) is bytes else items)
        for letter_id, size, left_out, items in rows
    ], bool(more)


def _read_next(connection: Connection, keys: Keys, after: str) -> Sequence[Any]:
    start = f"({after}" if after else "-"
    rows: Sequence[Any] = connection.call("XRANGE", keys.dead, start, "+", "COUNT", 1)
    return rows


def read_one(connection: Connection, keys: Keys, letter_id: str) -> Sequence[bytes] | None:
    """Return the names and values of a dead letter, None if there is none of that id."""
    reply = connection.call("XRANGE", keys.dead, letter_id, letter_id)
    items: Sequence[bytes] | None = reply[0][1] if reply else None
    return items


def replay(connection: Connection, keys: Keys, letter_id: str, *, token: str) -> str | None:
    """Move a dead letter back to the stream; return the new id, or None if it is gone.

    May be called again with the same token after the reply was lost, and returns the same id, if
    this user has the rights `+set` and `+get`; otherwise None.
    """
    reply = connection.call(*_replay_command("replay", keys, token, letter_id))
    if reply == 0:
        return _replay_large(connection, keys, letter_id, token)
    return None if reply is None else str(reply.decode())


def _replay_large(connection: Connection, keys: Keys, letter_id: str, token: str) -> str | None:
    """Move a dead letter whose fields no script can publish, in a transaction."""
    check_rights = _replay_command("replay_large", keys, token, letter_id, "")
    connection.call(*check_rights)
    letter = read_one(connection, keys, letter_id)
    if letter is None:
        return None
    items = message_items(letter)
    digest = hashlib.sha1(pack(items), usedforsecurity=False).hexdigest()
    message_id, removed = connection.transaction(
        ("XADD", keys.stream, "*", *items),
        _replay_command("replay_large", keys, token, letter_id, digest),
    )
    return str(message_id.decode()) if removed else None


def _replay_command(name: str, keys: Keys, token: str, letter_id: str, *digest: str) -> Command:
    names = [keys.stream, keys.dead, keys.dead_index, keys.replayed(token)]
    return scripts.call(name, names, letter_id, KEPT_RECORD_MS, *digest)


def purge(connection: Connection, keys: Keys, letter_ids: Sequence[str]) -> int:
    """Delete dead letters, 100 at most, and return how many of them there were."""
    try:
        removed: int = connection.call(
            *scripts.call("purge", [keys.dead, keys.dead_index], *letter_ids)
        )
    except RedisAccessDenied:  # this user may run no scripts: the next list mends the index
        removed = connection.call("XDEL", keys.dead, *letter_ids)
    return removed


def add_imported(
    connection: Connection,
    keys: Keys,
    letter_id: str,
    items: Sequence[bytes],
    *,
    origin: Sequence[bytes],
    newest: str,
) -> str | None:
    """Add a dead letter that was exported, and return its id.

    It keeps its id unless later ones were given before; otherwise the items of `origin` are added
    to it. None, and nothing is added, if there are letters behind `newest`, the newest one that the
    caller has seen.
    """
    arguments = (letter_id, newest, len(origin), *origin, *items)
    reply = connection.call(*scripts.call("import", [keys.dead, keys.dead_index], *arguments))
    return None if reply is None else str(reply.decode())


def packed_if_needed(message: Sequence[bytes]) -> Sequence[bytes]:
    """Return the names and values of a message as bury.lua stores them in a dead letter."""
    is_long = len(message) > MOST_ITEMS
    if is_long or any(name.startswith(b"dead.") for name in message[::2]):
        return [FIELDS.encode(), pack(message)]
    return message
