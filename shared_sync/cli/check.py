"""python -m shared_sync.health check: ask a health page, and report the answer by the exit status.

Every probe starts a new interpreter, so the command loads next to nothing: neither Flask nor Redis,
nor TLS unless the address is https.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

from shared_sync.cli import http_client
from shared_sync.cli.http_client import Address, Answer, NoAnswer
from shared_sync.cli.options import Parser, add_token_file, read_token
from shared_sync.common import arguments
from shared_sync.errors import ConfigurationError

LONGEST_LINE = 500
DEFAULT_TIMEOUT_SECONDS = 2.0
LONGEST_TIMEOUT_SECONDS = 3600
PROBES = ("live", "ready", "startup")


def main(command_line: Sequence[str]) -> int:
    """Ask once, print one line, and return 0 if the page answered with 200, else 1."""
    try:
        options = _parser().parse_args(command_line)
        address = read_address(options.url, options.probe)
        token = read_token(options.token_file)
        answer = http_client.get(address, token, options.timeout)
    except (ConfigurationError, NoAnswer) as error:
        print(_one_line(str(error)))
        return 1
    print(_one_line(_describe(address, answer)))
    return 0 if answer.code == 200 else 1


def read_address(url: str | None, probe: str | None) -> Address:
    """Return the page to ask: that of the URL; `/health` or the probe's if the URL has no path.

    Without a URL it is the server on this machine, at HEALTH_PORT or 8080. Raises
    `ConfigurationError`, which shows nothing of the URL: it may contain a password.
    """
    split, port = _split(url or f"http://127.0.0.1:{_default_port()}")
    path = split.path
    if path in ("", "/"):
        path = f"/health/{probe}" if probe else "/health"
    elif probe:
        raise ConfigurationError(
            f"--{probe} and a URL with a path name two pages; leave one of them out"
        )
    secure = split.scheme == "https"
    address = Address(
        secure, split.hostname or "", port, f"{path}?{split.query}" if split.query else path, ""
    )
    return address._replace(shown=f"{split.scheme}://{address.host_header}{path}")


def _split(url: str) -> tuple[SplitResult, int]:
    try:
        split = urlsplit(url)
        port = split.port or {"http": 80, "https": 443}.get(split.scheme, 0)
    except ValueError:
        split, port = SplitResult("", "", "", "", ""), 0
    plain = url.isascii() and url.isprintable() and " " not in url
    if not port or not split.hostname or not plain:
        raise ConfigurationError(
            "the URL cannot be read; write http://host:port or https://host:port, with or without "
            "a path"
        )
    if "@" in split.netloc:
        raise ConfigurationError(
            "the URL contains a user or a password; leave them out, and give the token of the "
            "pages by HEALTH_TOKEN or --token-file"
        )
    return split, port


def _default_port() -> int:
    return arguments.port("HEALTH_PORT", os.environ.get("HEALTH_PORT") or "8080", lowest=1)


def _describe(address: Address, answer: Answer) -> str:
    """Return the answer in one line, as far as possible in the server's own words."""
    code, data = answer.code, _read(answer.body)
    if code in (401, 403):
        return f"refused ({code}): {address.shown} wants a token; HEALTH_TOKEN or --token-file"
    if 300 <= code < 400:
        return f"redirected ({code}): {address.shown} sends elsewhere; ask the final URL instead"
    if code == 404:
        return f"not found (404): {address.shown} has no such page; check the path"
    status = data.get("status")
    if not isinstance(status, str):
        status = "healthy" if code == 200 else "unhealthy"
    if code != 200:
        status = f"{status} ({code})" if status != "healthy" else f"unhealthy ({code})"
    instance = data.get("instance_id")
    line = f"{status}: {instance if isinstance(instance, str) else address.shown}"
    reasons = data.get("reasons")
    if isinstance(reasons, list) and reasons:
        line += ": " + "; ".join(str(reason) for reason in reasons)
    return line


def _read(body: bytes) -> dict[str, Any]:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _one_line(text: str) -> str:
    """Return the text as printable ASCII, for a log, a terminal or `docker ps`."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    cut = plain if len(plain) <= LONGEST_LINE else plain[: LONGEST_LINE - 3] + "..."
    return cut.encode("ascii", "backslashreplace").decode()


def _parser() -> Parser:
    parser = Parser(
        prog="python -m shared_sync.health check",
        description="Ask a health page and print one line. The exit status is 0 if it answered "
        "with 200, else 1, as HEALTHCHECK of Docker and exec probes of Kubernetes expect.",
    )
    parser.add_argument(
        "url",
        nargs="?",
        metavar="URL",
        help="server to ask, or page if the URL has a path (default: "
        "http://127.0.0.1 at the port HEALTH_PORT, else 8080)",
    )
    which = parser.add_mutually_exclusive_group()
    for probe, text in zip(
        PROBES,
        (
            "whether the process makes progress; restart it if not",
            "whether it accepts work",
            "whether it has started",
        ),
        strict=True,
    ):
        which.add_argument(
            f"--{probe}", dest="probe", action="store_const", const=probe, help=f"ask {text}"
        )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=DEFAULT_TIMEOUT_SECONDS,
        metavar="SECONDS",
        help="longest time for everything (default: %(default)g)",
    )
    add_token_file(parser)
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST_TIMEOUT_SECONDS:
        raise ConfigurationError(
            f"--timeout must be seconds, a number more than 0 and up to {LONGEST_TIMEOUT_SECONDS}"
        )
    return seconds
