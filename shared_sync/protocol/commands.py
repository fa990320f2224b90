"""Every key and every Redis command that is sent.

What is in Redis for stream `S` and group `G` (keys of one stream share its cluster slot):

    S                  stream   the messages; deleted when the last group has finished them
    {S}:G:presence     zset     consumer name -> end of its lease, ms of the server's clock
    {S}:G:holders      hash     consumer name -> the process that holds it
    {S}:G:due          zset     parked message id -> time of its next attempt, ms
    {S}:G:history      hash     message id -> its failures so far, one JSON object a line
    {S}:G:dead         stream   dead letters: the original fields and `dead.*` metadata

The group's pending list is the truth: a message leaves it only by success or as a dead letter,
each in one script with all that belongs to it. The other keys are hints; losing them delays a
message and never loses it. Every script may be sent again after its reply was lost.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Generic, TypeVar

from shared_sync.common import arguments as arguments_check
from shared_sync.connection import connection, scripts
from shared_sync.connection.connection import Connection
from shared_sync.connection.scripts import Command
from shared_sync.errors import (
    ConfigurationError,
    GroupMissing,
    RedisAccessDenied,
    RedisRefused,
    SharedSyncError,
)

PARKED: Final = "~parked"
"""The reserved consumer name that holds messages waiting for their next attempt."""

SHORTEST_BLOCK_MS: Final = 10
LONGEST_GRACE_MS: Final = 5000

NO_ID: Final = "0-0"
NEARLY_LAST_ID: Final = f"{2**64 - 1}-{2**64 - 2}"
"""One less than the largest, which XREADGROUP takes for `>`."""


# --- keys -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Keys:
    """The names of all keys of one stream and group."""

    stream: str
    group: str
    presence: str
    holders: str
    due: str
    history: str
    dead: str

    @classmethod
    def of(cls, stream: str, group: str) -> Keys:
        """Raises `ConfigurationError` for names that cannot be."""
        check_stream_name(stream)
        arguments_check.text("consumer_group", group)
        prefix = f"{_with_hash_tag(stream)}:{group}"
        return cls(
            stream=stream,
            group=group,
            presence=f"{prefix}:presence",
            holders=f"{prefix}:holders",
            due=f"{prefix}:due",
            history=f"{prefix}:history",
            dead=f"{prefix}:dead",
        )

    def all(self) -> tuple[str, ...]:
        """Every key of the stream and this group."""
        return (
            self.stream,
            self.presence,
            self.holders,
            self.due,
            self.history,
            self.dead,
        )


def check_stream_name(stream: object) -> None:
    """Raises `ConfigurationError` for a name that is empty or would spread its keys over slots."""
    arguments_check.text("stream_name", stream)
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


# --- the acts on a stream ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Read:
    """One read of a consumer, known by the time at which its messages were delivered."""

    consumer: bytes
    delivered_ms: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A message as it was fetched: raw items, and how often it was delivered and failed before."""

    id: str
    items: list[bytes]
    deliveries: int = 1
    history: bytes = b""
    left_by: Read | None = None
    """The read of an owner that is dead or had lost it; None if it was not left behind."""

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
    delivery: int
    """Which one failed: 1 for the first."""


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


