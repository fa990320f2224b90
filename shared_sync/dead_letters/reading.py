"""Reading dead letters page by page, with their messages or without."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from shared_sync.connection.pool import ConnectionPool
from shared_sync.dead_letters import letter
from shared_sync.dead_letters.filters import DeadLetterFilter
from shared_sync.dead_letters.letter import DeadLetter
from shared_sync.errors import DeadLetterMissing
from shared_sync.protocol import dead_letter_commands
from shared_sync.protocol.dead_letter_commands import Letter, Row
from shared_sync.protocol.keys import Keys

PAGE: Final = 100
"""The most dead letters that are fetched or purged in one round trip."""


class LetterReader:
    """Reads the dead letters of a group. For one thread at a time."""

    def __init__(
        self,
        connections: ConnectionPool,
        keys: Keys,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        # Fixed after construction.
        self._connections = connections
        self._keys = keys
        self._wall_clock = wall_clock

    def iterate(
        self, after: str, most: int, with_fields: bool, where: DeadLetterFilter | None
    ) -> Iterator[DeadLetter]:
        """Return the dead letters behind an id that match, up to `most` in one round trip."""
        if where is None and with_fields:
            for letter_id, items in self._letters(after, most):
                yield letter.parse(letter_id, items)
            return
        for row, listed in self.rows_where(where, after, most):
            if not with_fields:
                yield listed
            elif (whole := self.one(row.id)) is not None:
                yield letter.parse(row.id, whole)

    def rows_where(
        self, where: DeadLetterFilter | None, after: str = "", most: int = PAGE
    ) -> Iterator[tuple[Row, DeadLetter]]:
        """Return the rows that match, each with its dead letter, which has no fields."""
        for row in self.rows(after, most):
            listed = letter.parse_row(row)
            if where is None or self.matches(row, listed, where):
                yield row, listed

    def letters_of(self, message_ids: Iterable[str]) -> Sequence[str]:
        """Return the id of the newest dead letter of each message.

        Raises `DeadLetterMissing` for the first one that has none.
        """
        wanted = tuple(message_ids)
        if not wanted:
            return ()
        where = DeadLetterFilter(message_ids=frozenset(wanted))
        found = {one.message_id: one.id for _, one in self.rows_where(where)}
        for message_id in wanted:
            if message_id not in found:
                raise DeadLetterMissing(message_id, self._keys.dead)
        return [found[message_id] for message_id in wanted]

    def rows(self, after: str = "", most: int = PAGE) -> Iterator[Row]:
        """Return all rows behind an id."""
        more = True
        while more:
            with self._connections.connection() as connection:
                page, more = dead_letter_commands.read_rows(
                    connection, self._keys, after=after, most=most
                )
            yield from page
            after = page[-1].id if page else after

    def one(self, letter_id: str) -> Sequence[bytes] | None:
        """Return the names and values of a dead letter, None if there is none of that id."""
        with self._connections.connection() as connection:
            return dead_letter_commands.read_one(connection, self._keys, letter_id)

    def _letters(self, after: str, most: int) -> Iterator[Letter]:
        more = True
        while more:
            with self._connections.connection() as connection:
                page, more = dead_letter_commands.read_page(
                    connection, self._keys, after=after, most=most
                )
            yield from page
            after = page[-1][0] if page else after

    def matches(self, row: Row, listed: DeadLetter, where: DeadLetterFilter) -> bool:
        """Return whether a row matches. Reads the letter if its row does not decide that."""
        if not where.matches(listed, self._wall_clock()):
            return False
        matches = where.matches_fields(row)
        if matches is None:
            items = self.one(row.id)
            matches = items is not None and where.matches_fields(Row(row.id, row.size, 0, items))
        return bool(matches)
