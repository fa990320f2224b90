"""One connection to Redis and the errors it meets, the driver's translated into ours."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn, Protocol

import hiredis
import redis

from shared_sync.connection import scripts
from shared_sync.connection.scripts import Command
from shared_sync.errors import (
    GroupMissing,
    RedisAccessDenied,
    RedisRefused,
    RedisUnavailable,
    SharedSyncError,
)

REPLY_MARGIN_SECONDS: Final = 5.0
"""How much longer than a command may block its reply is waited for."""


class RawConnection(Protocol):
    """What is used of the driver's connections."""

    def connect(self) -> None: ...
    def disconnect(self) -> None: ...
    def can_read(self, timeout: float) -> bool: ...
    def send_packed_command(self, command: Sequence[bytes], check_health: bool) -> None: ...
    def read_response(self) -> Any: ...


Connect = Callable[[], RawConnection]

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
    "HELD",
    "TOOMANY",
)
# A script's error carries the code of the command that failed somewhere inside its text.
_CODE: Final = re.compile(rf"\b({'|'.join(_CODES)})\b")
# Nor does what a user may not do inside a script carry a code, in words that depend on the version.
_DENIED_IN_SCRIPT: Final = re.compile(r"user executing the script can't|ACL failure in script")
# The driver strips the code from errors that it has a class for.
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
    (redis.exceptions.MovedError, "MOVED"),  # which is a kind of the next
    (redis.exceptions.AskError, "ASK"),
)
# Connecting anew may lead to a server that can.
_TURNED_AWAY: Final = frozenset(
    {
        "READONLY",
        "LOADING",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "TRYAGAIN",
        "MOVED",
        "ASK",
        "NOREPLICAS",
    }
)
# The driver's timeout is not a kind of its connection error.
_BROKEN: Final = (redis.ConnectionError, redis.TimeoutError, OSError)
_DENIED: Final = frozenset({"NOPERM", "NOAUTH", "WRONGPASS"})


class _ScriptsForgotten(RedisUnavailable):
    """The server no longer has a script that this connection had loaded."""


def _code_of(error: Exception) -> str:
    for error_class, code in _CODE_OF_CLASS:
        if isinstance(error, error_class):
            return code
    if _DENIED_IN_SCRIPT.search(str(error)):
        return "NOPERM"
    found = _CODE.search(str(error))
    return found.group(1) if found else "ERR"


def translate(error: Exception) -> SharedSyncError:
    """Our error for one of the driver's; the two families of broken connections become one."""
    code = _code_of(error)
    text = str(error).strip() or type(error).__name__
    if code != "ERR" and code not in text:
        text = f"{code} {text}"
    if code in _DENIED:
        return RedisAccessDenied(text)
    if code == "NOSCRIPT":
        return _ScriptsForgotten(text)
    if code in _TURNED_AWAY or isinstance(error, _BROKEN):
        return RedisUnavailable(text)
    if code in ("NOGROUP", "UNBLOCKED"):
        return GroupMissing(text, code=code)
    if isinstance(error, redis.RedisError):
        return RedisRefused(text, code=code)
    return RedisUnavailable(f"the connection broke ({type(error).__name__}: {error})")


def refusal(text: bytes) -> SharedSyncError | None:
    """Our error for a refusal that a script returned as text; None for none."""
    return translate(redis.ResponseError(text.decode())) if text else None


