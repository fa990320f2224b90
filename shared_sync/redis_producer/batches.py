"""Messages that are sent together: their fields encoded, and how many go in one round trip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from shared_sync.errors import InvalidMessage, SharedSyncError
from shared_sync.message import encode_fields
from shared_sync.protocol import dead_letter_layout

BATCH: Final = 100
"""The most messages that are sent in one round trip."""
MAX_BATCH_BYTES = 4 * 1024 * 1024
"""A batch ends with the message that reaches this size."""


def encode(fields: Mapping[str, object]) -> list[bytes]:
    """Return the names and values of a message. Raises `InvalidMessage` if it cannot be stored."""
    items = encode_fields(fields)
    for name in fields:
        if name.startswith(dead_letter_layout.PREFIX):
            raise InvalidMessage(
                f"field {name!r} begins with {dead_letter_layout.PREFIX!r}, as only the fields do "
                "that are added to dead letters; give it another name",
                field=name,
            )
    return items


@dataclass(frozen=True, slots=True)
class Batch:
    """What is sent in one round trip."""

    messages: list[list[bytes]]
    """Names and values in turn, of each message; empty if nothing is to be sent any more."""

    error: SharedSyncError | None = None
    """Why nothing more is sent, if it is not the end of the messages."""


def next_batch(messages: Iterator[Mapping[str, object]]) -> Batch:
    """Encode the next messages. If one of them cannot be stored, none of the batch is sent."""
    batch: list[list[bytes]] = []
    size = 0
    try:
        for fields in messages:
            items = encode(fields)
            batch.append(items)
            size += sum(map(len, items))
            if len(batch) == BATCH or size >= MAX_BATCH_BYTES:
                break
    except SharedSyncError as error:
        return Batch([], error)
    return Batch(batch)
