"""A dead letter as a program sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared_sync.protocol import dead_letter_layout, dead_letter_rows
from shared_sync.protocol.dead_letter_commands import Row
from shared_sync.protocol.dead_letter_rows import DeadLetterRow


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

    size: int = 0
    """Bytes of the dead letter, that is of its message and of all that is known about it."""

    imported_from: str = ""
    """The id that it had in the file from which it was imported; empty if it has kept that."""

    @property
    def fingerprint(self) -> str:
        """8 hex digits that dead letters of one cause share, whatever numbers are in their texts.

        The dashboard and `DeadLetterFilter(fingerprint=...)` have the same.
        """
        return row_of(self).fingerprint


def row_of(letter: DeadLetter) -> DeadLetterRow:
    """Return the dead letter as tables show it."""
    return dead_letter_rows.of_texts(
        letter.id,
        message_id=letter.message_id,
        reason=letter.reason,
        error_type=letter.error_type,
        error=letter.error,
        attempts=letter.attempts,
        size=letter.size,
    )


def parse(letter_id: str, items: Sequence[bytes]) -> DeadLetter:
    """Return the dead letter with these names and values."""
    size = dead_letter_layout.size_of(items)
    return _make(letter_id, dead_letter_layout.parse(items), size, with_fields=True)


def parse_row(row: Row) -> DeadLetter:
    """Return the dead letter of a row, without fields."""
    return _make(row.id, dead_letter_layout.parse(row.items), row.size, with_fields=False)


def _make(
    letter_id: str, stored: dead_letter_layout.Stored, size: int, *, with_fields: bool
) -> DeadLetter:
    metadata = stored.metadata
    return DeadLetter(
        id=letter_id,
        message_id=metadata.message_id,
        fields=stored.fields if with_fields else {},
        reason=metadata.reason,
        error_type=metadata.error_type,
        error=metadata.error,
        traceback=metadata.traceback,
        attempts=metadata.attempts,
        crashes=metadata.crashes,
        worker=metadata.worker,
        time=metadata.time,
        history=stored.history,
        size=size,
        imported_from=stored.imported_from,
    )
