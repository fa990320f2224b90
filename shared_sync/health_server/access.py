"""Who may read the answers of a health server: the token, other web pages, and names of the host.

`/health`, the probes and `/metrics` are for every client and, with `cors="*"`, for every web page.
The dashboard and its data under `/api` are for web pages of the listed origins alone, and only
under a name that is known to be this server's. Otherwise a page of any site could read them through
the browser of somebody who can reach the server: directly, or by having the site's own name lead to
the server's address (DNS rebinding).

What is under `/actions` is for the page of this server alone, whoever has the token.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
from collections.abc import Iterable
from typing import Final

from werkzeug.wrappers import Request
from werkzeug.wrappers import Response as BaseResponse

from shared_sync.errors import ConfigurationError

METHODS: Final = "GET, HEAD, OPTIONS"

SAFE_HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""What every answer has, also one that waitress sends; the dashboard has a policy of its own."""

_FOR_EVERYBODY: Final = ("health", "metrics")
"""The first part of the paths that probes and Prometheus ask for, under any name."""

_NAME: Final = re.compile(r"(?:\*\.)?[A-Za-z0-9_.-]+")
_ORIGIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[A-Za-z0-9_.:\[\]-]+/?")
_PORT: Final = re.compile(r":\d*$")
_OWN_SITE: Final = "same-origin"
_LONGEST_ORIGIN: Final = 100
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


class Access:
    """Decides whether a request may read an answer. Any thread may call any method.

    Raises ConfigurationError for a token, an origin or a name that cannot work.

    Args:
        token: What a request must send, if given.
        cors: Origins whose web pages may read the answers; "*" stands for all, and concerns only
            paths that are for everybody.
        allowed_hosts: Names under which the dashboard and its data may be asked for, beside those
            that no other site can have.
        own_host: The name or address that the server listens on.
        action_origins: Origins under which the page is opened besides the names in its requests,
            as behind a proxy that passes on a name of its own; its actions come from these.
    """

    def __init__(
        self,
        token: str | None,
        cors: str | Iterable[str] | None,
        allowed_hosts: str | Iterable[str] = (),
        own_host: str | None = None,
        action_origins: str | Iterable[str] = (),
    ) -> None:
        # Fixed after construction.
        self._token = _checked_token(token)
        origins = _checked_origins("cors", cors)
        self._any_origin = "*" in origins
        self._origins = origins - {"*"}
        own = {socket.gethostname().lower(), (own_host or "").lower()}
        self._hosts = _checked_hosts(allowed_hosts) | own - {""}
        self._action_origins = _checked_origins("action_origins", action_origins)
        if "*" in self._action_origins:
            raise ConfigurationError(
                "action_origins must be origins such as 'https://ops.example', not '*': then pages "
                "of any site could act"
            )

    def is_trusted(self, request: Request) -> bool:
        """Whether the request has the token, or none is needed."""
        if self._token is None:
            return True
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        right = hmac.compare_digest(token.strip().encode(errors="replace"), self._token)
        return right and scheme.lower() == "bearer"

    def unknown_host(self, request: Request) -> str | None:
        """Return the name that the request was sent to, if it may not get its answer under it."""
        host = request.headers.get("Host")
        if host is None or is_for_everybody(request.path):  # a browser always sends the name
            return None
        name = _PORT.sub("", host).lower().removesuffix(".")
        return None if self._is_known(name) else host

    def why_no_action(self, request: Request) -> str | None:
        """Return why the request may not act, although it has the token; None if it may.

        Browsers name the origin of the page in each POST, and no page can change that.
        """
        site = request.headers.get("Sec-Fetch-Site", _OWN_SITE)
        if site != _OWN_SITE:
            return f"only the page of this server may act, and not one that is {site[:20]!r}"
        origin = request.headers.get("Origin", "").lower()
        if not origin:
            return "only the page of this server may act: the request has no Origin"
        if origin in self._action_origins or _is_origin_of(origin, request.headers.get("Host", "")):
            return None
        return (
            f"only the page of this server may act, and not one of {origin[:_LONGEST_ORIGIN]!r}; "
            "if that is its address behind a proxy, have it added to action_origins "
            "(--action-origins)"
        )

    def add_headers(self, request: Request, response: BaseResponse) -> None:
        """Let the web pages read the response that may."""
        headers = response.headers
        if is_action(request.path):
            headers["Cross-Origin-Resource-Policy"] = "same-origin"
            return
        is_open = is_for_everybody(request.path)
        if not is_open:
            headers["Cross-Origin-Resource-Policy"] = "same-origin"
        if is_open and self._any_origin:
            self._allow(request, response, "*")
            return
        origin = self._allowed_origin(request)
        if origin is not None:
            self._allow(request, response, origin)
        if self._origins:
            response.vary.add("Origin")

    def _allow(self, request: Request, response: BaseResponse, origin: str) -> None:
        headers = response.headers
        headers["Access-Control-Allow-Origin"] = origin
        if request.method == "OPTIONS":
            headers["Access-Control-Allow-Methods"] = METHODS
            if self._token is not None:
                headers["Access-Control-Allow-Headers"] = "Authorization"

    def _allowed_origin(self, request: Request) -> str | None:
        # A single origin is named in every answer, whoever asks.
        if len(self._origins) == 1:
            return next(iter(self._origins))
        origin = request.headers.get("Origin")
        return origin if origin in self._origins else None

    def _is_known(self, name: str) -> bool:
        """Whether no other site can have the name, or the user has allowed it."""
        if "." not in name and ":" not in name:
            return bool(name)  # localhost, the name of a container: no site has such a name
        if name.endswith(".localhost") or name in self._hosts or "*" in self._hosts:
            return True
        if any(host.startswith("*.") and name.endswith(host[1:]) for host in self._hosts):
            return True
        return _is_address(name)