@dataclass
class GroupCommands:
    """The commands of one consumer in its group, ready to be sent over a `Connection`.

    Shared by all threads of the consumer; what is learned when connecting is fixed before they
    start.
    """

    keys: Keys
    consumer: str
    lease_ms: int
    result_stream: str | None = None

    holder: str = ""
    """The process that this consumer is, as it stands in Redis; set before connecting."""

    has_xackdel: bool = False
    """Whether the server has this command of Redis 8.2, and the user may use it."""

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
            keys = [*self._common_keys(), *self._result_key()]
            fast = "1" if self.has_xackdel else ""
            command = scripts.call("finish", keys, self.keys.group, fast, *arguments)
            commands.insert(0, (command, finishes))
        return commands

    def _park(self, outcome: Park) -> Command:
        return scripts.call(
            "park",
            [*self._common_keys(), self.keys.holders],
            *self._who(),
            outcome.id,
            outcome.failure,
            outcome.delay_ms,
            outcome.delivery,
        )

    def _bury(self, outcome: Bury) -> Command:
        return scripts.call(
            "bury",
            [*self._common_keys(), self.keys.dead, self.keys.holders, *self._result_key()],
            *self._who(),
            outcome.id,
            outcome.failure,
            len(outcome.metadata),
            *outcome.metadata,
            *self._answer(outcome.answer),
        )

    def _answer(self, answer: Answer) -> list[object]:
        return [len(answer.items), *answer.items, answer.channel, answer.payload]

    def _common_keys(self) -> tuple[str, str, str]:
        return (self.keys.stream, self.keys.history, self.keys.due)

    def _result_key(self) -> list[str]:
        return [self.result_stream] if self.result_stream else []

    def _who(self) -> tuple[str, str, str]:
        return (self.keys.group, self.consumer, self.holder)

    def hand_back(self, ids: Iterable[str]) -> Command:
        keys = [*self._common_keys(), self.keys.holders]
        return scripts.call("hand_back", keys, *self._who(), *ids)

    def recover(
        self,
        *,
        own_idle_ms: int,
        since_ms: int,
        predecessor_read_singly: bool,
        max_crashes: int,
        startable_crashes: int,
        apart: Collection[Read],
        held: Iterable[str],
    ) -> Command:
        return scripts.call(
            "recover",
            [*self._common_keys(), self.keys.presence, self.keys.holders],
            *self._who(),
            self.lease_ms,
            self._grace_ms,
            own_idle_ms,
            since_ms,
            "1" if predecessor_read_singly else "",
            max_crashes,
            startable_crashes,
            len(apart),
            *(item for read in apart for item in (read.consumer, read.delivered_ms)),
            *held,
        )

    @property
    def _grace_ms(self) -> int:
        """Long enough for every keeper to fail, pause, connect and beat."""
        return min(self.lease_ms // 2, LONGEST_GRACE_MS)

    def beat(self) -> Command:
        keys = [self.keys.stream, self.keys.due, self.keys.presence, self.keys.dead]
        return scripts.call(
            "beat", [*keys, self.keys.holders], *self._who(), self.lease_ms, self._grace_ms
        )

    def hold(self, gone: bytes) -> Command:
        """Take the consumer's name; `gone` is a holder that is known to have ended, or empty."""
        keys = [self.keys.due, self.keys.presence, self.keys.holders]
        return scripts.call("hold", keys, self.consumer, self.holder, self.lease_ms, gone)

    def leave(self) -> Command:
        keys = [*self._common_keys(), self.keys.presence, self.keys.holders]
        return scripts.call("leave", keys, *self._who())


class Ensured(Enum):
    """How a group came to be there."""

    EXISTED = "existed"
    CREATED = "created"
    MAY_NOT_CREATE = "existed, and this user may not create it anew if it is lost"


def ensure_group(link: Connection, commands: GroupCommands) -> Ensured:
    """Create the group, and the stream, unless they exist."""
    try:
        link.call(*commands.create_group())
    except RedisRefused as refusal:
        if "BUSYGROUP" in str(refusal):
            return Ensured.EXISTED
        if refusal.code == "WRONGTYPE":
            raise ConfigurationError(
                f"the key {commands.keys.stream!r} holds something that is not a stream; "
                "choose another stream_name or remove that key"
            ) from None
        if refusal.code == "OOM" and _has_group(link, commands.keys):
            return Ensured.EXISTED
        raise
    except RedisAccessDenied:
        if _has_group(link, commands.keys):
            return Ensured.MAY_NOT_CREATE
        raise
    return Ensured.CREATED


def check_rights(link: Connection, commands: GroupCommands) -> None:
    """Raise `RedisAccessDenied`, which names it, for a right that is missing; changes nothing.

    Each command is about an id that cannot be. What is optional is not asked for.
    """
    keys, who = commands.keys, (commands.keys.group, commands.consumer)
    written = [keys.dead, *([commands.result_stream] if commands.result_stream else [])]
    link.call_all(
        ("XINFO", "GROUPS", keys.stream),
        ("XREADGROUP", "GROUP", *who, "STREAMS", keys.stream, NEARLY_LAST_ID),
        ("XCLAIM", keys.stream, *who, 0, NO_ID, "JUSTID"),
        ("XACK", keys.stream, keys.group, NO_ID),
        ("XDEL", keys.stream, NO_ID),
        ("XLEN", keys.stream),
        ("XPENDING", keys.stream, keys.group),
        ("HGET", keys.history, ""),
        ("HDEL", keys.history, ""),
        ("HLEN", keys.holders),
        ("HKEYS", keys.holders),
        ("ZADD", keys.due, "XX", 0, ""),
        ("ZREM", keys.due, ""),
        ("ZCARD", keys.due),
        ("ZSCORE", keys.presence, ""),
        ("ZRANGE", keys.presence, 0, 0),
        ("ZRANGEBYSCORE", keys.due, "(0", "0"),
        ("SCRIPT", "LOAD", scripts.scripts()["hold"].text),
        *(("XADD", key, NO_ID, "", "") for key in written),
    )


def _has_group(link: Connection, keys: Keys) -> bool:
    try:
        link.call("XPENDING", keys.stream, keys.group)
    except GroupMissing:
        return False
    return True


def check_is_stream(link: Connection, key: str, argument: str) -> None:
    """Raise `ConfigurationError` if the key holds something that is not a stream."""
    try:
        link.call("XLEN", key)
    except RedisRefused as refusal:
        if refusal.code != "WRONGTYPE":
            raise
        raise ConfigurationError(
            f"the key {key!r} holds something that is not a stream; choose another {argument}"
        ) from None


def learn_abilities(link: Connection, commands: GroupCommands) -> None:
    """Try what is optional, on an id that cannot be; one that is missing or not allowed is off."""
    keys = commands.keys
    try:
        link.call("XACKDEL", keys.stream, keys.group, "ACKED", "IDS", 1, NO_ID)
    except (RedisRefused, RedisAccessDenied):
        commands.has_xackdel = False
    else:
        commands.has_xackdel = True


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
    return Settled(results, connection.refusal(refusal), connection.refusal(unpublished))


def parse_recovered(reply: Any) -> Recovered:
    taken, lost_bodies, next_due_ms = reply
    entry = None
    if taken:
        entry_id, items, deliveries, history, *left_by = taken
        read = Read(*left_by) if left_by else None
        entry = Entry(entry_id.decode(), items, deliveries, history or b"", read)
    return Recovered(
        entry=entry,
        lost_bodies=lost_bodies,
        next_due_seconds=None if next_due_ms < 0 else next_due_ms / 1000,
    )


@dataclass(frozen=True, slots=True)
class Beat:
    """What a beat found."""

    figures: QueueFigures
    refusal: SharedSyncError | None
    """Why part of the tidying up or of the figures was refused, such as a right that is missing."""


def parse_beat(reply: Any) -> Beat:
    *counts, refusal = reply
    backlog, pending, parked, dead = (None if count < 0 else count for count in counts)
    figures = QueueFigures(backlog=backlog, pending=pending or 0, parked=parked or 0, dead=dead)
    return Beat(figures, connection.refusal(refusal))


@dataclass(frozen=True, slots=True)
class NameHeld:
    """Another holder has a consumer's name."""

    holder: bytes
    now_ms: int
    lease_end_ms: int


@dataclass(frozen=True, slots=True)
class NameTaken:
    """A consumer's name is the asker's."""

    before: bytes
    """Who had it: an earlier process, or the asker already; empty where nobody is known."""

    since_ms: int
    """The server's time from which it holds the name."""


def parse_hold(reply: Any) -> NameTaken | NameHeld:
    return NameTaken(*reply) if len(reply) == 2 else NameHeld(*reply)


@dataclass(frozen=True, slots=True)
class GroupSight:
    """A stream and group seen from outside, without taking part."""

    group_exists: bool
    consumers_alive: int
    figures: QueueFigures


def see_group(link: Connection, keys: Keys | None) -> GroupSight | None:
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


def entries(keys: Keys) -> Command:
    """Count what was ever added to the stream; the reply is for `parse_entries()`.

    Needs +xinfo|stream, and a stream that is there.
    """
    return scripts.call("entries", [keys.stream])


def parse_entries(reply: Any) -> tuple[int | None, int]:
    """How many entries were ever added, None where the server does not count, and how many are."""
    added, length = reply
    return (None if added < 0 else added), length


# --- what a page shows of a group -------------------------------------------------------------

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ConsumerSeen:
    """A consumer of the group, or one that announced itself and has read nothing yet."""

    name: bytes
    lease_end_ms: int | None
    """None for one that never announced itself."""

    pending: int
    idle_ms: int | None
    holder: bytes


@dataclass(frozen=True, slots=True)
class ParkedSeen:
    """A message that waits for its next attempt."""

    id: str
    due_ms: int
    failures: int | None
    last_failure: bytes
    """A line of JSON, or nothing."""


@dataclass(frozen=True, slots=True)
class LetterSeen:
    """A dead letter without the message; its texts are those that are in it, cut."""

    id: str
    message_id: bytes
    reason: bytes
    error_type: bytes
    error: bytes
    attempts: bytes


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest dead letters in one piece, newest first, and how many there are in all."""

    letters: tuple[LetterSeen, ...] = ()
    total: int = 0


@dataclass(frozen=True, slots=True)
class Listed(Generic[T]):
    """The first rows of a table, and how many there are in all."""

    rows: Sequence[T]
    total: int


@dataclass(frozen=True, slots=True)
class GroupTables:
    """What a page shows of a group; in place of a table may stand why it was refused."""

    now_ms: int
    consumers: Listed[ConsumerSeen] | SharedSyncError
    parked: Listed[ParkedSeen] | SharedSyncError
    letters: Newest | SharedSyncError


def view(
    keys: Keys, *, most_consumers: int, most_parked: int, most_letters: int, known: Newest
) -> Command:
    """Look at a group, in one round trip; the reply is for `parse_view()`.

    `known` are the letters of the look before: what is known of them is not read again.
    """
    ends = (known.letters[0].id, known.letters[-1].id) if known.letters else (NO_ID, NO_ID)
    return scripts.call(
        "view",
        [keys.stream, keys.presence, keys.holders, keys.due, keys.history, keys.dead],
        keys.group,
        most_consumers,
        most_parked,
        most_letters,
        len(known.letters),
        *ends,
        known.total,
    )


def parse_view(reply: Any, *, most_letters: int, known: Newest) -> GroupTables:
    now_ms, consumers, parked, letters = reply
    return GroupTables(
        now_ms,
        _refused(consumers) or _listed(consumers, _parse_consumer),
        _refused(parked) or _listed(parked, _parse_parked),
        _refused(letters) or _parse_newest(letters, known, most_letters),
    )


def _refused(table: Any) -> SharedSyncError | None:
    return connection.refusal(table) if isinstance(table, bytes) else None


def _listed(table: Any, parse: Callable[..., T]) -> Listed[T]:
    total, *rows = table
    return Listed([parse(*row) for row in rows], total)


def _parse_consumer(
    name: bytes, lease_end_ms: int, pending: int, idle_ms: int, holder: bytes
) -> ConsumerSeen:
    return ConsumerSeen(
        name,
        None if lease_end_ms < 0 else lease_end_ms,
        pending,
        None if idle_ms < 0 else idle_ms,
        holder,
    )


def _parse_parked(
    message_id: bytes, due_ms: bytes, failures: int, last_failure: bytes
) -> ParkedSeen:
    known = None if failures < 0 else failures
    return ParkedSeen(message_id.decode(), int(float(due_ms)), known, last_failure)


def _parse_newest(table: Any, known: Newest, most: int) -> Newest:
    total, fresh, kept, older = table
    letters = (*map(_parse_letter, fresh), *(known.letters if kept else ()))
    return Newest((*letters, *map(_parse_letter, older))[:most], total)


def _parse_letter(row: Sequence[bytes]) -> LetterSeen:
    letter_id, *facts = row
    return LetterSeen(letter_id.decode(), *facts)


# --- publishing and replaying -----------------------------------------------------------------


def publish(
    stream: str, messages: Iterable[Sequence[bytes]], max_queue_depth: int | None
) -> Command:
    """Add messages in order; the reply is for `parse_published()`."""
    arguments: list[object] = ["" if max_queue_depth is None else max_queue_depth]
    for items in messages:
        arguments.append(len(items))
        arguments += items
    return scripts.call("publish", [stream], *arguments)


def parse_published(reply: Any) -> tuple[list[str], SharedSyncError | None]:
    """The ids of the accepted messages, and why the next one was refused, if it was."""
    ids, refusal = reply
    return [entry_id.decode() for entry_id in ids], connection.refusal(refusal)


def replay(keys: Keys, letter_id: str) -> Command:
    """Move a dead letter back to the stream; the reply is the new id, or None if it is gone."""
    return scripts.call("replay", [keys.stream, keys.dead], letter_id)


def id_milliseconds(entry_id: str) -> int:
    """The wall-clock time inside an id, unless the publisher chose the id itself."""
    return int(entry_id.partition("-")[0])
