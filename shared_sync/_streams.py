"""Every key, every Redis command and every script; nothing else here imports redis.

What is in Redis for stream `S` and group `G` (keys of one stream share its cluster slot):

    S                  stream   the messages; deleted when the last group has finished them
    {S}:G:presence     zset     consumer name -> end of its lease, ms of the server's clock
    {S}:G:due          zset     parked message id -> time of its next attempt, ms
    {S}:G:history      hash     message id -> its failures so far, one JSON object a line
    {S}:G:dead         stream   dead letters: the original fields and `dead.*` metadata

The group's pending list is the truth: a message leaves it only by success or as a dead letter,
each in one script with all that belongs to it. The other keys are hints; losing them delays a
message and never loses it. Every script may be sent again after its reply was lost.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from typing import Any, Final, Protocol

import redis
from redis.backoff import NoBackoff
from redis.connection import Connection, parse_url
from redis.retry import Retry

from shared_sync import _check
from shared_sync.errors import (
    ConfigurationError,
    GroupMissing,
    RedisAccessDenied,
    RedisRefused,
    RedisUnavailable,
    SharedSyncError,
)

PARKED: Final = "~parked"
"""The reserved consumer name that holds messages waiting for their next attempt."""

CONNECT_TIMEOUT_SECONDS: Final = 5.0
REPLY_MARGIN_SECONDS: Final = 5.0
"""How much longer than a command may block its reply is waited for."""

SHORTEST_BLOCK_MS: Final = 10
LONGEST_GRACE_MS: Final = 5000

Command = tuple[Any, ...]


class RawConnection(Protocol):
    """What is used of the driver's connections."""

    def connect(self) -> None: ...
    def disconnect(self) -> None: ...
    def can_read(self, timeout: float) -> bool: ...
    def pack_commands(self, commands: Sequence[Command]) -> Any: ...
    def send_packed_command(self, command: Any, check_health: bool) -> None: ...
    def read_response(self) -> Any: ...


Connect = Callable[[], RawConnection]


# --- keys -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Keys:
    """The names of all keys of one stream and group."""

    stream: str
    group: str
    presence: str
    due: str
    history: str
    dead: str

    @classmethod
    def of(cls, stream: str, group: str) -> Keys:
        """Raises `ConfigurationError` for names that cannot be."""
        check_stream_name(stream)
        _check.text("consumer_group", group)
        prefix = f"{_with_hash_tag(stream)}:{group}"
        return cls(
            stream=stream,
            group=group,
            presence=f"{prefix}:presence",
            due=f"{prefix}:due",
            history=f"{prefix}:history",
            dead=f"{prefix}:dead",
        )

    def all(self) -> tuple[str, ...]:
        """Every key of the stream and this group."""
        return (self.stream, self.presence, self.due, self.history, self.dead)


def check_stream_name(stream: object) -> None:
    """Raises `ConfigurationError` for a name that is empty or would spread its keys over slots."""
    _check.text("stream_name", stream)
    _with_hash_tag(str(stream))


def _with_hash_tag(stream: str) -> str:
    opening = stream.find("{")
    if stream.find("}", opening) > opening + 1 > 0:
        return stream
    if "{" in stream or "}" in stream:
        raise ConfigurationError(
            f"stream_name {stream!r} has a brace but no hash tag; "
            "write a whole tag such as 'jobs:{eu}', or no braces"
        )
    return f"{{{stream}}}"


# --- scripts ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Script:
    """A Lua script and the digest under which the server knows it once it is loaded."""

    text: str
    digest: str


_SCRIPT_NAMES: Final = (
    "publish",
    "replay",
    "finish",
    "park",
    "bury",
    "hand_back",
    "recover",
    "beat",
    "leave",
)


@cache
def scripts() -> dict[str, Script]:
    """All scripts by name, read once from the package."""
    folder = files("shared_sync").joinpath("_lua")
    common = folder.joinpath("common.lua").read_text(encoding="utf-8")
    loaded = {}
    for name in _SCRIPT_NAMES:
        text = common + folder.joinpath(f"{name}.lua").read_text(encoding="utf-8")
        digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        loaded[name] = Script(text, digest)
    return loaded


