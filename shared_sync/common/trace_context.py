"""TraceContext: which span a message belongs to, in the form of the W3C.

https://www.w3.org/TR/trace-context/ (level 1) has the format.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from shared_sync.common import arguments
from shared_sync.errors import ConfigurationError

EXAMPLE: Final = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

_TRACEPARENT: Final = re.compile(
    # Version 00 ends with the flags; later versions may add more.
    r"(?:00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"
    r"|(?!00|ff)[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?)"
)
_NO_ID: Final = re.compile(r"[0-9a-f]{2}-(?:0{32}|[0-9a-f]{32}-0{16})")


class TraceContext(NamedTuple):
    """A span, as it travels with a message."""

    traceparent: str = ""
    """The ids of trace and span, and whether the trace is recorded; empty for no span."""
    tracestate: str = ""
    """What tracing systems add to that; empty for nothing."""


def check_traceparent(name: str, value: object) -> None:
    """Raise ConfigurationError unless `value` is a W3C traceparent."""
    arguments.text(name, value)
    if not is_traceparent(str(value)):
        raise ConfigurationError(
            f"{name} must be a W3C trace context such as {EXAMPLE!r}, not {value!r}"
        )


def is_traceparent(text: str) -> bool:
    """Return whether a text is a W3C traceparent that names a trace and a span."""
    return _TRACEPARENT.fullmatch(text) is not None and _NO_ID.match(text) is None
