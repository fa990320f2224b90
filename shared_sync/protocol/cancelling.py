"""Cancelling a message, and saying how far it is, from outside of the consumers."""

from __future__ import annotations

from typing import Final

from shared_sync.connection import scripts
from shared_sync.connection.connection import Connection
from shared_sync.errors import RedisRefused
from shared_sync.protocol import groups
from shared_sync.protocol.keys import Keys, StreamKeys

KEEP_SECONDS: Final = 86_400.0
"""How long a message is remembered as cancelled that no worker has met: a day."""

KEEP_FORWARDED_SECONDS: Final = 600.0
"""The same for a job that another stream may have been given."""

SCHEDULED: Final = "scheduled"
WAITING: Final = "waiting"
PARKED: Final = "parked"
RUNNING: Final = "running"
ENDED: Final = "ended"
UNKNOWN: Final = "unknown"
"""No entry of the stream is known for the id."""


def cancel(
    connection: Connection,
    keys: StreamKeys,
    message_id: str,
    keep_seconds: float = KEEP_SECONDS,
    *,
    is_awaited: bool = False,
) -> str:
    """Cancel a message for all groups, and return how far it was. Takes two round trips.

    A worker that meets the message ends it. What has ended stays as it is. Cancelling again is
    harmless. `is_awaited` says that its final result has not come: if it has ended in this stream,
    it may have been forwarded to another one, where it is cancelled then. Raises what the
    connection raises.
    """
    keep_forwarded: int | str = round(KEEP_FORWARDED_SECONDS * 1000) if is_awaited else ""
    return _call(connection, keys, message_id, round(keep_seconds * 1000), keep_forwarded)


def status(connection: Connection, keys: StreamKeys, message_id: str) -> str:
    """Return how far a message is, and change nothing. Takes two round trips."""
    return _call(connection, keys, message_id, "")


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
    """Return the groups whose parked messages are to be due at once."""
    try:
        return groups.group_names(connection, stream)
    except RedisRefused:  # there is no stream; or a right is missing, and the script says which
        return []
