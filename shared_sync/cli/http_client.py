"""A minimal HTTP client for `health check`: one GET within a time limit.

It loads next to nothing, because every probe starts a new interpreter: neither `http.client` nor,
unless the address is https, `ssl`.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

LONGEST_ANSWER = 256 * 1024
"""Bytes of an answer that are read."""


class NoAnswer(Exception):
    """The server did not answer; the text says why, and what to do."""


class Address(NamedTuple):
    """What to ask."""

    secure: bool
    host: str
    port: int
    path: str
    """With the query, which may contain secrets and is never shown."""

    shown: str

    @property
    def host_header(self) -> str:
        """The value of the header Host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Answer(NamedTuple):
    """What the server answered."""

    code: int
    body: bytes


def get(address: Address, token: str | None, timeout_seconds: float) -> Answer:
    """Get the page. Blocks for at most `timeout_seconds`, whatever the server does.

    Raises `NoAnswer`.
    """
    deadline = time.monotonic() + timeout_seconds
    answers: list[Answer | Exception] = []

    def exchange() -> None:
        try:
            answers.append(_exchange(address, token, deadline))
        except Exception as error:  # noqa: BLE001 - reported by the thread that waits
            answers.append(error)

    # In a thread, as nothing else limits how long it takes to resolve a name.
    thread = threading.Thread(target=exchange, daemon=True)
    thread.start()
    thread.join(timeout_seconds)
    answer = answers[0] if answers else TimeoutError()
    if isinstance(answer, Answer):
        return answer
    raise NoAnswer(_remedy(address, answer, timeout_seconds))


def _exchange(address: Address, token: str | None, deadline: float) -> Answer:
    remaining = _countdown(deadline)
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    request = (
        # 1.0, so that the answer comes in one piece and ends with the connection.
        f"GET {address.path} HTTP/1.0\r\nHost: {address.host_header}\r\n"
        f"Accept: application/json\r\nConnection: close\r\n{authorization}\r\n"
    )
    with (
        socket.create_connection((address.host, address.port), remaining()) as plain,
        _encrypted(plain, address, remaining) if address.secure else plain as connection,
    ):
        connection.settimeout(remaining())
        connection.sendall(request.encode("ascii"))
        return _parse(_receive(connection, remaining))


def _countdown(deadline: float) -> Callable[[], float]:
    def remaining() -> float:
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds

    return remaining


def _encrypted(
    plain: socket.socket, address: Address, remaining: Callable[[], float]
) -> socket.socket:
    import ssl  # noqa: PLC0415 - costs more than everything else here, and is seldom needed

    plain.settimeout(remaining())
    return ssl.create_default_context().wrap_socket(plain, server_hostname=address.host)


def _receive(connection: socket.socket, remaining: Callable[[], float]) -> bytes:
    """Receive until the body is complete, the connection ends or the answer is too long."""
    received = b""
    while len(received) < LONGEST_ANSWER:
        connection.settimeout(remaining())
        piece = connection.recv(65536)
        received += piece
        if not piece or _is_complete(received):
            break
    return received


def _is_complete(received: bytes) -> bool:
    """Return whether the head is there, and a body as long as its Content-Length says."""
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
