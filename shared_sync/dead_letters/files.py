"""Dead letters in files: one line with a JSON object for each complete dead letter.

    {"id": "1700000000000-0", "fields": [["client", "42"], ["audio", {"base64": "UklGRg=="}]],
     "metadata": [["dead.id", "1699999999999-0"], ["dead.reason", "failed 5 times"]]}

Names and values are text where they are UTF-8, and base64 otherwise.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shared_sync.errors import ConfigurationError
from shared_sync.protocol.dead_letter_layout import message_items, metadata_of, parse

_COMMANDS: Final = re.compile(r"[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""What JSON leaves as it is, although a terminal takes it for a command."""


@dataclass(frozen=True, slots=True)
class ExportedLetter:
    """A dead letter that comes from a file."""

    id: str
    message: Sequence[bytes]
    """Names and values of its message, in turn."""

    metadata: Sequence[bytes]
    """Names and values of its metadata, in turn."""

    @property
    def identity(self) -> tuple[str, str]:
        """The same for a dead letter in any file, and after it was imported."""
        stored = parse([*self.message, *self.metadata])
        return stored.imported_from or self.id, stored.metadata.message_id


def line_of(letter_id: str, items: Sequence[bytes]) -> bytes:
    """Return a dead letter as a line of a file."""
    letter = {
        "id": letter_id,
        "fields": _pairs(message_items(items)),
        "metadata": _pairs(metadata_of(items)),
    }
    text = json.dumps(letter, ensure_ascii=False)
    return _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode() + b"\n"


def read(lines: Iterable[bytes]) -> Iterator[ExportedLetter]:
    """Return the dead letters of a file; empty lines are skipped.

    Raises `ConfigurationError`, which gives the number of the line, if one is not a dead letter.
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            letter = json.loads(line)
            found = ExportedLetter(
                _text(letter["id"]), _items(letter["fields"]), _items(letter["metadata"])
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ConfigurationError(
                f"line {number} is not an exported dead letter ({type(error).__name__}: {error}); "
                "the lines before it are imported. Correct the line, and import the file again: "
                "nothing is added twice"
            ) from None
        yield found


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"the id is {value!r}")
    value.encode()  # raises for halves of characters, which JSON can hold
    return value


def _pairs(items: Sequence[bytes]) -> list[list[Any]]:
    return [
        [_encode(name), _encode(value)] for name, value in zip(items[::2], items[1::2], strict=True)
    ]


def _items(pairs: Any) -> list[bytes]:
    items: list[bytes] = []
    for name, value in pairs:
        items += (_decode(name), _decode(value))
    return items


def _encode(item: bytes) -> str | dict[str, str]:
    try:
        return item.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(item).decode()}


def _decode(item: Any) -> bytes:
    if isinstance(item, str):
        return item.encode()
    return base64.b64decode(item["base64"], validate=True)
