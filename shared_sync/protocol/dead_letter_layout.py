"""How a dead letter is stored: the fields of the message, then metadata named `dead.*`.

    <name> <value> ...                the message as it was published; or `dead.fields`, all of its
                                      fields as netstrings, if there are very many or if one of
                                      them has a name that begins with `dead.`
    dead.id ... dead.time             the metadata, in the order of `Metadata.to_items()`
    dead.history                      the failures of the message, one JSON object a line

Python makes the metadata and the lines of the history; bury.lua puts the entry together.

The metadata begin at the last `dead.id`, so a field of the message is never taken for them, nor
they for a field. Releases that did not pack fields named `dead.*` wrote them in front as they were.
An entry without a `dead.id` was written by something else: all of it is the message, and what is
named as the metadata is shown as such too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from shared_sync.message import encode_fields

PREFIX: Final = "dead."
FIELDS: Final = "dead.fields"
HISTORY: Final = "dead.history"
IMPORTED_FROM: Final = "dead.imported_from"
"""The id of a dead letter in the file from which it was imported, if it could not keep that."""

MOST_ITEMS: Final = 4000
"""Most names and values of a message that are not packed, as bury.lua has it."""

LARGEST_NUMBER: Final = 1e11
"""Of metadata; as a time it is the year 5138."""

_LENGTH: Final = re.compile(rb"(\d{1,10}):")

_quoted = json.JSONEncoder().encode
_quoted_name = lru_cache(maxsize=1000)(_quoted)


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is stored about a message that was given up on, except its history."""

    message_id: str
    reason: str
    error_type: str
    error: str
    traceback: str
    attempts: int
    crashes: int
    worker: str
    """The consumer that gave it up."""

    time: float
    """When that was, in seconds since 1970."""

    def to_items(self) -> list[bytes]:
        """Names and values in turn, as bury.lua appends them to the fields of the message."""
        values = {
            "id": self.message_id,
            "reason": self.reason,
            "error_type": self.error_type,
            "error": self.error,
            "attempts": self.attempts,
            "traceback": self.traceback,
            "crashes": self.crashes,
            "worker": self.worker,
            "time": self.time,
        }
        return encode_fields({PREFIX + name: value for name, value in values.items()})


def failure_line(
    *,
    worker: str,
    time: float,
    attempt: int,
    error_type: str,
    error: str,
    delay_ms: int | None = None,
) -> str:
    """One failure of a message, as the history keeps it; `time` in seconds since 1970.

    `delay_ms` is how long the message waits for its next attempt, None if there is none. It comes
    last, where the scripts look for it.
    """
    wait = "" if delay_ms is None else f', "delay_ms": {delay_ms}'
    # What json.dumps() makes of a mapping, in a quarter of the time: there may be many failures.
    return (
        f'{{"worker": {_quoted_name(worker)}, "time": {time:.3f}, "attempt": {attempt}, '
        f'"error_type": {_quoted_name(error_type)}, "error": {_quoted(error)}{wait}}}'
    )


def failures_of(worker: str) -> bytes:
    """What a history contains if it has a failure on this worker."""
    return f'{{"worker": {_quoted_name(worker)}, '.encode()


@dataclass(frozen=True, slots=True)
class Stored:
    """A dead letter as it was stored."""

    fields: Mapping[str, bytes]
    metadata: Metadata
    history: Sequence[Mapping[str, Any]]
    imported_from: str


def parse(items: Sequence[bytes]) -> Stored:
    """Read the names and values of a dead letter, whoever wrote it. Never raises.

    Metadata that are missing or cannot be read are empty or 0.
    """
    metadata = _pairs(metadata_items(items))
    facts = {name: value.decode(errors="replace") for name, value in metadata}
    return Stored(
        pairs_of_message(items),
        Metadata(
            message_id=facts.get("dead.id", ""),
            reason=facts.get("dead.reason", ""),
            error_type=facts.get("dead.error_type", ""),
            error=facts.get("dead.error", ""),
            traceback=facts.get("dead.traceback", ""),
            attempts=int(_number(facts.get("dead.attempts", ""))),
            crashes=int(_number(facts.get("dead.crashes", ""))),
            worker=facts.get("dead.worker", ""),
            time=_number(facts.get("dead.time", "")),
        ),
        [_failure(line) for line in facts.get(HISTORY, "").split("\n") if line.strip()],
        facts.get(IMPORTED_FROM, ""),
    )


def message_items(items: Sequence[bytes]) -> Sequence[bytes]:
    """Return the names and values of the message of a dead letter, as they were published."""
    own = items[: _last_id(items)]
    if len(own) == 2 and own[0] == FIELDS.encode():
        return unpack(own[1]) or own
    return own


def metadata_items(items: Sequence[bytes]) -> Sequence[bytes]:
    """Return the names and values of the metadata of a dead letter."""
    start = _last_id(items)
    return items if start is None else items[start:]


def metadata_of(items: Sequence[bytes]) -> Sequence[bytes]:
    """Return the names and values behind those of the message; none if all belong to that."""
    start = _last_id(items)
    return () if start is None else items[start:]


def pairs_of_message(items: Sequence[bytes]) -> Mapping[str, bytes]:
    """Return the fields of the message of a dead letter."""
    return dict(_pairs(message_items(items)))


def pack(items: Sequence[bytes]) -> bytes:
    """Return the names and values of a message as bury.lua packs them, as netstrings."""
    return b"".join(b"%d:%b," % (len(item), item) for item in items)


def size_of(items: Sequence[bytes]) -> int:
    """Return the bytes of all names and values."""
    return sum(map(len, items))


def _last_id(items: Sequence[bytes]) -> int | None:
    for index in range(len(items) - 2, -1, -2):
        if items[index] == b"dead.id":
            return index
    return None


def _pairs(items: Sequence[bytes]) -> list[tuple[str, bytes]]:
    return [
        (name.decode(errors="backslashreplace"), value)
        for name, value in zip(items[::2], items[1::2], strict=True)
    ]


def _number(text: str) -> float:
    """Return a number that can be a count or a time; 0 for any other text."""
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return number if 0 <= number < LARGEST_NUMBER else 0.0


def _failure(line: str) -> Mapping[str, Any]:
    """Return a line of the history; one that cannot be read is the text of an error."""
    empty = {"worker": "", "time": 0.0, "attempt": 0, "error_type": "", "error": ""}
    try:
        failure = json.loads(line)
    except (ValueError, RecursionError):
        failure = None
    return empty | (failure if isinstance(failure, dict) else {"error": line})


def unpack(packed: bytes) -> list[bytes]:
    """Return what was packed as netstrings, `<length>:<bytes>,` (D. J. Bernstein, 1997).

    Empty if this is something else.
    """
    items = []
    first = 0
    while first < len(packed):
        length = _LENGTH.match(packed, first)
        if length is None:
            return []
        end = length.end() + int(length[1])
        if packed[end : end + 1] != b",":
            return []
        items.append(packed[length.end() : end])
        first = end + 1
    return items if len(items) % 2 == 0 else []
