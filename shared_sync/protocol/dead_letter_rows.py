"""A dead letter as a page shows it, and how many dead letters each cause has."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from shared_sync.protocol.dead_letter_layout import metadata_items
from shared_sync.protocol.fingerprint import fingerprint
from shared_sync.protocol.keys import id_milliseconds
from shared_sync.protocol.replies import text_of

MOST_REASONS: Final = 3

LONGEST_TEXT: Final = 2000
"""Bytes of a text that view.lua returns."""

_NAMES: Final = (b"dead.id", b"dead.reason", b"dead.error_type", b"dead.error", b"dead.attempts")
"""What a row has of the metadata."""

_OWN_REASON: Final = re.compile(
    r"failed \d+ times"
    r"|crashed: its process died( \d+ times)?"
    r"((, the last time |: )(ended with exit code \d+|killed by [\w ,]+|its worker broke))?"
)
_REASON_WITH_TEXT: Final = re.compile(r"(rejected|bad input|bad result): (.*)", re.DOTALL)
_TYPE_NAME: Final = re.compile(r"[\w.]{1,100}")
_NUMBER: Final = re.compile(r"\d{1,9}")


@dataclass(frozen=True, slots=True)
class DeadLetterRow:
    """A dead letter without the fields of its message; long texts are cut."""

    id: str
    message_id: str
    reason: str
    """The reason in words of this library, without text from outside."""

    error_type: str | None
    """None if it is not the name of a type."""

    fingerprint: str
    attempts: int | None
    details: str
    """Text from outside: that of the error, or the rest of the reason."""

    size: int
    """Bytes of the dead letter with its message."""

    def seconds_ago(self, now_ms: int) -> float:
        """Return when the message was given up on."""
        return max(0, now_ms - id_milliseconds(self.id)) / 1000

    def to_json(self, now_ms: int) -> dict[str, Any]:
        """Return the row as the page shows it."""
        return {
            "id": self.id,
            "message_id": self.message_id,
            "reason": self.reason,
            "error_type": self.error_type,
            "fingerprint": self.fingerprint,
            "attempts": self.attempts,
            "seconds_ago": self.seconds_ago(now_ms),
            "details": self.details,
        }


def parse(row: Sequence[Any]) -> DeadLetterRow:
    """Return a row of view.lua: id, message id, reason, error type, error, attempts, bytes."""
    *texts, size = row
    letter_id, message_id, reason, error_type, error, attempts = map(text_of, texts)
    return _make(letter_id, size, message_id, reason, error_type, error, attempts)


def of_items(letter_id: str, items: Sequence[bytes], size: int) -> DeadLetterRow:
    """Return the row of a dead letter with these names and values, as view.lua would return it."""
    metadata = metadata_items(items)
    known = dict(zip(metadata[::2], metadata[1::2], strict=True))
    texts = [text_of(known.get(name, b"")[:LONGEST_TEXT]) for name in _NAMES]
    return _make(letter_id, size, *texts)


def of_texts(
    letter_id: str,
    *,
    message_id: str,
    reason: str,
    error_type: str,
    error: str,
    attempts: int,
    size: int,
) -> DeadLetterRow:
    """Return the row of a dead letter that was read by other means than view.lua."""
    texts = [_cut(text) for text in (message_id, reason, error_type, error, str(attempts))]
    return _make(letter_id, size, *texts)


def _cut(text: str) -> str:
    """Return what view.lua returns of a text, so that the fingerprints are the same."""
    return text_of(text.encode(errors="replace")[:LONGEST_TEXT])


def _make(
    letter_id: str,
    size: int,
    message_id: str,
    whole_reason: str,
    error_type: str,
    error: str,
    attempts: str,
) -> DeadLetterRow:
    reason, rest = _split_reason(whole_reason)
    return DeadLetterRow(
        letter_id,
        message_id,
        reason,
        type_name(error_type),
        fingerprint(error_type, reason, error or rest),
        int(attempts) if _NUMBER.fullmatch(attempts) else None,
        error or rest,
        size,
    )


def causes(rows: Sequence[DeadLetterRow], now_ms: int) -> list[dict[str, Any]]:
    """Return how many dead letters each cause has, the cause with the newest one first.

    `rows` are the newest first.
    """
    letters: defaultdict[str, list[DeadLetterRow]] = defaultdict(list)
    for row in rows:
        letters[row.fingerprint].append(row)
    return [
        {
            "fingerprint": key,
            "letters": len(of),
            "error_type": of[0].error_type,
            "reasons": list(dict.fromkeys(row.reason for row in of))[:MOST_REASONS],
            "attempts": max(row.attempts or 0 for row in of),
            "seconds_ago": of[0].seconds_ago(now_ms),
        }
        for key, of in letters.items()
    ]


def _split_reason(reason: str) -> tuple[str, str]:
    """Return the reason without text from outside, and that text."""
    if _OWN_REASON.fullmatch(reason):
        return reason, ""
    if found := _REASON_WITH_TEXT.fullmatch(reason):
        return found[1], found[2]
    return "unknown", reason


def type_name(text: str) -> str | None:
    """Return the text if it is the name of a type; others may have written the dead letter."""
    return text if _TYPE_NAME.fullmatch(text) else None