def _script_call(name: str, keys: Sequence[str], *arguments: object) -> Command:
    return ("EVALSHA", scripts()[name].digest, len(keys), *keys, *arguments)


# --- connections ------------------------------------------------------------------------------


def connector(redis_url: str, *, reply_timeout_seconds: float) -> Connect:
    """A function that makes connections to `redis_url`, which is checked now; none is opened yet.

    The connections never retry by themselves: a command sent again behind our back would
    publish twice, or leave a batch pending.
    """
    try:
        options = _parse(redis_url)
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"redis_url cannot be used ({type(error).__name__}); "
            "write redis://host:port/db, rediss://host:port/db or unix:///path/to/socket, and "
            "percent-encode / ? # and @ in a password"
        ) from None
    connection_class = options.pop("connection_class", Connection)
    for pool_option in ("max_connections", "timeout"):
        options.pop(pool_option, None)
    options.update(
        socket_timeout=reply_timeout_seconds,
        socket_connect_timeout=min(CONNECT_TIMEOUT_SECONDS, reply_timeout_seconds),
        retry=Retry(NoBackoff(), 0),
        retry_on_timeout=False,
        health_check_interval=0,
        decode_responses=False,
        protocol=2,
    )
    if "path" in options:
        del options["socket_connect_timeout"]
    else:
        options["socket_keepalive"] = True
    connect = partial(connection_class, **options)
    try:
        connect()
    except Exception as error:  # noqa: BLE001 - each kind of connection refuses in its own way
        raise ConfigurationError(
            f"redis_url has an option that this kind of connection does not take: {error}"
        ) from None
    return connect


def _parse(redis_url: str) -> dict[str, Any]:
    """The driver's options; raises ValueError also where part of a password looks like a host."""
    _, _, rest = redis_url.partition("://")
    host_end = re.search(r"[/?#]", rest)
    if host_end and not redis_url.startswith("unix:") and "@" in rest[host_end.start() :]:
        raise ValueError
    options: dict[str, Any] = parse_url(redis_url)  # type: ignore[no-untyped-call]
    return options


def safe_address(redis_url: str) -> str:
    """Where the URL leads, for logs and errors; no user, password or query, however misplaced."""
    try:
        options = _parse(redis_url)
    except (ValueError, TypeError, AttributeError):
        return "an address that cannot be read"
    scheme = redis_url.partition("://")[0]
    if "path" in options:
        return f"{scheme}://{options['path']}"
    host = options.get("host", "localhost")
    if ":" in host:
        host = f"[{host}]"
    port = f":{options['port']}" if "port" in options else ""
    return f"{scheme}://{host}{port}/{options.get('db', 0)}"


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
    "NOPERM",
    "NOAUTH",
    "WRONGPASS",
    "OOM",
    "MISCONF",
)
# A script's error carries the code of the command that failed somewhere inside its text.
_CODE: Final = re.compile(rf"\b({'|'.join(_CODES)})\b")
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
    (redis.exceptions.MovedError, "MOVED"),
)
_TURNED_AWAY: Final = frozenset(
    {"READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MOVED"}
)
# The driver's timeout is not a kind of its connection error.
_BROKEN: Final = (redis.ConnectionError, redis.TimeoutError, OSError)
_DENIED: Final = frozenset({"NOPERM", "NOAUTH", "WRONGPASS"})


class _ScriptsForgotten(RedisUnavailable):
    """The server lost the scripts that this connection had loaded."""


def _code_of(error: Exception) -> str:
    for error_class, code in _CODE_OF_CLASS:
        if isinstance(error, error_class):
            return code
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


