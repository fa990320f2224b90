"""Creating a group, and checking the rights that a consumer needs."""

from __future__ import annotations

from enum import Enum

from shared_sync.connection import scripts
from shared_sync.connection.connection import Connection
from shared_sync.errors import (
    ConfigurationError,
    GroupMissing,
    RedisAccessDenied,
    RedisRefused,
)
from shared_sync.protocol.commands import GroupCommands
from shared_sync.protocol.keys import NEARLY_LAST_ID, NO_ID, Keys
from shared_sync.protocol.replies import text_of


class Ensured(Enum):
    """How a group came to be there."""

    EXISTED = "existed"
    CREATED = "created"
    MAY_NOT_CREATE = "existed, and this user may not create it anew if it is lost"


def ensure_group(connection: Connection, commands: GroupCommands) -> Ensured:
    """Create the group, and the stream, unless they exist.

    Raises `ConfigurationError` if the key is not a stream, and what the connection raises.
    """
    try:
        connection.call(*commands.create_group())
    except RedisRefused as refusal:
        if "BUSYGROUP" in str(refusal):
            return Ensured.EXISTED
        if refusal.code == "WRONGTYPE":
            raise ConfigurationError(
                f"the key {commands.keys.stream!r} holds something that is not a stream; "
                "choose another stream_name or remove that key"
            ) from None
        if refusal.code == "OOM" and _has_group(connection, commands.keys):
            return Ensured.EXISTED
        raise
    except RedisAccessDenied:
        if _has_group(connection, commands.keys):
            return Ensured.MAY_NOT_CREATE
        raise
    return Ensured.CREATED


def group_names(connection: Connection, stream: str) -> list[str]:
    """Return the names of all groups of a stream. Raises what the connection raises."""
    rows = connection.call("XINFO", "GROUPS", stream)
    return [text_of(dict(zip(row[::2], row[1::2], strict=True))[b"name"]) for row in rows]


def check_rights(connection: Connection, commands: GroupCommands) -> None:
    """Raise `RedisAccessDenied`, which names it, for a missing right; changes nothing.

    Each command is about an id that no entry has. Optional rights are not asked for.
    """
    keys, who = commands.keys, (commands.keys.group, commands.consumer)
    written = [keys.dead, *([commands.result_stream] if commands.result_stream else [])]
    connection.call_all(
        ("XINFO", "GROUPS", keys.stream),
        ("XREADGROUP", "GROUP", *who, "STREAMS", keys.stream, NEARLY_LAST_ID),
        ("XCLAIM", keys.stream, *who, 0, NO_ID, "JUSTID"),
        ("XACK", keys.stream, keys.group, NO_ID),
        ("XDEL", keys.stream, NO_ID),
        ("XLEN", keys.stream),
        ("XPENDING", keys.stream, keys.group),
        ("HGET", keys.history, ""),
        ("HDEL", keys.history, ""),
        ("HLEN", keys.holders),
        ("HKEYS", keys.holders),
        ("ZADD", keys.due, "XX", 0, ""),
        ("ZREM", keys.due, ""),
        ("ZCARD", keys.due),
        ("ZSCORE", keys.presence, ""),
        ("ZRANGE", keys.presence, 0, 0),
        ("ZRANGEBYSCORE", keys.due, "(0", "0"),
        ("SCRIPT", "LOAD", scripts.scripts()["claim"].text),
        *(("XADD", key, NO_ID, "", "") for key in written),
    )


def _has_group(connection: Connection, keys: Keys) -> bool:
    try:
        connection.call("XPENDING", keys.stream, keys.group)
    except GroupMissing:
        return False
    return True
