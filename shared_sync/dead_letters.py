"""DeadLetters: look at messages that were given up on, and replay or remove them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from shared_sync.common import arguments
from shared_sync.connection import discovery
from shared_sync.connection.connection import Connection
from shared_sync.errors import DeadLetterMissing
from shared_sync.protocol import commands as stream_commands
from shared_sync.protocol.commands import Keys

PAGE = 100


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was given up on, and why."""

    id: str
    """Its id among the dead letters; the one that `replay()` and `purge()` take."""

    message_id: str
    """The id that the message had in its stream."""

    fields: Mapping[str, bytes]
    """The message as it was published, undecoded."""

    reason: str
    error_type: str
    error: str
    traceback: str
    """The end of the last error's traceback."""

    attempts: int
    """How often the message was started."""

    crashes: int
    worker: str
    """The consumer that gave it up."""

    time: float
    """When, in seconds since 1970."""

    history: Sequence[Mapping[str, Any]]
    """Its failures: worker, time, attempt, error_type, error."""


class DeadLetters:
    """The dead letters of a stream and group. For one thread at a time; each call blocks.

        with DeadLetters("redis://localhost:6379/0", "audio:jobs", "stt-workers") as letters:
            for letter in letters:
                print(letter.id, letter.reason)
            letters.replay(["1700000000000-0"])

    All methods raise `RedisUnavailable` or `RedisRefused`.

    Raises:
        ConfigurationError: An argument that cannot work.
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
        self._link = Connection(
            discovery.connector(redis_url, key=stream_name, reply_timeout_seconds=timeout_seconds)
        )

    def __len__(self) -> int:
        """How many there are."""
        count: int = self._link.call("XLEN", self._keys.dead)
        return count

    def __iter__(self) -> Iterator[DeadLetter]:
        """All of them, oldest first, fetched page by page."""
        page = self.list()
        while page:
            yield from page
            page = self.list(after=page[-1].id)

    def list(self, *, limit: int = PAGE, after: str = "") -> Sequence[DeadLetter]:
        """Up to `limit` of them, oldest first, those behind the id `after`."""
        arguments.whole_number("limit", limit, 1)
        start = f"({after}" if after else "-"
        reply = self._link.call("XRANGE", self._keys.dead, start, "+", "COUNT", limit)
        return [_parse(letter_id.decode(), items) for letter_id, items in reply]

    def show(self, letter_id: str) -> DeadLetter:
        """One of them. Raises `DeadLetterMissing` if it is not there."""
        reply = self._link.call("XRANGE", self._keys.dead, letter_id, letter_id)
        if not reply:
            raise DeadLetterMissing(letter_id, self._keys.dead)
        return _parse(letter_id, reply[0][1])

    def replay(self, letter_ids: Iterable[str]) -> Sequence[str]:
        """Publish them again, with no history, and return the new message ids.

        Each moves in one step, so none is lost or doubled on the way. Raises `DeadLetterMissing`
        for the first that is not there; those before it have been replayed.
        """
        replayed = []
        for letter_id in letter_ids:
            message_id = self._link.call(*stream_commands.replay(self._keys, letter_id))
            if message_id is None:
                raise DeadLetterMissing(letter_id, self._keys.dead)
            replayed.append(message_id.decode())
        return replayed

    def purge(self, letter_ids: Iterable[str]) -> int:
        """Remove them for good and return how many were there."""
        ids = tuple(letter_ids)
        removed: int = self._link.call("XDEL", self._keys.dead, *ids) if ids else 0
        return removed

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

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
    fields: dict[str, bytes] = {}
    facts: dict[str, str] = {}
    for raw_name, value in zip(items[::2], items[1::2], strict=True):
        name = raw_name.decode(errors="backslashreplace")
        if name == "dead.fields":
            packed = _unpack(value)
            fields.update(
                (key.decode(errors="backslashreplace"), packed_value)
                for key, packed_value in zip(packed[::2], packed[1::2], strict=True)
            )
        elif name.startswith("dead."):
            facts[name.removeprefix("dead.")] = value.decode(errors="replace")
        else:
            fields[name] = value
    return DeadLetter(
        id=letter_id,
        message_id=facts.get("id", ""),
        fields=fields,
        reason=facts.get("reason", ""),
        error_type=facts.get("error_type", ""),
        error=facts.get("error", ""),
        traceback=facts.get("traceback", ""),
        attempts=int(facts.get("attempts", 0)),
        crashes=int(facts.get("crashes", 0)),
        worker=facts.get("worker", ""),
        time=float(facts.get("time", 0)),
        history=[json.loads(line) for line in facts.get("history", "").splitlines()],
    )


def _unpack(packed: bytes) -> Sequence[bytes]:
    """The items of a sequence of netstrings, `<length>:<bytes>,` (D. J. Bernstein, 1997)."""
    items = []
    while packed:
        length, _, rest = packed.partition(b":")
        items.append(rest[: int(length)])
        packed = rest[int(length) + 1 :]
    return items
