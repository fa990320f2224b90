"""Finding one message, and what is known about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared_sync.connection import scripts
from shared_sync.connection.connection import Connection
from shared_sync.protocol import progress
from shared_sync.protocol.keys import PARKED, Keys, StreamKeys
from shared_sync.protocol.replies import text_of


@dataclass(frozen=True, slots=True)
class MessageState:
    """A message as its stream and one group have it."""

    state: str
    """In all groups of the stream, as `cancelling.status()` returns it."""
    entry_id: str
    """The id of its entry; empty while it is scheduled, or if it is unknown."""
    items: Sequence[bytes]
    """Names and values of its fields in turn; none if it is not in the stream."""
    due_in_seconds: float | None
    """When it will be published, or tried again; None if it waits for no time."""
    consumer: str
    """Which consumer of the group has it; empty if none has."""
    deliveries: int | None
    """How often the group has started it; None if it is not pending there."""
    idle_seconds: float | None
    """For how long its consumer has it; None if it is not pending."""
    failures: int
    """How often it has failed in this group."""
    progress: Mapping[str, Any] | None
    """What its processor has reported last."""


def read(connection: Connection, keys: Keys, message_id: str) -> MessageState:
    """Return what is known about a message. One round trip; raises what the connection raises."""
    published = StreamKeys.of(keys.stream).published(message_id)
    names = (keys.stream, keys.scheduled, keys.scheduled_messages, published)
    own = (keys.due, keys.history, keys.progress)
    command = scripts.call("message", [*names, *own], keys.group, message_id)
    now, state, entry_id, items, due, owner, deliveries, idle, failures, reported = connection.call(
        *command
    )
    consumer = text_of(owner)
    return MessageState(
        state=text_of(state),
        entry_id=text_of(entry_id),
        items=items,
        due_in_seconds=(float(due) - now) / 1000 if due else None,
        consumer="" if consumer == PARKED else consumer,
        deliveries=deliveries if deliveries >= 0 else None,
        idle_seconds=idle / 1000 if idle >= 0 else None,
        failures=failures,
        progress=progress.parse(reported) if reported else None,
    )
