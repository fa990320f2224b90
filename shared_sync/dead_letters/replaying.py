"""Publishing the messages of dead letters again, each of them once."""

from __future__ import annotations

import secrets
from typing import Final

from shared_sync.connection.pool import ConnectionPool
from shared_sync.errors import DeadLetterMissing, RedisUnavailable
from shared_sync.protocol import dead_letter_commands
from shared_sync.protocol.keys import Keys

MOST_TRIES: Final = 5
"""How often a dead letter is replayed if the connection breaks each time."""


class Replayer:
    """Replays dead letters one after the other. For one thread."""

    def __init__(self, connections: ConnectionPool, keys: Keys) -> None:
        # Fixed after construction.
        self._connections = connections
        self._keys = keys
        self._token = secrets.token_hex(8)
        """What the record of the last replay is known by."""

    def replay(self, letter_id: str) -> str:
        """Move a dead letter back to the stream, and return the id of the message.

        If the connection breaks, this asks again what has become of the letter. Raises
        `DeadLetterMissing`, and `RedisUnavailable` if it remains unknown.
        """
        lost: RedisUnavailable | None = None
        for _ in range(MOST_TRIES):
            try:
                with self._connections.connection() as connection:
                    message_id = dead_letter_commands.replay(
                        connection, self._keys, letter_id, token=self._token
                    )
            except RedisUnavailable as error:
                if not error.connection_broke:
                    raise
                lost = error
                continue
            if message_id is not None:
                return message_id
            break
        raise lost or DeadLetterMissing(letter_id, self._keys.dead)
