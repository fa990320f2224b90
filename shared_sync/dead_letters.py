"""DeadLetters: list the messages that were given up on, replay or remove them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from shared_sync.common import arguments
from shared_sync.connection.credentials import CredentialProvider
from shared_sync.connection.pool import ConnectionPool
from shared_sync.errors import DeadLetterMissing
from shared_sync.protocol import dead_letter_commands, dead_letter_layout, nearest_names
from shared_sync.protocol.keys import Keys

PAGE = 100
"""The most dead letters that are fetched or purged in one round trip."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was given up on, and the reason."""

    id: str
    """The id of the dead letter, which `show()`, `replay()` and `purge()` take."""

    message_id: str
    """The id that the message had in its stream."""

    fields: Mapping[str, bytes]
    """The fields of the message as they were published, not decoded; empty if left out."""

    reason: str
    """Why the message was given up on, such as "failed 5 times"."""

    error_type: str
    """The class of the last error; empty if there was none."""

    error: str
    """The text of the last error; empty if there was none."""

    traceback: str
    """The end of the traceback of the last error; empty if the reason needs none."""

    attempts: int
    """How often the message was started."""

    crashes: int
    """How often its process died while it held the message."""

    worker: str
    """The consumer that gave it up."""

    time: float
    """When it was given up on, in seconds since 1970."""

    history: Sequence[Mapping[str, Any]]
    """Its failures, oldest first, each with worker, time, attempt, error_type and error.

    A line of the history that something else has written is the error of a failure."""


class DeadLetters:
    """The dead letters of a stream and group. For one thread at a time.

        with DeadLetters("redis://localhost:6379/0", "audio:jobs", "stt-workers") as letters:
            for letter in letters:
                print(letter.id, letter.reason)
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

    def __iter__(self) -> Iterator[DeadLetter]:
        """Every dead letter, as `iterate()` returns them."""
        return self.iterate()

    def iterate(self, *, with_fields: bool = True) -> Iterator[DeadLetter]:
        """Every dead letter, oldest first.

        Fetched up to 100 at a time, and of large ones as many as make 4 MB, one round trip each: so
        they block the server for some 30 ms only, and are never all in memory. Without
        `with_fields` their messages are not transferred, and `fields` is empty.
        """
        last, more = "", True
        while more:
            page, more = self._page(last, PAGE, with_fields)
            yield from page
            last = page[-1].id if page else last

    def list(
        self, *, limit: int = PAGE, after: str = "", with_fields: bool = True
    ) -> Sequence[DeadLetter]:
        """Up to `limit` dead letters, oldest first, beginning behind the id `after`.

        As many round trips as `iterate()` needs for them. Raises `ConfigurationError` if `limit` is
        less than 1.
        """
        arguments.whole_number("limit", limit, 1)
        found: list[DeadLetter] = []
        more = True
        while more and len(found) < limit:
            most = min(limit - len(found), PAGE)
            page, more = self._page(found[-1].id if found else after, most, with_fields)
            found += page
        return found

    def _page(self, after: str, most: int, with_fields: bool) -> tuple[Sequence[DeadLetter], bool]:
        with self._connections.connection() as connection:
            letters, more = dead_letter_commands.read_page(
                connection, self._keys, after=after, most=most, with_fields=with_fields
            )
        return [_parse(letter_id, items) for letter_id, items in letters], more

    def show(self, letter_id: str) -> DeadLetter:
        """The dead letter of this id. One round trip. Raises `DeadLetterMissing` without one."""
        with self._connections.connection() as connection:
            items = dead_letter_commands.read_one(connection, self._keys, letter_id)
        if items is None:
            raise DeadLetterMissing(letter_id, self._keys.dead)
        return _parse(letter_id, items)

    def replay(self, letter_ids: Iterable[str]) -> Sequence[str]:
        """Publish the messages again as new ones, and return their new ids. One round trip each.

        A replayed message has no failures and no crashes. Each moves in one step, so that none is
        lost or published twice. One of thousands of fields, or with a field named `dead.*`, needs
        three round trips and passes through this process. Raises `DeadLetterMissing` for the first
        id that is not there; those before it have been replayed.
        """
        replayed = []
        for letter_id in letter_ids:
            with self._connections.connection() as connection:
                message_id = dead_letter_commands.replay(connection, self._keys, letter_id)
            if message_id is None:
                raise DeadLetterMissing(letter_id, self._keys.dead)
            replayed.append(message_id)
        return replayed

    def purge(self, letter_ids: Iterable[str]) -> int:
        """Delete dead letters for good, and return how many of them existed.

        One round trip for each 100 of them.
        """
        ids = tuple(letter_ids)
        return sum(
            self._connections.call("XDEL", self._keys.dead, *ids[first : first + PAGE])
            for first in range(0, len(ids), PAGE)
        )

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


def _parse(letter_id: str, items: Sequence[bytes]) -> DeadLetter:
    stored = dead_letter_layout.parse(items)
    metadata = stored.metadata
    return DeadLetter(
        id=letter_id,
        message_id=metadata.message_id,
        fields=stored.fields,
        reason=metadata.reason,
        error_type=metadata.error_type,
        error=metadata.error,
        traceback=metadata.traceback,
        attempts=metadata.attempts,
        crashes=metadata.crashes,
        worker=metadata.worker,
        time=metadata.time,
        history=stored.history,
    )
