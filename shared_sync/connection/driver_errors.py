"""The driver's errors, translated into those of this library."""

from __future__ import annotations

import re
import socket
import ssl
from typing import Final

import redis

from shared_sync.connection.url import Node
from shared_sync.errors import (
    GroupMissing,
    RedisAccessDenied,
    RedisRefused,
    RedisUnavailable,
    SharedSyncError,
)

_CODES: Final = (
    "NOSCRIPT",
    "NOGROUP",
    "UNBLOCKED",
    "WRONGTYPE",
    "READONLY",
    "LOADING",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "MOVED",
    "ASK",
    "NOREPLICAS",
    "NOPERM",
    "NOAUTH",
    "WRONGPASS",
    "OOM",
    "MISCONF",
    # The next are of the scripts of this package.
    "HELD",
    "TOOMANY",
)
# The error of a script has the code of the command that failed somewhere in its text.
_CODE: Final = re.compile(rf"\b({'|'.join(_CODES)})\b")
# A right that is missing in a script has no code; its words depend on the version of the server.
_DENIED_IN_SCRIPT: Final = re.compile(r"user executing the script can't|ACL failure in script")
# The driver removes the code from errors that it has a class for.
_CODE_OF_CLASS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (redis.exceptions.NoScriptError, "NOSCRIPT"),
    (redis.exceptions.ReadOnlyError, "READONLY"),
    (redis.exceptions.NoPermissionError, "NOPERM"),
    (redis.exceptions.AuthenticationError, "NOAUTH"),
    (redis.exceptions.BusyLoadingError, "LOADING"),
    (redis.exceptions.OutOfMemoryError, "OOM"),
    (redis.exceptions.MasterDownError, "MASTERDOWN"),
    (redis.exceptions.ClusterDownError, "CLUSTERDOWN"),
    (redis.exceptions.TryAgainError, "TRYAGAIN"),
    (redis.exceptions.MovedError, "MOVED"),  # before AskError, its base class
    (redis.exceptions.AskError, "ASK"),
)
# The server cannot serve now; a new connection may lead to one that can.
_UNABLE: Final = frozenset(
    {
        "READONLY",
        "LOADING",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "TRYAGAIN",
        "MOVED",
        "ASK",
        "NOREPLICAS",
        "NOSCRIPT",
    }
)
# The driver's TimeoutError is no subclass of its ConnectionError.
_BROKEN: Final = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.exceptions.InvalidResponse,
    OSError,
)
# How the last reply begins before the server closes the connection, as for a value that it does
# not take.
_CLOSING: Final = "Protocol error"
# Versions of the driver differ in whether they have a class for it.
_OTHER_NODE: Final = re.compile(r"(?:MOVED|ASK) \d+ (\S*):(\d+)$")
_DENIED: Final = frozenset({"NOPERM", "NOAUTH", "WRONGPASS"})
_REMEDIES: Final = {
    "DB index is out of range": "; redis_url names a db that the server does not have",
    "SELECT is not allowed in cluster mode": "; leave out the db in redis_url",
}
"""What to change, by the text of the refusal."""


class NotRun(RedisUnavailable):
    """The server refused the command before it ran, so that it may be sent again at once."""


class ScriptMissing(NotRun):
    """The server does not have the script that was called, because it forgot it."""


class Redirected(NotRun):
    """Another node of the cluster is to be sent the command.

    It has the keys (MOVED), or it is to be asked for them once with ASKING (ASK), while their slot
    is moved to it.
    """

    def __init__(self, text: str, node: Node, *, is_once: bool) -> None:
        super().__init__(text)
        self.node = node
        """Its host is empty if it is that of the node which answered."""
        self.is_once = is_once


def _code_of(error: Exception) -> str:
    if isinstance(error, redis.AuthenticationError) and "invalid" in str(error):
        return "WRONGPASS"
    for error_class, code in _CODE_OF_CLASS:
        if isinstance(error, error_class):
            return code
    if _DENIED_IN_SCRIPT.search(str(error)):
        return "NOPERM"
    found = _CODE.search(str(error))
    return found.group(1) if found else "ERR"


def translate(error: Exception, server: str = "") -> SharedSyncError:
    """The error of this library for one of the driver's.

    A connection that broke, in whatever way, becomes `RedisUnavailable`, as does a server that
    cannot serve now; a wrong password and a missing right become `RedisAccessDenied`. Any other
    error reply becomes `RedisRefused` with its code, or `GroupMissing`. An error of this library
    stays what it is. The text names the server, if that is given.
    """
    if isinstance(error, SharedSyncError):
        return error
    code = _code_of(error)
    text = str(error).strip() or type(error).__name__
    if code != "ERR" and code not in text:
        text = f"{code} {text}"
    is_broken = isinstance(error, _BROKEN) or text.startswith(_CLOSING)
    text += _REMEDIES.get(text, "")
    if server not in text:
        text = f"{server}: {text}"
    if code in _UNABLE or code in _DENIED or is_broken:
        unavailable = _unavailable(error, code, text)
        unavailable.cause = _cause(error, code)
        return unavailable
    if code in ("NOGROUP", "UNBLOCKED"):
        return GroupMissing(text, code=code)
    if isinstance(error, redis.RedisError):
        return RedisRefused(text, code=code)
    where = f" to {server}" if server else ""
    return _broken(f"the connection{where} broke ({type(error).__name__}: {error})")


def _cause(error: Exception, code: str) -> str:
    """What is the same for each error of this kind."""
    reason = error.__context__ or error
    if code != "ERR":
        return code
    if isinstance(reason, socket.gaierror):
        return "unknown host"
    if isinstance(reason, ssl.SSLError):
        return "TLS"
    return "too many clients" if "max number of clients" in str(error) else "no connection"


def _unavailable(error: Exception, code: str, text: str) -> RedisUnavailable:
    if code in _DENIED:
        return RedisAccessDenied(text)
    if code == "NOSCRIPT":
        return ScriptMissing(text)
    node = _OTHER_NODE.search(text)
    if code in ("MOVED", "ASK") and node is not None:
        return Redirected(text, Node(node[1], int(node[2])), is_once=code == "ASK")
    if code == "TRYAGAIN":
        text += "; the slot of these keys is being moved to another node"
    return RedisUnavailable(text) if code in _UNABLE else _broken(text)


def _broken(text: str) -> RedisUnavailable:
    error = RedisUnavailable(text)
    error.connection_broke = True
    return error


def refusal(text: bytes) -> SharedSyncError | None:
    """The error for a refusal that a script returned as text; None if the text is empty."""
    return translate(redis.ResponseError(text.decode())) if text else None
