"""Notices an address with TLS for a port without it, or the reverse, when a connection fails."""

from __future__ import annotations

import socket
import ssl
from typing import Any, Final

import redis
from redis.connection import SSLConnection

PROBE_SECONDS: Final = 1.0

_SPEAKS_TLS: Final = (
    "the port speaks TLS: write rediss:// instead of redis:// in redis_url, and the same for "
    "+sentinel and +cluster"
)
_SPEAKS_NO_TLS: Final = (
    "the port does not speak TLS: write redis:// instead of rediss:// in redis_url, and the same "
    "for +sentinel and +cluster"
)


def hint(connection: Any, error: BaseException) -> str:
    """Return what to change in redis_url if a connection failed because of TLS; else ''.

    `error` is what connecting raised. If that is not enough to know, it connects to the server once
    more and blocks for a second at most.
    """
    if not isinstance(error, redis.RedisError):
        return ""
    reason = error.__context__ or error
    if isinstance(connection, SSLConnection):
        return _of_tls(reason)
    if not hasattr(connection, "host") or not _was_turned_away(error, reason):
        return ""
    return _SPEAKS_TLS if _speaks_tls(connection.host, connection.port) else ""


def _of_tls(reason: BaseException) -> str:
    if isinstance(reason, ssl.SSLCertVerificationError):
        return ""
    if isinstance(reason, TimeoutError) and "handshake" in str(reason):
        # A server that waits for the end of a command does not answer the first words of TLS.
        return f"TLS was not answered; if {_SPEAKS_NO_TLS}"
    if isinstance(reason, ssl.SSLEOFError):
        return f"if {_SPEAKS_NO_TLS}"
    if isinstance(reason, ssl.SSLError) and "ALERT" not in (reason.reason or "").upper():
        return _SPEAKS_NO_TLS
    return ""


def _was_turned_away(error: BaseException, reason: BaseException) -> bool:
    """Whether the server took the connection, and closed it or answered something else."""
    if isinstance(error, redis.exceptions.InvalidResponse):
        return True
    if isinstance(reason, ConnectionRefusedError) or isinstance(error, redis.TimeoutError):
        return False
    text = str(error).lower()
    return isinstance(reason, (ConnectionResetError, BrokenPipeError)) or "closed" in text


def _speaks_tls(host: str, port: int) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent over it
    try:
        with (
            socket.create_connection((host, port), PROBE_SECONDS) as link,
            context.wrap_socket(link, server_hostname=host),
        ):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "").upper()
    except OSError:
        return False