class Link:
    """One connection to Redis with all scripts loaded; used by one thread at a time.

    Only `interrupt()` may be called from another thread. A link connects when first used and
    again after it broke; it repeats nothing by itself.
    """

    def __init__(self, connect: Connect) -> None:
        # Fixed after construction.
        self._connection = connect()
        # Owned by the using thread.
        self._open = False
        self.connects = 0
        # Guarded by the lock.
        self._lock = threading.Lock()
        self._blocked = False
        self._interrupted = False

    def open(self) -> None:
        """Connect and load the scripts, if that is not done. Blocks up to the time limits."""
        if self._open:
            return
        try:
            self._connection.connect()
            self._open = True
            self._send([("SCRIPT", "LOAD", script.text) for script in scripts().values()])
            for _ in scripts():
                self.receive()
        except Exception as error:
            self.close()
            if isinstance(error, SharedSyncError):
                raise
            raise translate(error) from None
        self.connects += 1

    def close(self) -> None:
        """Close the connection. The link may be used again; it then connects anew."""
        self._open = False
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
        """Send commands in one write; `receive()` must then be called once for each."""
        self.open()
        self._send(commands)

    def _send(self, commands: Sequence[Command]) -> None:
        connection = self._connection
        try:
            connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        except Exception as error:  # noqa: BLE001 - translated, whatever it is
            self.close()
            raise translate(error) from None

    def receive(self) -> Any:
        """The next reply. A refusal raises and leaves the link in step; a break closes it."""
        try:
            return self._connection.read_response()
        except redis.ResponseError as error:
            translated = translate(error)
            if isinstance(translated, RedisUnavailable):
                self.close()
            raise translated from None
        except Exception as error:  # noqa: BLE001 - an interrupt breaks the driver in many ways
            self.close()
            raise translate(error) from None

    def call(self, *command: object) -> Any:
        """Send one command and return its reply."""
        try:
            self.send([command])
            return self.receive()
        except _ScriptsForgotten:
            # The command was not carried out, and connecting anew loads the scripts.
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


# --- the acts on a stream ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """A message as it was fetched: raw items, and how often it was delivered and failed before."""

    id: str
    items: list[bytes]
    deliveries: int = 1
    history: bytes = b""
    orphaned: bool = False
    """It was taken over from an owner that is dead or had lost it, not from the parked ones."""

    @property
    def failures(self) -> int:
        return self.history.count(b"\n")

    @property
    def crashes(self) -> int:
        """Deliveries that ended in neither success, failure nor hand back."""
        return max(0, self.deliveries - 1 - self.failures)


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes to those who wait for a message's result; empty parts go nowhere."""

    items: Sequence[bytes] = ()
    channel: str = ""
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class Finish:
    """The message is done."""

    id: str
    answer: Answer


@dataclass(frozen=True, slots=True)
class Park:
    """The message failed and is tried again after the delay."""

    id: str
    failure: str
    delay_ms: int


@dataclass(frozen=True, slots=True)
class Bury:
    """The message is given up on."""

    id: str
    failure: str
    metadata: Sequence[bytes]
    answer: Answer


Outcome = Finish | Park | Bury


@dataclass(frozen=True, slots=True)
class Recovered:
    """What one recovery found."""

    entry: Entry | None
    lost_bodies: int
    next_due_seconds: float | None


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """Figures of a stream and group; None where the server did not say."""

    backlog: int | None
    """Messages not finished: waiting, pending and parked."""
    pending: int
    """Delivered to a consumer and not acknowledged, the parked ones included."""
    parked: int
    dead: int | None

    @property
    def waiting(self) -> int | None:
        """Messages that nobody has read yet."""
        return None if self.backlog is None else max(0, self.backlog - self.pending)


