"""The public class: what users call."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from types import TracebackType
from typing import BinaryIO, NamedTuple

from shared_sync.common import arguments
from shared_sync.connection.credentials import CredentialProvider
from shared_sync.connection.pool import ConnectionPool
from shared_sync.dead_letters import files, letter
from shared_sync.dead_letters.filters import DeadLetterFilter
from shared_sync.dead_letters.importing import Importer
from shared_sync.dead_letters.letter import DeadLetter
from shared_sync.dead_letters.reading import PAGE, LetterReader
from shared_sync.dead_letters.replaying import Replayer
from shared_sync.errors import DeadLetterMissing
from shared_sync.protocol import dead_letter_commands, nearest_names
from shared_sync.protocol.keys import Keys


class Imported(NamedTuple):
    """What became of the dead letters in a file."""

    added: int
    present: int
    """Those that were there already."""


class DeadLetters:
    """The dead letters of a stream and group. For one thread at a time.

        with DeadLetters("redis://localhost:6379/0", "audio:jobs", "stt-workers") as letters:
            for letter in letters.iterate(with_fields=False):
                print(letter.id, letter.reason, letter.size)
            letters.replay(["1700000000000-0"])

    Every method that asks Redis blocks up to `timeout_seconds` for each round trip, and as long
    again where it has to connect; it raises `RedisUnavailable` or `RedisRefused`. Used with `with`,
    it closes its connection at the end.

    Args:
        redis_url: The same as for a `RedisStreamConsumer`.
        stream_name: The stream to which the messages were published.
        consumer_group: The group that gave them up.
        timeout_seconds: Longest wait for a reply of the server, and for a connection, 5 s at most.
        credential_provider: Is asked for user and password at each connect, as for a consumer.

    Raises:
        ConfigurationError: An argument cannot work.
    """

    def __init__(
        self,
        redis_url: str,
        stream_name: str,
        consumer_group: str,
        *,
        timeout_seconds: float = 10.0,
        credential_provider: CredentialProvider | None = None,
    ) -> None:
        arguments.number("timeout_seconds", timeout_seconds, 0.001, 86_400)
        self._keys = Keys.of(stream_name, consumer_group)
        self._connections = ConnectionPool.of_process(
            redis_url,
            key=stream_name,
            role="dead-letters",
            timeout_seconds=timeout_seconds,
            credential_provider=credential_provider,
        )
        self._reader = LetterReader(self._connections, self._keys)

    def check_group(self) -> None:
        """Raise `GroupMissing`, which gives the nearest names, if stream or group do not exist.

        Without it a mistyped name has no dead letters. A few round trips, more if the server has
        many keys. Silent if this user has no right to ask (`+xinfo|groups`); without `+scan` the
        error names no streams.
        """
        with self._connections.connection() as connection:
            nearest_names.check_group(connection, self._keys)

    def __len__(self) -> int:
        """The number of dead letters. One round trip."""
        count: int = self._connections.call("XLEN", self._keys.dead)
        return count

    # --- reading ---

    def __iter__(self) -> Iterator[DeadLetter]:
        """Every dead letter, as `iterate()` returns them."""
        return self.iterate()

    def iterate(
        self, *, with_fields: bool = True, where: DeadLetterFilter | None = None
    ) -> Iterator[DeadLetter]:
        """Every dead letter that matches `where`, oldest first.

        Fetched up to 100 at a time, one round trip each, and of large ones as many as make 4 MB: so
        they block the server for some 30 ms only, and are never all in memory.

        Without `with_fields` their messages stay on the server, and `fields` is empty. The server
        does not read them either, unless they were never listed since a worker of an earlier
        release wrote them.
        """
        return self._reader.iterate("", PAGE, with_fields, where)

    def list(
        self,
        *,
        limit: int = PAGE,
        after: str = "",
        with_fields: bool = True,
        where: DeadLetterFilter | None = None,
    ) -> Sequence[DeadLetter]:
        """Up to `limit` dead letters that match, oldest first, beginning behind the id `after`.

        As many round trips as `iterate()` needs for them. Raises `ConfigurationError` if `limit` is
        less than 1.
        """
        arguments.whole_number("limit", limit, 1)
        most = min(limit, PAGE) if where is None else PAGE
        return list(islice(self._reader.iterate(after, most, with_fields, where), limit))

    def show(self, letter_id: str) -> DeadLetter:
        """The dead letter of this id. One round trip. Raises `DeadLetterMissing` without one."""
        items = self._reader.one(letter_id)
        if items is None:
            raise DeadLetterMissing(letter_id, self._keys.dead)
        return letter.parse(letter_id, items)

    # --- acting ---

    def replay(self, ids: Iterable[str], *, by_message_id: bool = False) -> Sequence[str]:
        """Publish the messages again as new ones, and return their new ids. One round trip each.

        A replayed message has no failures and no crashes. Each moves in one step, so that none is
        lost or published twice, also if the connection breaks or this process dies. One of
        thousands of fields, or with a field named `dead.*`, needs three round trips and passes
        through this process. With `by_message_id`, `ids` are those that the messages had in their
        stream. Raises `DeadLetterMissing` for the first id that is not there; those before it have
        been replayed.
        """
        replayer = Replayer(self._connections, self._keys)
        letter_ids = self._reader.letters_of(ids) if by_message_id else ids
        return [replayer.replay(letter_id) for letter_id in letter_ids]

    def purge(self, letter_ids: Iterable[str]) -> int:
        """Delete dead letters for good, and return how many of them existed.

        One round trip for each 100 of them.
        """
        ids, removed = tuple(letter_ids), 0
        for first in range(0, len(ids), PAGE):
            with self._connections.connection() as connection:
                removed += dead_letter_commands.purge(
                    connection, self._keys, ids[first : first + PAGE]
                )
        return removed

    # --- files ---

    def export_to(
        self, file: str | os.PathLike[str] | BinaryIO, *, where: DeadLetterFilter | None = None
    ) -> int:
        """Write the dead letters that match to a file, and return how many there were.

        They stay where they are. The file has one JSON object a line (see `files.py`). If it is
        given by its name, it is there when all of them are in it, and not before. One round trip
        for each dead letter, which passes through this process.
        """
        if not isinstance(file, (str, os.PathLike)):
            return self._write(file, where)
        unfinished = f"{os.fspath(file)}.part"
        try:
            with open(unfinished, "wb") as opened:
                written = self._write(opened, where)
            os.replace(unfinished, file)
        except BaseException:
            with suppress(OSError):
                os.remove(unfinished)
            raise
        return written

    def import_from(self, file: str | os.PathLike[str] | BinaryIO) -> Imported:
        """Add the dead letters of a file that `export_to()` has written. One round trip each.

        Those that are there already are left alone, so a file may be imported again, also if this
        was interrupted. The group need not be the one that they were exported from. A dead letter
        keeps its id, and so its age, unless later ones were given before; then it has its old id in
        `imported_from`. Raises `ConfigurationError` for a line that is no dead letter; those before
        it are imported.
        """
        if isinstance(file, (str, os.PathLike)):
            with open(file, "rb") as opened:
                return self.import_from(opened)
        importer = Importer(self._connections, self._keys, rows=self._reader.rows)
        added = present = 0
        for one in files.read(file):
            if importer.add(one):
                added += 1
            else:
                present += 1
        return Imported(added, present)

    # --- the end ---

    def close(self) -> None:
        """Close the connection. Never blocks. The object may be used again; it then reconnects."""
        self._connections.close()

    def __enter__(self) -> DeadLetters:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- inside ---

    def _write(self, file: BinaryIO, where: DeadLetterFilter | None) -> int:
        written = 0
        for row, _ in self._reader.rows_where(where):
            items = self._reader.one(row.id)
            if items is not None:
                file.write(files.line_of(row.id, items))
                written += 1
        return written
