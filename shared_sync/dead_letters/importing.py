"""Adding dead letters from a file, each of them once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from shared_sync.connection.pool import ConnectionPool
from shared_sync.dead_letters import letter
from shared_sync.dead_letters.files import ExportedLetter
from shared_sync.errors import RedisUnavailable
from shared_sync.protocol import dead_letter_commands
from shared_sync.protocol.dead_letter_commands import Row, packed_if_needed
from shared_sync.protocol.dead_letter_layout import IMPORTED_FROM, parse
from shared_sync.protocol.keys import Keys

MOST_TRIES: Final = 100
"""How often to try one dead letter while others are written or the connection breaks."""


class Importer:
    """Adds dead letters that are not there yet. For one thread."""

    def __init__(
        self, connections: ConnectionPool, keys: Keys, *, rows: Callable[[str], Iterator[Row]]
    ) -> None:
        """`rows` returns the dead letters behind an id."""
        # Fixed after construction.
        self._connections = connections
        self._keys = keys
        self._rows = rows
        # Owned by the thread.
        self._known: set[tuple[str, str]] = set()
        self._newest = ""
        """The id of the newest dead letter that was read."""
        self._has_looked = False

    def add(self, exported: ExportedLetter) -> bool:
        """Add a dead letter, and return whether it was not there. Blocks and raises as Redis does.

        If the connection breaks, this reads the dead letters to find out whether it was added.
        """
        if not self._has_looked:
            self._look()
        for tries in range(1, MOST_TRIES + 1):
            if exported.identity in self._known:
                return False
            try:
                added = self._add(exported)
            except RedisUnavailable as error:
                if not error.connection_broke or tries == MOST_TRIES:
                    raise
                added = None
            if added is not None:
                self._known.add(exported.identity)
                self._newest = added
                return True
            self._look()
        raise RedisUnavailable(
            f"other dead letters were added at each try, so {exported.id} was not imported; "
            "import the file again"
        )

    def _look(self) -> None:
        """Read the dead letters that were added since the last call."""
        for row in self._rows(self._newest):
            there = letter.parse_row(row)
            self._known.add((there.imported_from or there.id, there.message_id))
            self._newest = row.id
        self._has_looked = True

    def _add(self, exported: ExportedLetter) -> str | None:
        stored = parse([*exported.message, *exported.metadata])
        metadata = exported.metadata or stored.metadata.to_items()
        origin, _ = exported.identity
        has_origin = bool(stored.imported_from)
        with self._connections.connection() as connection:
            return dead_letter_commands.add_imported(
                connection,
                self._keys,
                exported.id,
                [*packed_if_needed(exported.message), *metadata],
                origin=() if has_origin else (IMPORTED_FROM.encode(), origin.encode()),
                newest=self._newest,
            )
