"""shared-sync health check: ask a health page, and report the answer by the exit status.

Every probe starts a new interpreter, so the command loads next to nothing: neither Flask nor Redis,
nor TLS unless the address is https.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from shared_sync.cli import http_client
from shared_sync.cli.grammar import DONE, FAILED, add_command
from shared_sync.cli.http_client import Address, Answer, NoAnswer
from shared_sync.cli.options import add_token_file, health_port, number, read_token
from shared_sync.cli.output import Output, add_json
from shared_sync.common import arguments
from shared_sync.errors import ConfigurationError

if TYPE_CHECKING:
    from shared_sync.cli.grammar import Commands

LONGEST_LINE = 500
DEFAULT_TIMEOUT_SECONDS = 2.0
SHORTEST_TIMEOUT_SECONDS, LONGEST_TIMEOUT_SECONDS = 0.001, 3600.0


def add_parser(commands: Commands) -> None:
    """Add the command, as `grammar.py` describes."""
    parser = add_command(
        commands,
        "check",
        summary="ask a health page, for the probes of Docker and Kubernetes",
        description="Asks a health page, and prints one line. The exit status is 0 if it answered "
        "with 200, else 1, as HEALTHCHECK of Docker and exec probes of Kubernetes expect.",
        run=run,
        exit_status={DONE: "the page answered with 200", FAILED: "another answer, or none"},
    )
    parser.add_argument(
        "url",
        nargs="?",
        metavar="URL",
        help="server to ask, or page if the URL has a path (default: "
        "http://127.0.0.1 at the port HEALTH_PORT, else 8080)",
    )
    which = parser.add_mutually_exclusive_group()
    for probe, text in (
        ("live", "whether the process makes progress; restart it if not"),
        ("ready", "whether it accepts work"),
        ("startup", "whether it has started"),
    ):
        which.add_argument(
            f"--{probe}", dest="probe", action="store_const", const=probe, help=f"ask {text}"
        )
    parser.add_argument(
        "--timeout",
        type=number("--timeout", SHORTEST_TIMEOUT_SECONDS, LONGEST_TIMEOUT_SECONDS, unit="seconds"),
        default=DEFAULT_TIMEOUT_SECONDS,
        metavar="SECONDS",
        help="longest time for the whole check (default: %(default)g)",
    )
    add_token_file(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Ask once, print one line, and return 0 if the page answered with 200, else 1.

    Raises `ConfigurationError` for an address or a token that cannot be used.
    """
    address = read_address(options.url, options.probe)
    token = read_token(options.token_file)
    output = Output(options)
    document: dict[str, object] = {"address": address.shown}
    try:
        answer = http_client.get(address, token, options.timeout)
    except NoAnswer as error:
        output.show({**document, "status": "no answer", "error": str(error)}, _one_line(str(error)))
        return FAILED
    line = _one_line(_describe(address, answer))
    data = _read(answer.body)
    document |= {"code": answer.code, "status": data.get("status"), "text": line}
    document |= {name: data.get(name) for name in ("instance_id", "reasons")}
    output.show(document, line)
    return DONE if answer.code == 200 else FAILED


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
    return arguments.port("HEALTH_PORT", health_port(), lowest=1)


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
