"""The keys of a stream and group, and the ids and names that are reserved in them.

For stream `S` and group `G` (all keys of one stream share its cluster slot):

    S                  stream   the messages; the last group that finishes one deletes its entry
    {S}:G:presence     zset     consumer name -> end of its lease, ms of the server's clock
    {S}:G:holders      hash     consumer name -> the process that has claimed it
    {S}:G:due          zset     parked message id -> time of its next attempt, ms
    {S}:G:history      hash     message id -> its failures so far, one JSON object a line
    {S}:G:dead         stream   dead letters: the original fields and `dead.*` metadata
    {S}:G:dead_index   zset     id of a dead letter and what a list shows of it, if that is large
    {S}:G:dead:replayed:<token>  string   the last dead letter that a caller has replayed, and the
                                          id of the message that it became
    {S}:G:outage       zset     when the last heartbeat was, and after an outage until when nobody
                                is taken for dead, ms
    {S}:G:kept         hash     whether the group has read all entries up to its last one; and,
                                while there are other groups, up to where it had read then
    {S}:G:progress     hash     message id -> its last progress as JSON, for the next attempt
    {S}:G:reports      hash     consumer name -> what its process last reported of itself, as JSON;
                                in fields that begin with `~` what concerns the whole group
    {S}:G:events       stream   what happened in the group, for those who operate it
    {S}:G:paused       hash     while the group is paused: who has paused it, when and why, as JSON;
                                and the consumers that have confirmed it

and for all groups of the stream together:

    {S}:cancelled           zset     id of a cancelled message -> when the mark expires, ms
    {S}:cancelled:forwarded zset     id of a job that was forwarded to another stream, and that the
                                     caller has cancelled -> when the mark expires, ms
    {S}:scheduled           zset     id of a scheduled job -> when it will be published, ms
    {S}:scheduled:messages  hash     id of a scheduled job -> its fields and values, packed
    {S}:replies:<token>     stream   results for one caller, which creates it
    {S}:published:<key>     string   the id of the message that was published with this
                                     deduplicate_key

The group's pending list is the truth: a message leaves it only by success or as a dead letter, in
one script with everything that belongs to it. The other keys are hints; losing them delays a
message and never loses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from shared_sync.common import arguments
from shared_sync.errors import ConfigurationError

EARLIEST: Final = 1_514_764_800.0
"""The beginning of 2018, in seconds since 1970: no server had streams before."""

LARGEST_CLOCK_ERROR_SECONDS: Final = 1.0

PARKED: Final = "~parked"
"""The reserved consumer name that owns messages waiting for their next attempt."""

NO_ID: Final = "0-0"
"""An id that no entry has."""

NEARLY_LAST_ID: Final = f"{2**64 - 1}-{2**64 - 2}"
"""One less than the largest id, which XREADGROUP takes for `>`."""


REPLIES: Final = ":replies:"
"""The part of the name of a reply stream that follows the name of the stream."""

_GROUP_KEYS: Final = frozenset(
    (
        *("presence", "holders", "due", "history", "dead", "dead_index", "outage", "kept"),
        *("progress", "reports", "events", "paused"),
    )
)
"""The last parts of the names of the keys of a group."""


@dataclass(frozen=True)
class StreamKeys:
    """The names of the keys that all groups of a stream share."""

    stream: str
    prefix: str
    """The stream's name with a hash tag, which is the prefix of its keys."""
    cancelled: str
    cancelled_forwarded: str
    scheduled: str
    scheduled_messages: str

    @classmethod
    def of(cls, stream: str) -> StreamKeys:
        """Return the keys. Raises `ConfigurationError` for a name that cannot be used."""
        check_stream_name(stream)
        prefix = _with_hash_tag(stream)
        return cls(
            stream=stream,
            prefix=prefix,
            cancelled=f"{prefix}:cancelled",
            cancelled_forwarded=_cancelled_forwarded(prefix),
            scheduled=f"{prefix}:scheduled",
            scheduled_messages=f"{prefix}:scheduled:messages",
        )

    def reply(self, token: str) -> str:
        """Return the reply stream with this token."""
        return f"{self.prefix}{REPLIES}{token}"

    def published(self, deduplicate_key: str) -> str:
        """Return the key with the id of the message that was published with this key."""
        return f"{self.prefix}:published:{deduplicate_key}"


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
    dead_index: str
    outage: str
    kept: str
    progress: str
    reports: str
    events: str
    paused: str
    cancelled: str
    scheduled: str
    scheduled_messages: str

    @classmethod
    def of(cls, stream: str, group: str) -> Keys:
        """Return the keys. Raises `ConfigurationError` for names that cannot be used."""
        shared = StreamKeys.of(stream)
        arguments.text("consumer_group", group)
        prefix = f"{shared.prefix}:{group}"
        return cls(
            stream=stream,
            group=group,
            presence=f"{prefix}:presence",
            holders=f"{prefix}:holders",
            due=f"{prefix}:due",
            history=f"{prefix}:history",
            dead=f"{prefix}:dead",
            dead_index=f"{prefix}:dead_index",
            outage=f"{prefix}:outage",
            kept=f"{prefix}:kept",
            progress=f"{prefix}:progress",
            reports=f"{prefix}:reports",
            events=f"{prefix}:events",
            paused=f"{prefix}:paused",
            cancelled=shared.cancelled,
            scheduled=shared.scheduled,
            scheduled_messages=shared.scheduled_messages,
        )

    def replayed(self, token: str) -> str:
        """Return the key of the dead letter that a call of `replay()` has replayed last."""
        return f"{self.dead}:replayed:{token}"

    def all(self) -> tuple[str, ...]:
        """Return every key of the stream and this group."""
        return (
            self.stream,
            *self.own(),
            self.cancelled,
            self.scheduled,
            self.scheduled_messages,
        )

    def own(self) -> tuple[str, ...]:
        """Return every key of the group alone."""
        return (
            self.presence,
            self.holders,
            self.due,
            self.history,
            self.dead,
            self.dead_index,
            self.outage,
            self.kept,
            self.progress,
            self.reports,
            self.events,
            self.paused,
        )


