"""The attributes of log records that are written while a consumer runs messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from shared_sync.common.log_attributes import Attributes
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.messages import Entry

MOST_IDS: Final = 10
"""How many messages of a batch a record names."""


class AttemptAttributes:
    """A source of `log_attributes`: returns what is running when it is called."""

    def __init__(
        self,
        running: Callable[[], Sequence[Entry]],
        keys: Keys,
        consumer: str,
        span_ids: Callable[[], Mapping[str, str]] | None = None,
    ) -> None:
        """`running` returns the messages that run now.

        `span_ids` returns the ids of the trace and the span; None without tracing.
        """
        self._running = running
        self._process: Attributes = {
            "stream": keys.stream,
            "group": keys.group,
            "consumer": consumer,
        }
        self._span_ids = span_ids

    def __call__(self) -> Attributes:
        """Return the attributes of the attempt that runs, or those of the process."""
        entries = self._running()
        if not entries:
            return self._process
        found: dict[str, object]
        if len(entries) == 1:
            (entry,) = entries
            found = {"message_id": entry.id, "attempt": entry.deliveries}
        else:
            ids = " ".join(entry.id for entry in entries[:MOST_IDS])
            found = {"messages": len(entries), "message_ids": ids}
        found.update(self._process)
        if self._span_ids is not None:
            found.update(self._span_ids())
        return found
