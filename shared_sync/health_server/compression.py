"""Compresses large answers for clients that accept gzip."""

from __future__ import annotations

import gzip
from functools import cached_property
from typing import Final

from werkzeug.wrappers import Request, Response

from shared_sync.health_server import content_negotiation

SMALLEST_BYTES: Final = 1024
"""Smaller bodies, such as those of probes, are sent as they are."""

_LEVEL: Final = 1
"""The fastest: what repeats itself as metrics do becomes small at any level."""


class Body:
    """The body of an answer that several requests may share, compressed once at most.

    Any thread may use it. Two that need the compressed form at once may both make it.
    """

    def __init__(self, plain: bytes) -> None:
        self.plain = plain

    @cached_property
    def compressed(self) -> bytes:
        """The body in gzip's format."""
        return gzip.compress(self.plain, _LEVEL, mtime=0)


def compress(request: Request, response: Response, body: Body | None = None) -> None:
    """Compress the body of a response if the client accepts that and it is worth it.

    `body` is the same body, if other requests share it. Does nothing to a compressed response.
    """
    if response.content_encoding is not None:
        return
    body = body or Body(response.get_data())
    is_large = len(body.plain) >= SMALLEST_BYTES
    if is_large:
        response.vary.add("Accept-Encoding")
    accepted = request.headers.get("Accept-Encoding")
    if body.plain and content_negotiation.prefers_gzip(accepted, is_large=is_large):
        response.set_data(body.compressed)
        response.content_encoding = "gzip"