@dataclass(frozen=True)
class GroupCommands:
    """The commands of one consumer in its group, ready to be sent over a `Link`."""

    keys: Keys
    consumer: str
    lease_ms: int
    result_stream: str | None = None

    def create_group(self) -> Command:
        """From id 0: what was published before the first worker came is worked off too."""
        return ("XGROUP", "CREATE", self.keys.stream, self.keys.group, "0", "MKSTREAM")

    def read(self, count: int, block_ms: int) -> Command:
        """The server may end a wait 100 ms late, so what would be a very short one is none."""
        group = ("GROUP", self.keys.group, self.consumer, "COUNT", count)
        wait = ("BLOCK", block_ms) if block_ms >= SHORTEST_BLOCK_MS else ()
        return ("XREADGROUP", *group, *wait, "STREAMS", self.keys.stream, ">")

    def outcomes(self, outcomes: Iterable[Outcome]) -> list[tuple[Command, list[Outcome]]]:
        """Commands that settle the outcomes, each with those it settles: all finishes in one."""
        finishes: list[Outcome] = []
        arguments: list[object] = []
        commands: list[tuple[Command, list[Outcome]]] = []
        for outcome in outcomes:
            if isinstance(outcome, Finish):
                finishes.append(outcome)
                arguments.append(outcome.id)
                arguments += self._answer(outcome.answer)
            elif isinstance(outcome, Park):
                commands.append((self._park(outcome), [outcome]))
            else:
                commands.append((self._bury(outcome), [outcome]))
        if finishes:
            keys = [self.keys.stream, self.keys.history, self.keys.due, *self._result_key()]
            command = _script_call("finish", keys, self.keys.group, *arguments)
            commands.insert(0, (command, finishes))
        return commands

    def _park(self, outcome: Park) -> Command:
        keys = [self.keys.stream, self.keys.history, self.keys.due]
        return _script_call(
            "park",
            keys,
            self.keys.group,
            self.consumer,
            outcome.id,
            outcome.failure,
            outcome.delay_ms,
        )

    def _bury(self, outcome: Bury) -> Command:
        keys = [self.keys.stream, self.keys.history, self.keys.due, self.keys.dead]
        return _script_call(
            "bury",
            [*keys, *self._result_key()],
            self.keys.group,
            self.consumer,
            outcome.id,
            outcome.failure,
            len(outcome.metadata),
            *outcome.metadata,
            *self._answer(outcome.answer),
        )

    def _answer(self, answer: Answer) -> list[object]:
        return [len(answer.items), *answer.items, answer.channel, answer.payload]

    def _result_key(self) -> list[str]:
        return [self.result_stream] if self.result_stream else []

    def hand_back(self, ids: Iterable[str]) -> Command:
        keys = [self.keys.stream, self.keys.history, self.keys.due]
        return _script_call("hand_back", keys, self.keys.group, self.consumer, *ids)

    def recover(
        self,
        *,
        own_idle_ms: int,
        age_ms: int,
        max_crashes: int,
        startable_crashes: int,
        held: Iterable[str],
    ) -> Command:
        keys = [self.keys.stream, self.keys.history, self.keys.due, self.keys.presence]
        return _script_call(
            "recover",
            keys,
            self.keys.group,
            self.consumer,
            self.lease_ms,
            self._grace_ms,
            own_idle_ms,
            age_ms,
            max_crashes,
            startable_crashes,
            *held,
        )

    @property
    def _grace_ms(self) -> int:
        """Long enough for every keeper to fail, pause, connect and beat."""
        return min(self.lease_ms // 2, LONGEST_GRACE_MS)

    def beat(self) -> Command:
        keys = [self.keys.stream, self.keys.due, self.keys.presence, self.keys.dead]
        return _script_call(
            "beat",
            keys,
            self.keys.group,
            self.consumer,
            self.lease_ms,
            self._grace_ms,
        )

    def leave(self) -> Command:
        keys = [self.keys.stream, self.keys.history, self.keys.due, self.keys.presence]
        return _script_call("leave", keys, self.keys.group, self.consumer)


def ensure_group(link: Link, commands: GroupCommands) -> bool:
    """Create the group, and the stream, unless they exist. True if they had to be created."""
    try:
        link.call(*commands.create_group())
    except RedisRefused as refusal:
        if "BUSYGROUP" in str(refusal):
            return False
        if refusal.code == "WRONGTYPE":
            raise ConfigurationError(
                f"the key {commands.keys.stream!r} holds something that is not a stream; "
                "choose another stream_name or remove that key"
            ) from None
        if refusal.code == "OOM" and _has_group(link, commands.keys):
            return False
        raise
    return True


def _has_group(link: Link, keys: Keys) -> bool:
    try:
        link.call("XPENDING", keys.stream, keys.group)
    except GroupMissing:
        return False
    return True


def check_is_stream(link: Link, key: str, argument: str) -> None:
    """Raise `ConfigurationError` if the key holds something that is not a stream."""
    try:
        link.call("XLEN", key)
    except RedisRefused as refusal:
        if refusal.code != "WRONGTYPE":
            raise
        raise ConfigurationError(
            f"the key {key!r} holds something that is not a stream; choose another {argument}"
        ) from None


def parse_read(reply: Any) -> list[Entry]:
    """The entries of an XREADGROUP reply; none if the wait ended without any."""
    if not reply:
        return []
    ((_, entries),) = reply
    return [Entry(entry_id.decode(), items) for entry_id, items in entries]


@dataclass(frozen=True, slots=True)
class Settled:
    """What the outcomes of one command came to."""

    results: Sequence[int]
    """One for each outcome, up to the first that was refused."""

    refusal: SharedSyncError | None = None
    """Why that was refused."""

    unpublished: SharedSyncError | None = None
    """Why a result channel was refused, which ends no message."""


def parse_outcomes(reply: Any) -> Settled:
    if isinstance(reply, int):
        return Settled([reply])
    results, refusal, unpublished = reply
    return Settled(results, _refusal(refusal), _refusal(unpublished))


def _refusal(text: bytes) -> SharedSyncError | None:
    return translate(redis.ResponseError(text.decode())) if text else None


def parse_recovered(reply: Any) -> Recovered:
    taken, lost_bodies, next_due_ms = reply
    entry = None
    if taken:
        entry_id, items, deliveries, history, orphaned = taken
        entry = Entry(entry_id.decode(), items, deliveries, history or b"", bool(orphaned))
    return Recovered(
        entry=entry,
        lost_bodies=lost_bodies,
        next_due_seconds=None if next_due_ms < 0 else next_due_ms / 1000,
    )


def parse_figures(reply: Any) -> QueueFigures:
    backlog, pending, parked, dead = (None if figure < 0 else figure for figure in reply)
    return QueueFigures(backlog=backlog, pending=pending or 0, parked=parked or 0, dead=dead)


@dataclass(frozen=True, slots=True)
class GroupSight:
    """A stream and group seen from outside, without taking part."""

    group_exists: bool
    consumers_alive: int
    figures: QueueFigures


def see_group(link: Link, keys: Keys | None) -> GroupSight | None:
    """Look at a stream and group in two round trips, or only ask whether the server is there."""
    (seconds, microseconds) = link.call("TIME")
    if keys is None:
        return None
    now_ms = int(seconds) * 1000 + int(microseconds) // 1000
    replies = link.call_all(
        ("XLEN", keys.stream),
        ("XLEN", keys.dead),
        ("ZCOUNT", keys.presence, now_ms, "+inf"),
        ("XPENDING", keys.stream, keys.group),
    )
    backlog, dead, alive, pending = replies
    for reply in replies:
        if isinstance(reply, RedisRefused) and not isinstance(reply, GroupMissing):
            raise reply
    if isinstance(pending, GroupMissing):
        return GroupSight(False, 0, QueueFigures(backlog, pending=0, parked=0, dead=dead))
    total, _, _, owners = pending
    parked = next((int(count) for name, count in owners or () if name == PARKED.encode()), 0)
    return GroupSight(True, alive, QueueFigures(backlog, total, parked, dead))


def publish(
    stream: str, messages: Iterable[Sequence[bytes]], max_queue_depth: int | None
) -> Command:
    """Add messages in order; the reply is for `parse_published()`."""
    arguments: list[object] = ["" if max_queue_depth is None else max_queue_depth]
    for items in messages:
        arguments.append(len(items))
        arguments += items
    return _script_call("publish", [stream], *arguments)


def parse_published(reply: Any) -> tuple[list[str], SharedSyncError | None]:
    """The ids of the accepted messages, and why the next one was refused, if it was."""
    ids, refusal = reply
    return [entry_id.decode() for entry_id in ids], _refusal(refusal)


def replay(keys: Keys, letter_id: str) -> Command:
    """Move a dead letter back to the stream; the reply is the new id, or None if it is gone."""
    return _script_call("replay", [keys.stream, keys.dead], letter_id)


def id_milliseconds(entry_id: str) -> int:
    """The wall-clock time inside an id, unless the publisher chose the id itself."""
    return int(entry_id.partition("-")[0])
