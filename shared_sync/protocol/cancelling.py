"""Cancelling a message and finding its state, for programs outside of the consumers."""

from __future__ import annotations

from typing import Final

from shared_sync.connection import scripts
from shared_sync.connection.connection import Connection
from shared_sync.errors import RedisAccessDenied, RedisRefused
from shared_sync.protocol import groups
from shared_sync.protocol.keys import Keys, StreamKeys, id_is_after

KEEP_SECONDS: Final = 86_400.0
"""How long the mark of a cancelled message is kept if no worker reads the message."""

KEEP_FORWARDED_SECONDS: Final = 600.0
"""The same for a job that may have been forwarded to another stream."""

SCHEDULED: Final = "scheduled"
WAITING: Final = "waiting"
PARKED: Final = "parked"
RUNNING: Final = "running"
ENDED: Final = "ended"
UNKNOWN: Final = "unknown"
"""The stream has no message with this id, or there is no stream."""


def cancel(
    connection: Connection,
    keys: StreamKeys,
    message_id: str,
    keep_seconds: float = KEEP_SECONDS,
    *,
    is_awaited: bool = False,
) -> str:
    """Cancel a message for all groups, and return its state before. Takes two round trips.

    The worker that takes the message ends it. Nothing changes for a message that has ended.
    Cancelling again is harmless. `is_awaited` says that the final result has not arrived: if the
    message has ended in this stream, it may have been forwarded, and is also cancelled in the other
    stream. Raises errors of the connection.
    """
    keep_forwarded: int | str = round(KEEP_FORWARDED_SECONDS * 1000) if is_awaited else ""
    return _call(connection, keys, message_id, round(keep_seconds * 1000), keep_forwarded)


def status(connection: Connection, keys: StreamKeys, message_id: str) -> str:
    """Return the state of a message, and change nothing. Takes two round trips."""
    return _call(connection, keys, message_id, "")


def never_existed(connection: Connection, stream: str, message_id: str) -> bool:
    """Return whether an id is newer than all that the stream has ever had, so that it is mistyped.

    False if this user has no right to ask (`+xinfo|stream`), and for an id of a scheduled job. The
    reply has two whole messages. Raises errors of the connection.
    """
    try:
        facts = connection.call("XINFO", "STREAM", stream)
    except RedisAccessDenied:
        return False
    last: bytes = dict(zip(facts[::2], facts[1::2], strict=True))[b"last-generated-id"]
    return message_id[:1].isdigit() and id_is_after(message_id, last.decode())


def _call(
    connection: Connection,
    keys: StreamKeys,
    message_id: str,
    keep_ms: int | str,
    keep_forwarded_ms: int | str = "",
) -> str:
    named = _group_names(connection, keys.stream) if keep_ms else []
    due = [Keys.of(keys.stream, group).due for group in named]
    own = [keys.stream, keys.cancelled, keys.scheduled, keys.published(message_id)]
    every = [*own, keys.cancelled_forwarded, *due]
    command = scripts.call("cancel", every, message_id, keep_ms, keep_forwarded_ms, *named)
    reply: bytes = connection.call(*command)
    return reply.decode()


def _group_names(connection: Connection, stream: str) -> list[str]:
    """Return the groups of the stream, in which a parked message becomes due at once."""
    try:
        return groups.group_names(connection, stream)
    except RedisRefused:  # there is no stream, or a right is missing, which the script will name
        return []
