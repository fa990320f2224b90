"""One connection to Redis, which sends commands, receives replies and loads scripts."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn, Protocol, runtime_checkable

import hiredis
import redis

from shared_sync.connection import remedies, scripts, tls_mismatch
from shared_sync.connection.driver_errors import NotRun, Redirected, ScriptMissing, translate
from shared_sync.connection.scripts import Command
from shared_sync.connection.url import Node
from shared_sync.errors import RedisAccessDenied, RedisRefused, RedisUnavailable, SharedSyncError

REPLY_MARGIN_SECONDS: Final = 5.0
"""How much longer than the command may block, its reply is awaited."""

_QUESTIONS: Final[tuple[str, ...]] = ("PING", "TIME")
"""Commands that check whether the server answers. Each worker has the right to TIME."""

_PAUSES_SECONDS: Final = (0.0, 0.0, 0.02, 0.05, 0.1, 0.2)
"""Before each further try to have a command run that a server refused to run."""


class RawConnection(Protocol):
    """The methods of the driver's connections that are used."""

    def connect(self) -> None: ...
    def disconnect(self) -> None: ...
    def can_read(self, timeout: float) -> bool: ...
    def send_packed_command(self, command: Sequence[bytes], check_health: bool) -> None: ...
    def read_response(self) -> Any: ...


@runtime_checkable
class Redirectable(Protocol):
    """A connection to a cluster."""

    def redirect(self, node: Node) -> None: ...


Connect = Callable[[], RawConnection]


