"""How a dead letter is stored: the fields of the message, then metadata named `dead.*`.

    <name> <value> ...                the message as it was published; or `dead.fields`, all of its
                                      fields as netstrings, if there are too many for a script
    dead.id ... dead.time             the metadata, in the order of `Metadata.to_items()`
    dead.history                      the failures of the message, one JSON object a line

Python makes the metadata and the lines of the history; bury.lua puts the entry together. Where the
message has a field of the same name as the metadata, the last one of that name is the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shared_sync.message import encode_fields

PREFIX: Final = "dead."
FIELDS: Final = "dead.fields"
HISTORY: Final = "dead.history"

_quoted = json.JSONEncoder().encode


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


def failure_line(*, worker: str, time: float, attempt: int, error_type: str, error: str) -> str:
    """One failure of a message, as the history keeps it; `time` in seconds since 1970."""
    # What json.dumps() makes of a mapping, in a quarter of the time: there may be many failures.
    return (
        f'{{"worker": {_quoted(worker)}, "time": {round(time, 3)!r}, "attempt": {attempt}, '
        f'"error_type": {_quoted(error_type)}, "error": {_quoted(error)}}}'
    )


@dataclass(frozen=True, slots=True)
class Stored:
    """A dead letter as it was stored."""

    fields: Mapping[str, bytes]
    metadata: Metadata
    history: Sequence[Mapping[str, Any]]


def parse(items: Sequence[bytes]) -> Stored:
    """Read the names and values of a dead letter. Metadata that is missing is empty or 0."""
    fields: dict[str, bytes] = {}
    facts: dict[str, str] = {}
    for name, value in _pairs(items):
        if name == FIELDS:
            fields.update(_pairs(_unpack(value)))
        elif name.startswith(PREFIX):
            facts[name.removeprefix(PREFIX)] = value.decode(errors="replace")
        else:
            fields[name] = value
    metadata = Metadata(
        message_id=facts.get("id", ""),
        reason=facts.get("reason", ""),
        error_type=facts.get("error_type", ""),
        error=facts.get("error", ""),
        traceback=facts.get("traceback", ""),
        attempts=int(facts.get("attempts", 0)),
        crashes=int(facts.get("crashes", 0)),
        worker=facts.get("worker", ""),
        time=float(facts.get("time", 0)),
    )
    lines = facts.get(HISTORY.removeprefix(PREFIX), "").splitlines()
    return Stored(fields, metadata, [json.loads(line) for line in lines])


def _pairs(items: Sequence[bytes]) -> list[tuple[str, bytes]]:
    return [
        (name.decode(errors="backslashreplace"), value)
        for name, value in zip(items[::2], items[1::2], strict=True)
    ]


def _unpack(packed: bytes) -> list[bytes]:
    """The items of a sequence of netstrings, `<length>:<bytes>,` (D. J. Bernstein, 1997)."""
    items = []
    first = 0
    while first < len(packed):
        colon = packed.index(b":", first)
        end = colon + 1 + int(packed[first:colon])
        items.append(packed[colon + 1 : end])
        first = end + 1
    return items
