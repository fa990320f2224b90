"""Checks the type of each key: another program may have written something else under its name."""

from __future__ import annotations

from typing import Final

from shared_sync.connection.connection import Connection
from shared_sync.errors import ConfigurationError, RedisRefused
from shared_sync.protocol.keys import Keys

_COUNTS: Final = {"stream": "XLEN", "sorted set": "ZCARD", "hash": "HLEN"}
"""For each type a command that fails for other types. Unlike TYPE, these are among the least rights
of a worker."""


def find_wrong(connection: Connection, keys: Keys, result_stream: str | None) -> dict[str, str]:
    """Return the keys of a wrong type, each with the right type. One round trip."""
    types = {
        keys.stream: "stream",
        keys.dead: "stream",
        keys.dead_index: "sorted set",
        keys.presence: "sorted set",
        keys.due: "sorted set",
        keys.outage: "sorted set",
        keys.holders: "hash",
        keys.history: "hash",
        keys.kept: "hash",
        keys.progress: "hash",
        keys.paused: "hash",
        keys.cancelled: "sorted set",
        keys.scheduled: "sorted set",
        keys.scheduled_messages: "hash",
    }
    if result_stream is not None:
        types[result_stream] = "stream"
    replies = connection.call_all(*((_COUNTS[kind], key) for key, kind in types.items()))
    return {
        key: kind
        for (key, kind), reply in zip(types.items(), replies, strict=True)
        if isinstance(reply, RedisRefused) and reply.code == "WRONGTYPE"
    }


def check(connection: Connection, keys: Keys, result_stream: str | None) -> None:
    """Raise `ConfigurationError`, which names the keys, if some have a wrong type."""
    wrong = find_wrong(connection, keys, result_stream)
    if wrong:
        argument = (
            "result_stream" if list(wrong) == [result_stream] else "stream_name or consumer_group"
        )
        raise ConfigurationError(f"{describe(wrong)}; choose another {argument}, or remove the key")


def describe(wrong: dict[str, str]) -> str:
    """Return in words which keys have a wrong type."""
    return "; ".join(
        f"the key {key!r} holds something that is not a {kind}" for key, kind in wrong.items()
    )
