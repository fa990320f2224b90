"""DeadLetters: list the messages that were given up on, replay or remove them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from shared_sync.common import arguments
from shared_sync.connection import discovery
from shared_sync.connection.connection import Connection
from shared_sync.errors import DeadLetterMissing
from shared_sync.protocol import dead_letter_layout, publishing
from shared_sync.protocol.keys import Keys

PAGE = 100
"""Dead letters that are fetched in one round trip."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was given up on, and the reason."""

    id: str
    """The id of the dead letter, which `show()`, `replay()` and `purge()` take."""

    message_id: str
    """The id that the message had in its stream."""

    fields: Mapping[str, bytes]
    """The fields of the message as they were published, not decoded."""

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
    """Its failures, oldest first, each with worker, time, attempt, error_type and error."""


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
    ) -> None:
        arguments.number("timeout_seconds", timeout_seconds, 0.001, 86_400)
        self._keys = Keys.of(stream_name, consumer_group)
        self._connection = Connection(
            discovery.connector(redis_url, key=stream_name, reply_timeout_seconds=timeout_seconds)
        )

    def __len__(self) -> int:
        """The number of dead letters. One round trip."""
        count: int = self._connection.call("XLEN", self._keys.dead)
        return count

    def __iter__(self) -> Iterator[DeadLetter]:
        """Every dead letter, oldest first. Fetched 100 at a time, one round trip each."""
        page = self.list()
        while page:
            yield from page
            page = self.list(after=page[-1].id)

    def list(self, *, limit: int = PAGE, after: str = "") -> Sequence[DeadLetter]:
        """Up to `limit` dead letters, oldest first, beginning behind the id `after`.

        One round trip. Raises `ConfigurationError` if `limit` is less than 1.
        """
        arguments.whole_number("limit", limit, 1)
        start = f"({after}" if after else "-"
        reply = self._connection.call("XRANGE", self._keys.dead, start, "+", "COUNT", limit)
        return [_parse(letter_id.decode(), items) for letter_id, items in reply]

    def show(self, letter_id: str) -> DeadLetter:
        """The dead letter of this id. One round trip. Raises `DeadLetterMissing` without one."""
        reply = self._connection.call("XRANGE", self._keys.dead, letter_id, letter_id)
        if not reply:
            raise DeadLetterMissing(letter_id, self._keys.dead)
        return _parse(letter_id, reply[0][1])

    def replay(self, letter_ids: Iterable[str]) -> Sequence[str]:
        """Publish the messages again as new ones, and return their new ids. One round trip each.

        A replayed message has no failures and no crashes. Each moves in one step, so that none is
        lost or published twice. Raises `DeadLetterMissing` for the first id that is not there, and
        `RedisRefused` for a message with too many fields; those before it have been replayed.
        """
        replayed = []
        for letter_id in letter_ids:
            message_id = self._connection.call(*publishing.replay(self._keys, letter_id))
            if message_id is None:
                raise DeadLetterMissing(letter_id, self._keys.dead)
            replayed.append(message_id.decode())
        return replayed

    def purge(self, letter_ids: Iterable[str]) -> int:
        """Delete dead letters for good, and return how many of them existed. One round trip."""
        ids = tuple(letter_ids)
        removed: int = self._connection.call("XDEL", self._keys.dead, *ids) if ids else 0
        return removed

    def close(self) -> None:
        """Close the connection. Never blocks. The object may be used again; it then reconnects."""
        self._connection.close()

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