def is_for_everybody(path: str) -> bool:
    """Whether a path is /health, a probe or /metrics, or would be one of these if it existed."""
    return path.lstrip("/").partition("/")[0] in _FOR_EVERYBODY


def is_action(path: str) -> bool:
    """Return whether a path is that of an action, or would be if there were one."""
    return path.lstrip("/").partition("/")[0] == "actions"


def _is_origin_of(origin: str, host: str) -> bool:
    """Return whether a page of this origin was loaded from this host, with or without TLS."""
    scheme, _, name = origin.partition("://")
    port = _DEFAULT_PORTS.get(scheme)
    if port is None or not host:
        return False
    return name.removesuffix(port) == host.lower().removesuffix(port)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
    except ValueError:
        return False
    return True


def _checked_token(token: str | None) -> bytes | None:
    if token is None:
        return None
    if not (isinstance(token, str) and token.isascii() and token.isprintable() and token.strip()):
        raise ConfigurationError("token must be printable ASCII text and not empty")
    return token.strip().encode()


def _checked_origins(name: str, given: str | Iterable[str] | None) -> frozenset[str]:
    if given is None:
        return frozenset()
    origins = _listed(given)
    for origin in origins:
        if not isinstance(origin, str) or not (origin == "*" or _ORIGIN.fullmatch(origin)):
            raise ConfigurationError(
                f"{name} must be an origin, which is a scheme and a host such as "
                f"'https://ops.example', '*', several, or None, not {origin!r}"
            )
    return frozenset(origin.lower().removesuffix("/") for origin in origins)  # as browsers do


def _checked_hosts(allowed_hosts: str | Iterable[str]) -> frozenset[str]:
    hosts = _listed(allowed_hosts)
    for host in hosts:
        if not isinstance(host, str) or not (host == "*" or _NAME.fullmatch(host)):
            raise ConfigurationError(
                "allowed_hosts must be names such as 'stt.example.com' or '*.example.com', without "
                f"scheme and port, or '*' for any, not {host!r}"
            )
    return frozenset(host.lower().removesuffix(".") for host in hosts)


def _listed(given: str | Iterable[str]) -> list[str]:
    """Return one text or several as a list; what is neither as the only element, to be refused."""
    return list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
