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

SCHEDULED: Final = "scheduled"
WAITING: Final = "waiting"
PARKED: Final = "parked"
RUNNING: Final = "running"
ENDED: Final = "ended"
UNKNOWN: Final = "unknown"
"""No entry of the stream is known for the id."""


def cancel(
    connection: Connection, keys: StreamKeys, message_id: str, keep_seconds: float = KEEP_SECONDS
) -> str:
    """Cancel a message for all groups, and return how far it was. Takes two round trips.

    A worker that meets the message ends it. What has ended stays as it is. Cancelling again is
    harmless. Raises what the connection raises.
    """
    return _call(connection, keys, message_id, round(keep_seconds * 1000))


def status(connection: Connection, keys: StreamKeys, message_id: str) -> str:
    """Return how far a message is, and change nothing. Takes two round trips."""
    return _call(connection, keys, message_id, "")


def _call(connection: Connection, keys: StreamKeys, message_id: str, keep_ms: int | str) -> str:
    named = _group_names(connection, keys.stream) if keep_ms else []
    due = [Keys.of(keys.stream, group).due for group in named]
    own = [keys.stream, keys.cancelled, keys.scheduled, keys.published(message_id)]
    command = scripts.call("cancel", [*own, *due], message_id, keep_ms, *named)
    reply: bytes = connection.call(*command)
    return reply.decode()


def _group_names(connection: Connection, stream: str) -> list[str]:
    """Return the groups whose parked messages are to be due at once."""
    try:
        return groups.group_names(connection, stream)
    except RedisRefused:  # there is no stream; or a right is missing, and the script says which
        return []
