"""Result: what became of a message, with the values that its processor returned."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from shared_sync.errors import JobFailed
from shared_sync.protocol.job_options import TYPES

DONE: Final = "done"
PROGRESS: Final = "progress"

_FACTS: Final = {
    "dead": ("reason", "error_type", "error", "attempts"),
    "expired": ("reason",),
    "cancelled": ("reason",),
    PROGRESS: ("progress",),
}
"""For each status, the fields of an entry that become attributes of the `Result`."""


@dataclass(slots=True)
class Result:
    """What became of a message, or its progress."""

    id: str
    """The id of the message: what `publish()` returned. Empty if the entry names no message."""

    status: str
    """"done", "dead", "expired" or "cancelled"; "progress" if this is not the final result."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    """What the processor returned or reported, and the carried fields of the message.

    Text, numbers, booleans, None, lists, mappings and bytes have the types that the processor
    returned. From a worker of an earlier release everything but bytes is text. If the processor
    returned something else than a mapping, it is in the field `result`.
    """

    reason: str = ""
    """Why the message was not done, such as "expired after 30 s"."""

    error_type: str = ""
    """The class of the last error of a dead message; empty if there was none."""

    error: str = ""
    """The text of that error."""

    attempts: int | None = None
    """How often a dead message was started."""

    progress: float | None = None
    """The reported progress, from 0 to 1; None if the processor gave no number."""

    traceparent: str = ""
    """The W3C trace context of the publisher, if the message had one."""

    entry_id: str = ""
    """The id of the entry in the stream of results."""

    @property
    def ok(self) -> bool:
        """Whether the message is done."""
        return self.status == DONE

    @property
    def is_final(self) -> bool:
        """Whether no further result of this message follows."""
        return self.status != PROGRESS

    def raise_for_status(self) -> Result:
        """Raise `JobFailed` if the message is dead, expired or cancelled; else return `self`."""
        if self.ok or not self.is_final:
            return self
        raise JobFailed(
            self.id, self.status, self.reason, error_type=self.error_type, error=self.error
        )


def parse(entry_id: str, items: Sequence[bytes]) -> Result:
    """Return the result in an entry: field names and values in turn. Never raises."""
    stored: dict[str, Any] = {}
    raw = iter(items)
    for raw_name in raw:
        name, value = _text(raw_name), next(raw, b"")
        try:
            stored[name] = value.decode()
        except UnicodeDecodeError:
            stored[name] = value
    if TYPES in stored:
        _restore(stored, stored.pop(TYPES), items)
    message_id = str(stored.pop("message_id", ""))
    status = str(stored.pop("status", ""))
    traceparent = str(stored.pop("traceparent", ""))
    if status == DONE:
        return Result(message_id, DONE, stored, traceparent=traceparent, entry_id=entry_id)
    facts = {name: stored.pop(name) for name in _FACTS.get(status, ()) if name in stored}
    return Result(
        message_id,
        status,
        stored,
        reason=str(facts.get("reason", "")),
        error_type=str(facts.get("error_type", "")),
        error=str(facts.get("error", "")),
        attempts=_number(facts.get("attempts"), int),
        progress=_number(facts.get("progress"), float),
        traceparent=traceparent,
        entry_id=entry_id,
    )


def _restore(stored: dict[str, Any], types: str | bytes, items: Sequence[bytes]) -> None:
    """Restore the types of values. A value that does not fit its type stays as it is."""
    try:
        kinds = {kind: [*map(str, names)] for kind, names in json.loads(types).items()}
    except (ValueError, RecursionError, TypeError, AttributeError):
        return
    for name in kinds.get("json", ()):
        if isinstance(stored.get(name), str):
            with suppress(ValueError, RecursionError):
                stored[name] = json.loads(stored[name])
    as_bytes = {name.encode(errors="replace") for name in kinds.get("bytes", ())}
    for place in range(0, len(items) - 1, 2):
        if items[place] in as_bytes:
            stored[_text(items[place])] = items[place + 1]


def _text(raw: bytes) -> str:
    """Decode UTF-8; bytes that are not UTF-8 are escaped."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode(errors="backslashreplace")


def _number(value: Any, kind: type[Any]) -> Any:
    """Return the number in a field, which may be stored as text; None if there is none."""
    if value is None or isinstance(value, bool):
        return None
    with suppress(ValueError, TypeError, OverflowError):
        return kind(value)
    return None
