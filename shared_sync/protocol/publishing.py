"""Publishing messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from shared_sync.connection import driver_errors, scripts
from shared_sync.connection.scripts import Command
from shared_sync.errors import SharedSyncError


def publish(
    stream: str, messages: Iterable[Sequence[bytes]], max_queue_depth: int | None
) -> Command:
    """Add messages in order; the reply is for `parse_published()`."""
    arguments: list[object] = ["" if max_queue_depth is None else max_queue_depth]
    for items in messages:
        arguments.append(len(items))
        arguments += items
    return scripts.call("publish", [stream], *arguments)


def parse_published(reply: Any) -> tuple[list[str], SharedSyncError | None]:
    """The ids of the accepted messages, and why the next one was refused, if it was."""
    ids, refusal = reply
    return [entry_id.decode() for entry_id in ids], driver_errors.refusal(refusal)