class Connection:
    """One connection to Redis. For one thread at a time, except `interrupt()`.

    It connects when it is first used and again after it broke; it repeats nothing by itself.
    Scripts are loaded as they are needed: the first call of each over a connection carries its
    text along.
    """

    def __init__(self, connect: Connect) -> None:
        # Fixed after construction.
        self._connection = connect()
        # Owned by the using thread.
        self._open = False
        self.connects = 0
        """How often it has connected."""
        self._loaded_scripts: set[str] = set()
        """The digests of the scripts that were sent over this connection, to be loaded."""
        self._unread_loads = 0
        """How many replies to SCRIPT LOAD come before those to the commands that were sent."""
        self._load_error: SharedSyncError | None = None
        # Written by the using thread; anyone may read.
        self.receiving = False
        """Whether the using thread waits for a reply. It waits no longer than the time limit,
        unless the reply is long and arrives bit by bit."""
        # Guarded by the lock.
        self._lock = threading.Lock()
        self._blocked = False
        self._interrupted = False

    def open(self) -> None:
        """Connect, unless that is done. Blocks up to the time limits."""
        if self._open:
            return
        try:
            self._connection.connect()
        except BaseException as error:  # noqa: BLE001 - raised anew, whatever it is
            self._fail(error)
        self._open = True
        self.connects += 1

    def close(self) -> None:
        """Close the connection. It may be used again; it then connects anew."""
        self._open = False
        self._loaded_scripts.clear()
        self._unread_loads = 0
        self._load_error = None
        self._connection.disconnect()

    def is_stale(self) -> bool:
        """Whether the server has closed the connection, or left something unread in it."""
        if not self._open:
            return False
        try:
            return bool(self._connection.can_read(0))
        except Exception:  # noqa: BLE001 - whatever it is, this connection is of no use
            return True

    def send(self, commands: Sequence[Command]) -> None:
        """Send commands in one write, scripts that they need and that are not loaded first.

        `receive()` must then be called once for each command, before anything else is sent.
        """
        if not self._open:
            self.open()
        for command in commands:
            if command[0] == "EVALSHA" and command[1] not in self._loaded_scripts:
                commands = [*self._load_scripts(commands), *commands]
                break
        try:
            # Not by the driver's pack_commands(), which takes two to three times as long.
            packed = b"".join(map(hiredis.pack_command, commands))
            self._connection.send_packed_command((packed,), check_health=False)
        except BaseException as error:  # noqa: BLE001 - raised anew, whatever it is
            self._fail(error)

    def _load_scripts(self, commands: Sequence[Command]) -> list[Command]:
        """The commands that load what `commands` call and this connection has not loaded."""
        called = dict.fromkeys(command[1] for command in commands if command[0] == "EVALSHA")
        missing = [digest for digest in called if digest not in self._loaded_scripts]
        self._loaded_scripts.update(missing)
        self._unread_loads = len(missing)
        return [("SCRIPT", "LOAD", scripts.text_of(digest)) for digest in missing]

    def receive(self) -> Any:
        """The next reply.

        Raises `RedisRefused`, which leaves the connection in step, or `RedisUnavailable`, which
        closes it.
        """
        self.receiving = True
        try:
            if self._unread_loads:
                self._receive_loads()
            return self._connection.read_response()
        except redis.ResponseError as error:
            translated = translate(error)
            if isinstance(translated, RedisUnavailable):
                if isinstance(translated, _ScriptsForgotten):
                    translated = self._load_error or translated
                self.close()
            raise translated from None
        except BaseException as error:  # noqa: BLE001 - an interrupt breaks the driver in many ways
            self._fail(error)
        finally:
            self.receiving = False

    def _fail(self, error: BaseException) -> NoReturn:
        """Close the connection, and raise the error that broke it as one of ours."""
        self.close()
        if isinstance(error, SharedSyncError) or not isinstance(error, Exception):
            raise error
        raise translate(error) from None

    def _receive_loads(self) -> None:
        """Read the replies to SCRIPT LOAD, which come first.

        One that was refused raises nothing yet: the server may know the script all the same. If
        it does not, the call of the script raises the refusal.
        """
        while self._unread_loads:
            self._unread_loads -= 1
            try:
                self._connection.read_response()
            except redis.ResponseError as error:
                self._load_error = translate(error)

    def call(self, *command: object) -> Any:
        """Send one command and return its reply."""
        try:
            self.send([command])
            return self.receive()
        except _ScriptsForgotten:
            # The command was not carried out, and the new connection loads the script again.
            self.send([command])
            return self.receive()

    def call_all(self, *commands: Command) -> list[Any]:
        """Send commands in one round trip; a refusal stands among the replies, not raised."""
        self.send(commands)
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(self.receive())
            except RedisRefused as refused:
                replies.append(refused)
        return replies

    def receive_blocked(self) -> Any:
        """Like `receive()`, for a reply that the server may hold back: `interrupt()` ends it.

        Returns None when interrupted.
        """
        with self._lock:
            if self._interrupted:
                self.close()
                return None
            self._blocked = True
        try:
            return self.receive()
        except RedisUnavailable:
            if self._interrupted:
                return None
            raise
        finally:
            with self._lock:
                self._blocked = False

    @property
    def interrupted(self) -> bool:
        """Whether `interrupt()` was called, so that a wait would end at once."""
        return self._interrupted

    def interrupt(self) -> None:
        """End the blocked wait of the using thread, now and in future. Safe from any thread.

        What the server delivered into the closed connection stays pending and is handed back
        when the consumer leaves.
        """
        with self._lock:
            self._interrupted = True
            if self._blocked:
                self._connection.disconnect()