def _cancelled_forwarded(prefix: str) -> str:
    return f"{prefix}:cancelled:forwarded"


def cancelled_where_published(stream: str, reply_to: str) -> str:
    """Return the key with the cancelled forwarded jobs of another stream.

    That stream is the one whose reply stream a message of `stream` names; '' if that is its own,
    or if the message may not name it.
    """
    prefix = reply_to.rpartition(REPLIES)[0]
    if prefix in ("", _with_hash_tag(stream)) or not may_reply_to(stream, reply_to):
        return ""
    return _cancelled_forwarded(prefix)


def check_stream_name(stream: object) -> None:
    """Raise `ConfigurationError` for a name that is empty or would spread its keys over slots."""
    arguments.text("stream_name", stream)
    _with_hash_tag(str(stream))


def hash_tag(name: str) -> str:
    """Return the part of a key's name that decides about its slot in a cluster.

    Without a hash tag this is the whole name, as in the server.
    """
    opening = name.find("{")
    closing = name.find("}", opening)
    return name[opening + 1 : closing] if closing > opening + 1 > 0 else name


_LONGEST_CACHED: Final = 4096


def may_reply_to(stream: str, name: str) -> bool:
    """Return whether a message of the stream may name this key as `reply_to`.

    It must be a reply stream, of this stream or of another one with the same hash tag, and not a
    key of a group. Cached, because it is called several times for each message.
    """
    if len(name) > _LONGEST_CACHED:  # nor is it kept
        return _may_reply_to.__wrapped__(stream, name)
    return _may_reply_to(stream, name)


@lru_cache(maxsize=1000)
def _may_reply_to(stream: str, name: str) -> bool:
    tag = f"{{{hash_tag(stream)}}}"
    _, found, own = name.partition(tag)
    if not found or hash_tag(name) != hash_tag(stream):
        return False
    return REPLIES in own and own.rpartition(":")[2] not in ("", *_GROUP_KEYS)


def is_reserved(stream: str, name: str) -> bool:
    """Return whether this name is, or may be, that of the stream itself or of one of its keys.

    A result stream that a message names may not have such a name. Reply streams are allowed.
    """
    if name == stream:
        return True
    prefix = _with_hash_tag(stream) + ":"
    own = name.removeprefix(prefix)
    return name.startswith(prefix) and (
        own.rpartition(":")[2] in _GROUP_KEYS
        or own.partition(":")[0] in ("cancelled", "scheduled", "published")
    )


def id_milliseconds(entry_id: str) -> int:
    """Return the wall-clock time inside an id, unless the publisher chose the id itself."""
    return int(entry_id.partition("-")[0])


def id_is_after(entry_id: str, other: str) -> bool:
    """Return whether an id is larger than another."""
    return id_numbers(entry_id) > id_numbers(other)


def id_numbers(entry_id: str) -> tuple[int, int]:
    """Return the two numbers of an id, by which ids are ordered."""
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)


def age_seconds(entry_id: str, now: float) -> float | None:
    """Return how long before `now` an entry was added, which its id says.

    `now` is the time of the server that gave the id, in seconds since 1970. None if the publisher
    chose the id itself and it is no time: one before there were streams, or one in the future. An
    id may be ahead by a second, because clocks are compared over the network.
    """
    added = id_milliseconds(entry_id) / 1000
    if EARLIEST <= added <= now:
        return now - added
    return 0.0 if now < added <= now + LARGEST_CLOCK_ERROR_SECONDS else None


def expires_at(entry_id: str, now: float, *limits: float | None) -> float | None:
    """Return when the shortest of these limits ends, counted from the time in an id.

    Times are those of the server, in seconds since 1970. None if there is no limit, or if the
    publisher chose an id that is not a time; see `age_seconds()`.
    """
    known = [limit for limit in limits if limit is not None]
    if not known or age_seconds(entry_id, now) is None:
        return None
    return id_milliseconds(entry_id) / 1000 + min(known)


def _with_hash_tag(stream: str) -> str:
    if f"{{{hash_tag(stream)}}}" in stream:
        return stream
    if "{" in stream or "}" in stream:
        raise ConfigurationError(
            f"stream_name {stream!r} has a brace but no hash tag; "
            "write a whole tag such as 'jobs:{eu}', or no braces"
        )
    return f"{{{stream}}}"