class Connection:
    """One connection to Redis. For one thread at a time, except `interrupt()`.

    It connects when it is first used, and again after it broke. Only `call()` sends anything
    twice, and only what no server has run. Scripts are loaded as they are needed: their texts are
    sent in front of the first call of each over this connection.
    """

    def __init__(self, connect: Connect) -> None:
        # Fixed after construction.
        self._connect = connect
        # Owned by the using thread.
        self._connection = connect()
        self._process = os.getpid()
        self._open = False
        self.connects = 0
        """How often it has connected."""
        self._loaded_scripts: set[str] = set()
        """The digests of the scripts that were sent over this connection, to be loaded."""
        self._unread_loads = 0
        """How many replies to SCRIPT LOAD come before those to the commands that were sent."""
        self._sent: Sequence[Command] = ()
        """The commands that were sent last."""
        self._unread = 0
        """How many replies to these have not been read."""
        self._load_error: SharedSyncError | None = None
        """Why a script was not loaded."""
        self._questions = _QUESTIONS
        """The commands that check whether the server answers and that this user may send."""
        # Guarded by the lock.
        self._lock = threading.Lock()
        self._blocked = False
        self._interrupted = False

    @property
    def is_open(self) -> bool:
        """Whether it is connected, for all that is known."""
        return self._open

    def open(self) -> None:
        """Connect, unless it is connected. Blocks up to the time limits of the connection.

        Raises `RedisUnavailable` or `RedisAccessDenied`.
        """
        if self._open:
            return
        try:
            if self._process != os.getpid():  # in a fork the driver's own could not be interrupted
                self._connection, self._process = self._connect(), os.getpid()
            self._connection.connect()
        except BaseException as error:  # noqa: BLE001 - raised anew, whatever it is
            self._fail(error, tls_mismatch.hint(self._connection, error))
        self._open = True
        self.connects += 1

    def close(self) -> None:
        """Close the connection. Never blocks. It may be used again, and then connects anew."""
        self._open = False
        self._loaded_scripts.clear()
        self._unread_loads = 0
        self._unread = 0
        self._load_error = None
        self._connection.disconnect()

    def is_stale(self) -> bool:
        """Whether the server has closed the connection, or something unread is left in it.

        Does not wait for the server, but may ask a Sentinel, for a second at most. A connection
        that is not open is not stale.
        """
        if not self._open:
            return False
        try:
            return bool(self._connection.can_read(0))
        except Exception:  # noqa: BLE001 - whatever it is, the connection is broken
            return True

    def close_if_stale(self) -> None:
        """Close it if it is stale, as after a long job, so that it is opened anew when it is used.

        Blocks as `is_stale()` does.
        """
        if self.is_stale():
            self.close()

    def answers(self, within_seconds: float) -> bool:
        """Return whether the server answers over this connection; if not, close it.

        Sends PING and blocks up to `within_seconds`. A refusal is an answer, too; after it TIME
        is sent instead of PING. If the user may send neither, the connection is closed.
        """
        if not self._open or not self._questions:
            self.close()
            return False
        try:
            self.send([(self._questions[0],)])
            if self._connection.can_read(within_seconds):
                self._unread = 0
                self._connection.read_response()
                return True
        except redis.ResponseError as error:
            if isinstance(translate(error, self._server), RedisAccessDenied):
                self._questions = self._questions[1:]
            return True
        except Exception:  # noqa: BLE001, S110 - whatever it is, the connection is broken
            pass
        self.close()
        return False

    def send(self, commands: Sequence[Command]) -> None:
        """Send commands in one write, behind the scripts that they call and that are not loaded.

        Connects if needed. `receive()` must then be called once for each command, before anything
        else is sent. If an error has kept the caller from that, the next `send()` connects anew:
        no reply is ever taken for the reply to another command. Raises `RedisUnavailable`, after
        which the connection is closed.
        """
        if self._unread:
            self.close()
        if not self._open:
            self.open()
        self._sent = commands
        self._unread = len(commands)
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
        """The commands that load the scripts which `commands` call and which are not loaded."""
        called = dict.fromkeys(command[1] for command in commands if command[0] == "EVALSHA")
        missing = [digest for digest in called if digest not in self._loaded_scripts]
        self._loaded_scripts.update(missing)
        self._unread_loads = len(missing)
        return [("SCRIPT", "LOAD", scripts.text_of(digest)) for digest in missing]

    def receive(self) -> Any:
        """Return the next reply. Blocks up to the time limit for replies.

        Raises `RedisRefused`, after which the next reply may be received, or `RedisUnavailable`,
        after which the connection is closed and the replies that were left are lost.
        """
        try:
            if self._unread_loads:
                self._receive_loads()
            reply = self._connection.read_response()
        except redis.ResponseError as error:
            command = self._sent[-self._unread] if self._unread else ()
            self._unread -= 1
            translated = remedies.explain(translate(error, self._server), command)
            if isinstance(translated, RedisUnavailable):
                if isinstance(translated, ScriptMissing):
                    translated = self._load_error or translated
                self.close()
                if isinstance(translated, Redirected):
                    translated = self._follow(translated)
            raise translated from None
        except BaseException as error:  # noqa: BLE001 - an interrupt breaks the driver in many ways
            self._fail(error)
        self._unread -= 1
        return reply

    def _fail(self, error: BaseException, hint: str = "") -> NoReturn:
        """Close the connection, and raise the error that broke it as one of ours."""
        self.close()
        if isinstance(error, SharedSyncError) or not isinstance(error, Exception):
            raise error
        translated = remedies.explain(translate(error, self._server), ())
        if hint:
            translated = RedisUnavailable(f"{translated}; {hint}")
            translated.connection_broke = True
            translated.cause = "TLS"
        raise translated from None

    @property
    def _server(self) -> str:
        """Host and port, or the path of the socket, for errors."""
        connection: Any = self._connection
        if hasattr(connection, "path"):
            return str(connection.path)
        return str(Node(connection.host, connection.port)) if hasattr(connection, "host") else ""

    def _receive_loads(self) -> None:
        """Read the replies to SCRIPT LOAD, which come first.

        A refusal is raised only if the server answers the call of a script with NOSCRIPT: it may
        have the script although this user may not load it.
        """
        while self._unread_loads:
            self._unread_loads -= 1
            try:
                self._connection.read_response()
            except redis.ResponseError as error:
                self._load_error = translate(error, self._server)

    def call(self, *command: object) -> Any:
        """Send one command and return its reply. Blocks and raises as `receive()` does.

        What the server refused to run is sent again: a script that it did not have, behind the
        text of that; a command about keys that another node of the cluster has, to that node. A
        second is spent on that at most, besides what the nodes take to answer.
        """
        try:
            return self._call_once(command)
        except NotRun as error:
            refusal = error
        for pause_seconds in _PAUSES_SECONDS:
            time.sleep(pause_seconds)
            try:
                if isinstance(refusal, Redirected) and refusal.is_once:
                    return self._ask(command, refusal)
                return self._call_once(command)
            except NotRun as error:
                refusal = error
        raise refusal

    def call_with(self, command: Command, second: Command) -> tuple[Any, Any]:
        """Send two commands in one round trip, and return the replies.

        The first is treated as by `call()`. The second matters less: if it fails, its error is
        returned in the place of its reply.
        """
        try:
            self.send([command, second])
            try:
                reply = self.receive()
            except (RedisRefused, RedisAccessDenied):
                _or_error(self.receive)
                raise
        except NotRun:
            return self.call(*command), _or_error(lambda: self.call(*second))
        return reply, _or_error(self.receive)

    def _call_once(self, command: Command) -> Any:
        self.send([command])  # over a new connection this loads the script again
        return self.receive()

    def _follow(self, error: Redirected) -> RedisUnavailable:
        """Let the next connect lead to the node that has the keys; return what to raise."""
        if not isinstance(self._connection, Redirectable):
            return RedisUnavailable(
                f"{error}; the server is a node of a cluster, so write redis+cluster:// in "
                "front of its host in redis_url"
            )
        if not error.is_once:
            self._connection.redirect(error.node)
        return error

    def _ask(self, command: Command, error: Redirected) -> Any:
        """Send a command to the node to which the slot of its keys is being moved.

        Only this one: the other keys of the slot may be at their old place.
        """
        assert isinstance(self._connection, Redirectable)  # noqa: S101 - else nothing is followed
        self._connection.redirect(error.node)
        try:
            self.send([("ASKING",), command])
            try:
                self.receive()
            except RedisAccessDenied:
                raise RedisUnavailable(
                    f"{error}; this user may not follow that: grant it +asking, or wait until "
                    "the slot has moved"
                ) from None
            return self.receive()
        finally:
            self.close()

    def call_all(self, *commands: Command) -> list[Any]:
        """Send commands in one round trip, and return their replies.

        In place of the reply to a refused command stands its `RedisRefused`. Raises
        `RedisUnavailable`.
        """
        self.send(commands)
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(self.receive())
            except RedisRefused as refused:
                replies.append(refused)
        return replies

    def transaction(self, *commands: Command) -> Sequence[Any]:
        """Run commands in one transaction and one round trip, and return their replies.

        Raises the first refusal. If a command was refused because it is wrong or not allowed, none
        was run; if it was refused as it ran, the others were run. Raises `RedisUnavailable`.
        """
        *queued, replies = self.call_all(("MULTI",), *commands, ("EXEC",))
        for reply in (*queued, *(replies if isinstance(replies, list) else (replies,))):
            if isinstance(reply, SharedSyncError):
                raise reply
            if isinstance(reply, Exception):
                raise translate(reply, self._server)
        return tuple(replies)

    def receive_blocked(self) -> Any:
        """Return the next reply as `receive()` does, or None if `interrupt()` ends the wait."""
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
        """Whether `interrupt()` was called, so that `receive_blocked()` returns None."""
        return self._interrupted

    def interrupt(self) -> None:
        """End every `receive_blocked()`, the current one and those to come. Safe from any thread.

        A message that the server delivers into the closed connection stays pending, and is handed
        back when the consumer leaves.
        """
        with self._lock:
            self._interrupted = True
            if self._blocked:
                self._connection.disconnect()


def _or_error(ask: Callable[[], Any]) -> Any:
    """Return the reply, or the error in its place."""
    try:
        return ask()
    except SharedSyncError as error:
        return error
