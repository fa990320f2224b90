"""Whether each key holds what belongs there; another program may have written something else."""

from __future__ import annotations

from typing import Final

from shared_sync.connection.connection import Connection
from shared_sync.errors import ConfigurationError, RedisRefused
from shared_sync.protocol.keys import Keys

_COUNTS: Final = {"stream": "XLEN", "sorted set": "ZCARD", "hash": "HLEN"}
"""For each type a command that no other type accepts. Every worker has the right to these, which
it need not have for TYPE."""


def find_wrong(connection: Connection, keys: Keys, result_stream: str | None) -> dict[str, str]:
    """Return the keys that hold something else, with what belongs there. One round trip."""
    types = {
        keys.stream: "stream",
        keys.dead: "stream",
        keys.presence: "sorted set",
        keys.due: "sorted set",
        keys.outage: "sorted set",
        keys.holders: "hash",
        keys.history: "hash",
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
    """Raise `ConfigurationError`, which names them, if keys hold something else."""
    wrong = find_wrong(connection, keys, result_stream)
    if wrong:
        raise ConfigurationError(
            f"{describe(wrong)}; choose another stream_name or consumer_group, or remove the key"
        )


def describe(wrong: dict[str, str]) -> str:
    """What is wrong, in words."""
    return "; ".join(
        f"the key {key!r} holds something that is not a {kind}" for key, kind in wrong.items()
    )
