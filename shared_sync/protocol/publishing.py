"""Publishing messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from shared_sync.connection import driver_errors, scripts
from shared_sync.connection.scripts import Command
from shared_sync.errors import SharedSyncError
from shared_sync.protocol.keys import StreamKeys


@dataclass(frozen=True, slots=True)
class Placing:
    """When a message is published, and by which key it is published only once."""

    deduplicate_key: str = ""
    """Messages with the same key are published once; empty for no key."""
    deduplicate_ms: int = 0
    """For how long the key is remembered."""
    scheduled_id: str = ""
    """The id of a job that is published later; empty to publish it now."""
    due: str = ""
    """When to publish it: ms since 1970, or `+` and ms from now."""


AT_ONCE = Placing()
"""A message that is published now, without a key."""


def publish(
    stream: str, messages: Iterable[Sequence[bytes]], max_queue_depth: int | None
) -> Command:
    """Add messages in order; the reply is for `parse_published()`."""
    arguments: list[object] = ["" if max_queue_depth is None else max_queue_depth]
    for items in messages:
        arguments.append(len(items))
        arguments += items
    return scripts.call("publish", [stream], *arguments)


def publish_jobs(
    keys: StreamKeys,
    messages: Iterable[Sequence[bytes]],
    placings: Iterable[Placing],
    max_queue_depth: int | None,
) -> Command:
    """Add or schedule messages in order, by their placings; for `parse_published()`."""
    names = [keys.stream, keys.scheduled, keys.scheduled_messages]
    arguments: list[object] = ["" if max_queue_depth is None else max_queue_depth]
    shared = len(names)
    for items, placing in zip(messages, placings, strict=True):
        place = 0
        if placing.deduplicate_key:
            names.append(keys.published(placing.deduplicate_key))
            place = len(names) - shared
        arguments += (place, placing.deduplicate_ms, placing.scheduled_id, placing.due, len(items))
        arguments += items
    return scripts.call("publish_jobs", names, *arguments)


def parse_published(reply: Any) -> tuple[list[str], SharedSyncError | None]:
    """The ids of the accepted messages, and why the next one was refused, if it was."""
    ids, refusal = reply
    return [entry_id.decode() for entry_id in ids], driver_errors.refusal(refusal)
