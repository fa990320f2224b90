"""python -m shared_sync.health check: ask a health page, and tell the answer by the exit status.

It is started anew for every probe, so it loads next to nothing: neither Flask nor Redis, nor TLS
unless the address asks for it.
"""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from shared_sync.cli.options import Parser, add_token_file, read_token
from shared_sync.errors import ConfigurationError

MOST_BYTES = 256 * 1024
"""Of an answer; what is behind is not read."""

LONGEST_LINE = 500
DEFAULT_TIMEOUT_SECONDS = 2.0
LONGEST_TIMEOUT_SECONDS = 3600
PROBES = ("live", "ready", "startup")


class NoAnswer(Exception):
    """The page did not answer; the text says why, and what to do."""


class Address(NamedTuple):
    """What to ask."""

    secure: bool
    host: str
    port: int
    path: str
    """With the query, which may hold secrets and is never shown."""

    shown: str

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Answer(NamedTuple):
    """What came back."""

    code: int
    body: bytes


def main(arguments: Sequence[str]) -> int:
    """Ask once, print one line, and return 0 if the page answered with 200, else 1."""
    try:
        options = _parser().parse_args(arguments)
        address = read_address(options.url, options.probe)
        token = read_token(options.token_file)
        answer = ask(address, token, options.timeout)
    except (ConfigurationError, NoAnswer) as error:
        print(_one_line(str(error)))
        return 1
    print(_one_line(_told(address, answer)))
    return 0 if answer.code == 200 else 1


def read_address(url: str | None, probe: str | None) -> Address:
    """The page to ask: that of the URL, or of a URL without a path `/health` or the probe's.

    None for the server on this machine, at HEALTH_PORT or 8080. Raises `ConfigurationError`, which
    shows nothing of the URL: it may have a password in it.
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
            "the URL has a user or a password in it; leave it out, and give the token of the pages "
            "by HEALTH_TOKEN or --token-file"
        )
    return split, port


def _default_port() -> int:
    text = os.environ.get("HEALTH_PORT") or "8080"
    if not text.isdecimal() or not 0 < int(text) <= 65535:
        raise ConfigurationError(
            "HEALTH_PORT must be the number of the port that the server listens on, 1 to 65535; "
            "or give the URL"
        )
    return int(text)


def ask(address: Address, token: str | None, timeout_seconds: float) -> Answer:
    """Get the page. Blocks for at most `timeout_seconds`, whatever the server does.

    Raises `NoAnswer`.
    """
    deadline = time.monotonic() + timeout_seconds
    answers: list[Answer | Exception] = []

    def exchange() -> None:
        try:
            answers.append(_exchange(address, token, deadline))
        except Exception as error:  # noqa: BLE001 - told in the thread that waits
            answers.append(error)

    # In a thread, as nothing else bounds the time that looking up a name takes.
    thread = threading.Thread(target=exchange, daemon=True)
    thread.start()
    thread.join(timeout_seconds)
    answer = answers[0] if answers else TimeoutError()
    if isinstance(answer, Answer):
        return answer
    raise NoAnswer(_remedy(address, answer, timeout_seconds))


def _exchange(address: Address, token: str | None, deadline: float) -> Answer:
    left = _countdown(deadline)
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    request = (
        # 1.0, so that the answer comes in one piece and ends with the connection.
        f"GET {address.path} HTTP/1.0\r\nHost: {address.host_header}\r\n"
        f"Accept: application/json\r\nConnection: close\r\n{authorization}\r\n"
    )
    with (
        socket.create_connection((address.host, address.port), left()) as plain,
        _secured(plain, address, left) if address.secure else plain as connection,
    ):
        connection.settimeout(left())
        connection.sendall(request.encode("ascii"))
        return _parse(_receive(connection, left))


def _countdown(deadline: float) -> Callable[[], float]:
    def left() -> float:
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds

    return left


def _secured(plain: socket.socket, address: Address, left: Callable[[], float]) -> socket.socket:
    import ssl  # noqa: PLC0415 - costs more than all else here, and is seldom needed

    plain.settimeout(left())
    return ssl.create_default_context().wrap_socket(plain, server_hostname=address.host)


def _receive(connection: socket.socket, left: Callable[[], float]) -> bytes:
    """All that comes until the body is whole, the connection ends or there is too much."""
    received = b""
    while len(received) < MOST_BYTES:
        connection.settimeout(left())
        piece = connection.recv(65536)
        received += piece
        if not piece or _is_whole(received):
            break
    return received


def _is_whole(received: bytes) -> bool:
    """Whether the head is there and as much behind it as it announces."""
    head, separator, body = received.partition(b"\r\n\r\n")
    if not separator:
        return False
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            length = value.strip()
            return length.isdigit() and len(length) < 10 and len(body) >= int(length)
    return False


def _parse(received: bytes) -> Answer:
    """Raises ValueError for what is no answer of HTTP."""
    head, _, body = received.partition(b"\r\n\r\n")
    version, _, rest = head.partition(b"\r\n")[0].partition(b" ")
    code = rest[:3]
    if not version.startswith(b"HTTP/") or len(code) != 3 or not code.isdigit():
        raise ValueError
    return Answer(int(code), body)


# --- words --------------------------------------------------------------------------------------


def _remedy(address: Address, error: Exception, timeout_seconds: float) -> str:
    if isinstance(error, TimeoutError):
        return (
            f"no answer from {address.shown} within {timeout_seconds:g} s; the process hangs, is "
            "very busy or cannot be reached. Raise --timeout if it is only slow"
        )
    if isinstance(error, ConnectionRefusedError):
        return (
            f"no answer from {address.shown}: nothing listens there; start the health server, or "
            "give its port by HEALTH_PORT or its URL"
        )
    if isinstance(error, socket.gaierror):
        return f"no answer from {address.shown}: the host has no address; check its name"
    if isinstance(error, OSError):
        reason = getattr(error, "verify_message", "") or error.strerror or type(error).__name__
        return f"no answer from {address.shown}: {reason}; check the address and the network"
    return f"no answer from {address.shown}: what listens there does not speak HTTP; check the port"


def _told(address: Address, answer: Answer) -> str:
    """The answer in one line; the server's own words where it has some."""
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
    told = f"{status}: {instance if isinstance(instance, str) else address.shown}"
    reasons = data.get("reasons")
    if isinstance(reasons, list) and reasons:
        told += ": " + "; ".join(str(reason) for reason in reasons)
    return told


def _read(body: bytes) -> dict[str, Any]:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _one_line(text: str) -> str:
    """Printable whatever it came from and wherever it goes to: a log, a terminal, `docker ps`."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    cut = plain if len(plain) <= LONGEST_LINE else plain[: LONGEST_LINE - 3] + "..."
    return cut.encode("ascii", "backslashreplace").decode()


def _parser() -> Parser:
    parser = Parser(
        prog="python -m shared_sync.health check",
        description="Ask a health page and print one line. The exit status is 0 if it answered "
        "with 200, else 1, as HEALTHCHECK of Docker and exec probes of Kubernetes want it.",
    )
    parser.add_argument(
        "url",
        nargs="?",
        metavar="URL",
        help="server to ask, or the very page if it has a path (default: "
        "http://127.0.0.1 at the port HEALTH_PORT, else 8080)",
    )
    which = parser.add_mutually_exclusive_group()
    for probe, text in zip(
        PROBES,
        (
            "whether the process makes progress; restart it where not",
            "whether it takes on work",
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
        help="longest time for all of it (default: %(default)g)",
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
