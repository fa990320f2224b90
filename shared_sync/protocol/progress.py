"""The form of reported progress: checked, stored for the next attempt, and read again.

The stored form is `<token> <sequence> <JSON>`. Each process has its own token and increasing
sequence numbers, by which a report that arrives twice or late is recognized.
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
"""Fields that every report has, which the processor may not set."""

_BYTES: Final = "shared_sync.bytes"
"""The only name in a JSON object that stands for bytes, in base64."""


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """A report of one message, on its way to Redis."""

    message_id: str
    delivery: int
    """The number of the delivery whose attempt has reported: 1 for the first."""
    token: str
    """Identifies the process that has reported."""
    sequence: int
    """Increases with each report of the process."""
    stored: bytes
    """The stored form for the next attempt."""
    answer: Answer
    """What is published."""


def check(value: object, fields: Mapping[str, object]) -> None:
    """Raise `InvalidMessage`, with the reason, if this cannot be reported."""
    if value is not None and not _is_share(value):
        raise InvalidMessage(
            f"report_progress() takes a number from 0 to 1, or None, not {value!r:.40}"
        )
    for name in fields:
        if name in RESERVED:
            raise InvalidMessage(
                f"report_progress() cannot have a field {name!r}, which every report has already; "
                "give it another name",
                field=name,
            )
    check_names(fields)
    if fields:
        encode_fields(fields)


def store(value: float | None, fields: Mapping[str, object]) -> bytes:
    """Return the JSON of a report. Raises `InvalidMessage` for a value that cannot be stored."""
    content: dict[str, object] = {VALUE: value}
    for name, own in fields.items():
        if isinstance(own, (bytes, bytearray, memoryview)):
            content[name] = {_BYTES: base64.b64encode(bytes(own)).decode()}
        else:
            content[name] = own
    return encode_json_object(content)


def parse(stored: bytes) -> dict[str, Any] | None:
    """Return the number and the fields of a report as the script has stored it.

    None if there is none, or if it cannot be read.
    """
    try:
        _, _, content = stored.split(b" ", 2)
        return content_of(content)
    except (ValueError, AttributeError, TypeError):
        return None


def content_of(stored: bytes | str) -> dict[str, Any]:
    """Return the number and the fields of a report as `store()` has encoded them."""
    content = dict(json.loads(stored))
    for name, own in content.items():
        if isinstance(own, dict) and own.keys() == {_BYTES}:
            content[name] = base64.b64decode(own[_BYTES])
    return content


def _is_share(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
