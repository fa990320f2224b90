"""The keys of a stream and group, and the ids and names that are reserved in them.

For stream `S` and group `G` (all keys of one stream share its cluster slot):

    S                  stream   the messages; the last group that finishes one deletes its entry
    {S}:G:presence     zset     consumer name -> end of its lease, ms of the server's clock
    {S}:G:holders      hash     consumer name -> the process that has claimed it
    {S}:G:due          zset     parked message id -> time of its next attempt, ms
    {S}:G:history      hash     message id -> its failures so far, one JSON object a line
    {S}:G:dead         stream   dead letters: the original fields and `dead.*` metadata
    {S}:G:outage       zset     when the last heartbeat was, and after an outage until when nobody
                                is taken for dead, ms
    {S}:G:kept         hash     whether the group has read all entries up to its last one; and,
                                while there are other groups, up to where it had read then

The group's pending list is the truth: a message leaves it only by success or as a dead letter, in
one script with everything that belongs to it. The other keys are hints; losing them delays a
message and never loses it.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    outage: str
    kept: str

    @classmethod
    def of(cls, stream: str, group: str) -> Keys:
        """Return the keys. Raises `ConfigurationError` for names that cannot be used."""
        check_stream_name(stream)
        arguments.text("consumer_group", group)
        prefix = f"{_with_hash_tag(stream)}:{group}"
        return cls(
            stream=stream,
            group=group,
            presence=f"{prefix}:presence",
            holders=f"{prefix}:holders",
            due=f"{prefix}:due",
            history=f"{prefix}:history",
            dead=f"{prefix}:dead",
            outage=f"{prefix}:outage",
            kept=f"{prefix}:kept",
        )

    def all(self) -> tuple[str, ...]:
        """Return every key of the stream and this group."""
        return (
            self.stream,
            self.presence,
            self.holders,
            self.due,
            self.history,
            self.dead,
            self.outage,
            self.kept,
        )


def check_stream_name(stream: object) -> None:
    """Raise `ConfigurationError` for a name that is empty or would spread its keys over slots."""
    arguments.text("stream_name", stream)
    _with_hash_tag(str(stream))


def id_milliseconds(entry_id: str) -> int:
    """Return the wall-clock time inside an id, unless the publisher chose the id itself."""
    return int(entry_id.partition("-")[0])


def id_is_after(entry_id: str, other: str) -> bool:
    """Return whether an id is larger than another."""
    return _numbers(entry_id) > _numbers(other)


def _numbers(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)


def age_seconds(entry_id: str, now: float) -> float | None:
    """Return how long before `now` an entry was added, which its id says.

    `now` is the time of the server that gave the id, in seconds since 1970. None if the publisher
    chose the id itself and it is no time: one before there were streams, or one in the future. An
    id may be ahead by a second, because clocks are compared over the network.
    """
    added = int(entry_id.partition("-")[0]) / 1000
    if EARLIEST <= added <= now:
        return now - added
    return 0.0 if now < added <= now + LARGEST_CLOCK_ERROR_SECONDS else None


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
