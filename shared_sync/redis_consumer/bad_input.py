"""Messages that cannot be read: each cause is logged once a minute and degrades the health."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

LOG_SECONDS: Final = 60.0
"""Time between two lines for one cause: a wrong option may cause thousands of them a second."""

REMEMBERED_SECONDS: Final = 300.0
"""How long a cause degrades the health after its last message."""

MOST_CAUSES: Final = 100
"""Names of fields come from outside; all names beyond this number share one cause."""

_PLAIN_NAME: Final = re.compile(r"[\w.:-]{1,60}")


class _Cause:
    """One cause, and the messages that became dead letters for it."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.messages = 0
        self.newest = 0.0
        self.logged: float | None = None
        self.unlogged = 0


class BadInput:
    """Remembers the messages of one consumer that cannot be read. Safe from any thread."""

    def __init__(
        self, binary_fields: Iterable[str] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        # Fixed after construction.
        self._binary_fields = tuple(sorted(binary_fields))
        self._clock = clock
        # Guarded by the lock, which is re-entrant: a signal handler may ask for the health.
        self._lock = threading.RLock()
        self._causes: dict[str, _Cause] = {}

    def undecodable(self, field: str | None) -> str | None:
        """Note a message with a field that is not UTF-8, or None for the name of a field.

        Returns what to add to its line in the log, None for no line.
        """
        if field is None:
            return self._note("", "the name of a field is not UTF-8; publish names as UTF-8")
        if not _PLAIN_NAME.fullmatch(field):  # a reason shows no text from outside
            return self._note(
                field, "a field is not UTF-8; name it in binary_fields to receive it as bytes"
            )
        argument = f"binary_fields={(*self._binary_fields, field)!r}"
        return self._note(
            field,
            f"field {field!r} is not UTF-8; pass {argument} to the consumer to receive it as bytes",
            f": {argument}",
        )

    def unroutable(self, summary: str) -> str | None:
        """Note a message whose result could not go where it has to; as `undecodable()`."""
        return self._note(summary, summary)

    def _note(self, key: str, reason: str, hint: str = "") -> str | None:
        with self._lock:
            now = self._clock()
            if key not in self._causes and len(self._causes) >= MOST_CAUSES:
                key, reason = "...", "further fields are not UTF-8; name them in binary_fields"
            cause = self._causes.setdefault(key, _Cause(reason))
            if now - cause.newest >= REMEMBERED_SECONDS:
                cause.messages = 0
            cause.messages += 1
            cause.newest = now
            if cause.logged is not None and now - cause.logged < LOG_SECONDS:
                cause.unlogged += 1
                return None
            cause.logged, unlogged, cause.unlogged = now, cause.unlogged, 0
        if unlogged:
            return f"{hint} (and {unlogged} more since the last line of this kind)"
        return f"{hint} (a line of this kind is logged once a minute)"

    def reasons(self) -> list[str]:
        """Return why the health is degraded, without text from outside."""
        with self._lock:
            now = self._clock()
            return [
                f"{_dead_letters(cause.messages)}: {cause.reason}"
                for cause in self._causes.values()
                if now - cause.newest < REMEMBERED_SECONDS
            ]


def _dead_letters(messages: int) -> str:
    return (
        "1 message became a dead letter"
        if messages == 1
        else f"{messages} messages became dead letters"
    )
