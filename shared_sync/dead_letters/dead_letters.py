"""The public class: what users call."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from types import TracebackType
from typing import BinaryIO, Final, NamedTuple

from shared_sync.common import arguments
from shared_sync.connection.credentials import CredentialProvider
from shared_sync.connection.pool import ConnectionPool
from shared_sync.dead_letters import files, letter
from shared_sync.dead_letters.filters import DeadLetterFilter
from shared_sync.dead_letters.importing import Importer
from shared_sync.dead_letters.letter import DeadLetter
from shared_sync.dead_letters.reading import PAGE, LetterReader
from shared_sync.dead_letters.replaying import Replayer
from shared_sync.errors import ConfigurationError, DeadLetterMissing
from shared_sync.protocol import dead_letter_commands, nearest_names
from shared_sync.protocol.keys import Keys

_ID: Final = re.compile(r"\d{1,20}-\d{1,20}", re.ASCII)
_AFTER: Final = re.compile(r"\d{1,20}(-\d{1,20})?", re.ASCII)


class Imported(NamedTuple):
    """How many dead letters of a file were added, and how many were present before."""

    added: int
    present: int
    """Dead letters that the group had already."""


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

        One round trip fetches up to 100 of them, and at most 4 MB of large ones, so that the server
        is blocked for some 30 ms only and they are never all in memory.

        With `with_fields=False` the messages stay on the server, and `fields` is empty. The server
        does not read the messages either, except for dead letters that a worker of an earlier
        release wrote and that are listed for the first time.
        """
        _check_filter(where)
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

        Needs as many round trips as `iterate()`. Raises `ConfigurationError` if `limit` is less
        than 1.
        """
        arguments.whole_number("limit", limit, 1)
        if not isinstance(after, str) or (after and not _AFTER.fullmatch(after)):
            raise ConfigurationError(f"after must be the id of a dead letter, not {after!r}")
        _check_filter(where)
        most = min(limit, PAGE) if where is None else PAGE
        return list(islice(self._reader.iterate(after, most, with_fields, where), limit))

    def show(self, letter_id: str) -> DeadLetter:
        """The dead letter of this id. One round trip. Raises `DeadLetterMissing` without one."""
        items = self._reader.one(letter_id) if _is_id(letter_id) else None
        if items is None:
            raise DeadLetterMissing(letter_id, self._keys.dead)
        return letter.parse(letter_id, items)

    # --- acting ---

    def replay(self, ids: Iterable[str], *, by_message_id: bool = False) -> Sequence[str]:
        """Publish the messages again as new ones, and return their new ids. One round trip each.

        A replayed message has no failures and no crashes. Each is published and removed in one
        step, so that none is lost or published twice, even if the connection breaks or this process
        dies. A message with thousands of fields, or with a field named `dead.*`, needs three round
        trips and passes through this process. With `by_message_id=True`, `ids` are the ids that the
        messages had in their stream. Raises `DeadLetterMissing` for the first id that is not there;
        the messages before it have been replayed.
        """
        _check_ids("ids", ids)
        replayer = Replayer(self._connections, self._keys)
        letter_ids = self._reader.letters_of(ids) if by_message_id else ids
        replayed = []
        for letter_id in letter_ids:
            if not _is_id(letter_id):
                raise DeadLetterMissing(letter_id, self._keys.dead)
            replayed.append(replayer.replay(letter_id))
        return replayed

    def purge(self, letter_ids: Iterable[str]) -> int:
        """Delete dead letters for good, and return how many of them existed.

        One round trip for each 100 of them.
        """
        _check_ids("letter_ids", letter_ids)
        ids, removed = tuple(filter(_is_id, letter_ids)), 0
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

        The dead letters stay in Redis. The file has one line with a JSON object for each of them
        (see `files.py`). A file that is given by its name appears only when it is complete, unless
        it is there already and is a pipe or a device, which is written to. Needs one round trip
        for each dead letter, which passes through this process.
        """
        if not isinstance(file, (str, os.PathLike)):
            return self._write(file, where)
        if os.path.exists(file) and not os.path.isfile(file):  # a pipe or a device stays what it is
            with open(file, "wb") as special:
                return self._write(special, where)
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

        Dead letters that the group already has are skipped, so a file may be imported again, also
        after an interruption. It may come from another group. A dead letter keeps its id, and with
        it its age, unless the group has had dead letters with later ids; then `imported_from` has
        the old id. Raises `ConfigurationError` for a line that is not a dead letter; the lines
        before it are imported.
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


def _is_id(letter_id: object) -> bool:
    """Return whether a dead letter may have this id; the server refuses what has another form."""
    return isinstance(letter_id, str) and _ID.fullmatch(letter_id) is not None


def _check_ids(name: str, ids: object) -> None:
    if isinstance(ids, str):
        raise ConfigurationError(f"{name} must be a collection of ids, such as [{ids!r}]")


def _check_filter(where: object) -> None:
    if where is not None and not isinstance(where, DeadLetterFilter):
        raise ConfigurationError(f"where must be a DeadLetterFilter, or None, not {where!r}")
