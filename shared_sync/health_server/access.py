"""Who may read the answers of a health server: the token, and origins of other web pages (CORS)."""

from __future__ import annotations

import hmac
from collections.abc import Iterable

from werkzeug.wrappers import Request
from werkzeug.wrappers import Response as BaseResponse

from shared_sync.errors import ConfigurationError

METHODS = "GET, HEAD, OPTIONS"


class Access:
    """Decides whether a request may read an answer. Any thread may call any method.

    Raises ConfigurationError for a token or an origin that cannot work.
    """

    def __init__(self, token: str | None, cors: str | Iterable[str] | None) -> None:
        # Fixed after construction.
        self._token = _checked_token(token)
        self._origins = _checked_origins(cors)

    def is_trusted(self, request: Request) -> bool:
        """Whether the request has the token, or none is needed."""
        if self._token is None:
            return True
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        right = hmac.compare_digest(token.strip().encode(errors="replace"), self._token)
        return right and scheme.lower() == "bearer"

    def add_headers(self, request: Request, response: BaseResponse) -> None:
        """Let the web pages read the response that may."""
        headers = response.headers
        origin = self._allowed_origin(request)
        if origin is not None:
            headers["Access-Control-Allow-Origin"] = origin
            if request.method == "OPTIONS":
                headers["Access-Control-Allow-Methods"] = METHODS
                if self._token is not None:
                    headers["Access-Control-Allow-Headers"] = "Authorization"
        if self._origins and "*" not in self._origins:
            headers.add("Vary", "Origin")

    def _allowed_origin(self, request: Request) -> str | None:
        # A single origin is named in every answer, whoever asks.
        if len(self._origins) == 1:
            return next(iter(self._origins))
        origin = request.headers.get("Origin")
        return origin if origin in self._origins else None


def _checked_token(token: str | None) -> bytes | None:
    if token is None:
        return None
    if not (isinstance(token, str) and token.isascii() and token.isprintable() and token.strip()):
        raise ConfigurationError("token must be printable ASCII text and not empty")
    return token.strip().encode()


def _checked_origins(cors: str | Iterable[str] | None) -> frozenset[str]:
    if cors is None:
        return frozenset()
    origins = frozenset([cors] if isinstance(cors, str) else cors)
    for origin in origins:
        if not (isinstance(origin, str) and origin and origin.isascii() and origin.isprintable()):
            raise ConfigurationError(
                f"cors must be an origin such as 'https://ops.example', '*', several, or None, "
                f"not {cors!r}"
            )
    return frozenset("*") if "*" in origins else origins
