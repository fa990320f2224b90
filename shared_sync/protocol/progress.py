"""Progress that a processor reports: checked, stored for the next attempt, and read from there.

What is stored of a message is `<token> <sequence> <JSON>`. The token is that of the process which
has reported it; its sequence numbers grow, so progress that arrives twice or late is recognized.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from shared_sync.errors import InvalidMessage
from shared_sync.message import encode_fields, encode_json_object
from shared_sync.protocol.job_options import check_names
from shared_sync.protocol.messages import Answer

VALUE: Final = "progress"
"""The field with the number."""

RESERVED: Final = frozenset({"message_id", "status", "traceparent", VALUE})
"""Fields that reported progress has anyway."""

_BYTES: Final = "shared_sync.bytes"
"""The only name in a JSON object that stands for bytes, in base64."""


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """Progress of one message, on its way to Redis."""

    message_id: str
    delivery: int
    """The delivery whose attempt has reported it: 1 for the first."""
    token: str
    """Says which process has reported it: letters and digits."""
    sequence: int
    """Grows with each report of the process."""
    stored: bytes
    """What the next attempt gets, for `parse()`."""
    answer: Answer
    """What goes to those who wait for the result."""


def check(value: object, fields: Mapping[str, object]) -> None:
    """Raise `InvalidMessage`, which says why, if this cannot be reported."""
    if value is not None and not _is_share(value):
        raise InvalidMessage(
            f"report_progress() takes a number from 0 to 1, or None, not {value!r:.40}"
        )
    for name in fields:
        if name in RESERVED:
            raise InvalidMessage(
                f"report_progress() cannot have a field {name!r}, which all progress has already; "
                "give it another name",
                field=name,
            )
    check_names(fields)
    if fields:
        encode_fields(fields)


def store(value: float | None, fields: Mapping[str, object]) -> bytes:
    """Return progress as it is stored. Raises `InvalidMessage` for a value without a form."""
    content: dict[str, object] = {VALUE: value}
    for name, own in fields.items():
        if isinstance(own, (bytes, bytearray, memoryview)):
            content[name] = {_BYTES: base64.b64encode(bytes(own)).decode()}
        else:
            content[name] = own
    return encode_json_object(content)


def parse(stored: bytes) -> dict[str, Any] | None:
    """Return the number and the fields of progress as the script has stored it.

    None if there is none, or if it is not readable.
    """
    try:
        _, _, content = stored.split(b" ", 2)
        return content_of(content)
    except (ValueError, AttributeError, TypeError):
        return None


def content_of(stored: bytes | str) -> dict[str, Any]:
    """Return the number and the fields of progress as `store()` has written them."""
    content = dict(json.loads(stored))
    for name, own in content.items():
        if isinstance(own, dict) and own.keys() == {_BYTES}:
            content[name] = base64.b64decode(own[_BYTES])
    return content


def _is_share(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
