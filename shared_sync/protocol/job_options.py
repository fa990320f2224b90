"""The options of a message: one field that says where its result goes, and when it expires.

The field holds a JSON object. It contains only options that are set, and unknown names are ignored,
so that producers and workers of different releases can share a stream. A message without options
has no such field.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from shared_sync.common.trace_context import TraceContext
from shared_sync.errors import InvalidMessage
from shared_sync.protocol import dead_letter_layout

PREFIX: Final = "shared_sync."
"""Prefix of the library's own fields. Fields of users may not begin with it."""

OPTIONS: Final = "shared_sync.options"
"""The field of a message that holds its options."""

TYPES: Final = "shared_sync.types"
"""The field of a result that names the values which are not text."""

LARGEST_CACHED: Final = 1000
"""Longer options are not cached."""

_NAME: Final = OPTIONS.encode()
_REMEDY: Final = "publish the message with RedisStreamProducer, or without this field"


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What a publisher asks for besides the fields of a message."""

    reply_to: str = ""
    """The reply stream that gets the result; empty for the consumer's result stream."""
    id: str = ""
    """The id by which the publisher knows the job; empty if it is the id of the entry."""
    expires_seconds: float | None = None
    """Age, by the time in the entry's id, from which on the message is not started any more."""
    traceparent: str = ""
    """The W3C trace context of the publisher; empty if there is none."""
    tracestate: str = ""
    """What tracing systems add to that; empty for nothing."""
    cancelled: bool = False
    """Whether the job was cancelled before it was published, while it was scheduled."""

    @property
    def trace(self) -> TraceContext:
        """The context of the publisher, as its two options."""
        return TraceContext(self.traceparent, self.tracestate)

    def to_item(self) -> bytes:
        """Return the value of the field."""
        content: dict[str, object] = {}
        if self.reply_to:
            content["reply_to"] = self.reply_to
        if self.id:
            content["id"] = self.id
        if self.expires_seconds is not None:
            content["expires_seconds"] = self.expires_seconds
        if self.traceparent:
            content["traceparent"] = self.traceparent
        if self.tracestate:
            content["tracestate"] = self.tracestate
        if self.cancelled:
            content["cancelled"] = True
        return json.dumps(content).encode()

    @classmethod
    def parse(cls, value: str | bytes) -> JobOptions:
        """Return the options in the value of the field.

        Raises `InvalidMessage`, which names the field and the remedy, if they cannot be read. It is
        called several times for each message, and many messages have the same options.
        """
        return _parse(value) if len(value) > LARGEST_CACHED else _parse_cached(value)


def _parse(value: str | bytes) -> JobOptions:
    try:
        content = json.loads(value)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise _invalid("is no JSON object")
    expires = content.get("expires_seconds")
    if expires is not None and not _is_length(expires):
        shown = repr(expires)[:40]
        raise _invalid(f"has an 'expires_seconds' that is no number above 0, or too large: {shown}")
    return JobOptions(
        _text(content, "reply_to"),
        _text(content, "id"),
        expires,
        _text(content, "traceparent"),
        _text(content, "tracestate"),
        content.get("cancelled") is True,
    )


_parse_cached = lru_cache(maxsize=1000)(_parse)


def without_options(fields: Mapping[str, str | bytes]) -> dict[str, str | bytes]:
    """Return a copy of the fields of a message, as its processor gets them."""
    own = dict(fields)
    own.pop(OPTIONS, None)
    return own


def options_of(items: Sequence[bytes]) -> JobOptions:
    """Return the options in the items of a message; empty options if they cannot be read."""
    if _NAME in items:
        for place in range(0, len(items) - 1, 2):
            if items[place] == _NAME:
                try:
                    return JobOptions.parse(items[place + 1])
                except InvalidMessage:
                    break
    return JobOptions()


def check_names(fields: Iterable[object]) -> None:
    """Raise `InvalidMessage` if the name of a field has a prefix that the library reserves."""
    for name in fields:
        if isinstance(name, str) and name.startswith((PREFIX, dead_letter_layout.PREFIX)):
            begin, whose = PREFIX, "the fields of the library itself do"
            if not name.startswith(PREFIX):
                begin, whose = dead_letter_layout.PREFIX, "only the fields of dead letters do"
            raise InvalidMessage(
                f"field {name!r} begins with {begin!r}, as {whose}; give it another name",
                field=name,
            )


def _text(content: dict[str, object], name: str) -> str:
    value = content.get(name, "")
    if not isinstance(value, str):
        raise _invalid(f"has a {name!r} that is no text: {repr(value)[:40]}")
    try:
        value.encode()  # JSON can also hold half a character, which Redis cannot be sent
    except UnicodeEncodeError:
        raise _invalid(f"has a {name!r} that is no valid Unicode: {ascii(value)[:40]}") from None
    return value


def _is_length(value: object) -> bool:
    """Whether it is a positive number that fits a float: JSON has larger whole ones."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and 0 < value <= sys.float_info.max
    )


def _invalid(fault: str) -> InvalidMessage:
    return InvalidMessage(f"field {OPTIONS!r} {fault}; {_REMEDY}", field=OPTIONS)
