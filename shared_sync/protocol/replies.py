"""What the replies to a consumer's commands say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from shared_sync.connection import driver_errors
from shared_sync.errors import SharedSyncError
from shared_sync.protocol.keys import PARKED
from shared_sync.protocol.pause import Pause

REFUSED: Final = -2
"""The result of an outcome that Redis refused."""

DROPPED: Final = 2
"""The reply to an outcome that ended its message, while its result was dropped."""

_FINAL: Final = (
    "exhausted the last possible ID",
    "too large to be stored",
    "which never takes an entry",
)


def text_of(raw: bytes) -> str:
    """Return the text; bytes that are not UTF-8 are escaped."""
    return raw.decode(errors="backslashreplace")


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of the outcomes that one command settled."""

    results: Sequence[int]
    """One for each outcome: 1 if it ended or parked its message, 2 if its result was
    dropped as well, 0 if the message was no longer this consumer's, -1 if its body was gone, -2
    if it was refused."""
    refusals: Mapping[int, SharedSyncError] = field(default_factory=dict)
    """Why outcomes were refused, by their place among the results."""
    unpublished: SharedSyncError | None = None
    """Why a result was not published, although its message has ended."""


def parse_settled(reply: Any) -> Settled:
    """Return what a script that settles outcomes says."""
    results, refusal, unpublished = reply
    if isinstance(results, int):
        results = [1] * results
    refusals = {}
    if refusal:
        for place, result in enumerate(results):
            error = driver_errors.refusal(result) if isinstance(result, bytes) else None
            if error is not None:
                refusals[place], results[place] = error, REFUSED
    return Settled(results, refusals, driver_errors.refusal(unpublished))


@dataclass(frozen=True, slots=True)
class Reported:
    """What became of a report of progress."""

    is_sent: bool
    """Whether this call has sent the report."""
    is_owned: bool
    """Whether the message is still this consumer's, in the same delivery."""
    refusals: Sequence[SharedSyncError]
    """Why the stream or the channel refused it, although it is kept for the next attempt."""


def parse_reported(reply: Any) -> Reported:
    """Parse the reply of the script that sends progress."""
    outcome, *refused = reply
    refusals = [driver_errors.refusal(one) for one in refused]
    return Reported(outcome == 1, outcome != 0, [one for one in refusals if one is not None])


def is_final(refusal: SharedSyncError) -> bool:
    """Return whether the server will refuse the same entry at each try, as common.lua says."""
    return any(text in str(refusal) for text in _FINAL)


@dataclass(frozen=True, slots=True)
class Pending:
    """What is delivered to consumers and not acknowledged."""

    total: int = 0
    by_consumer: Mapping[str, int] = field(default_factory=dict)

    @property
    def parked(self) -> int:
        """How many messages wait for their next attempt."""
        return self.by_consumer.get(PARKED, 0)


def parse_pending(reply: Any) -> Pending:
    """Return what the summary of XPENDING says."""
    total, _, _, rows = reply
    counts = {name.decode(errors="replace"): int(count) for name, count in rows or ()}
    return Pending(total, counts)


@dataclass(frozen=True, slots=True)
class QueueMetrics:
    """The sizes of a stream and group; None where the server did not say."""

    backlog: int | None
    """Messages that are not finished: waiting, pending and parked."""
    pending: int
    """Delivered to a consumer and not acknowledged, the parked ones included."""
    parked: int
    dead: int | None

    @property
    def waiting(self) -> int | None:
        """Messages that nobody has read yet."""
        return None if self.backlog is None else max(0, self.backlog - self.pending)


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """What a heartbeat reports."""

    backlog: int | None
    dead: int | None
    due_times: int
    refusal: SharedSyncError | None
    """Why part of it was refused, such as a missing right."""
    ended_from: int
    """The rank at which the next heartbeat goes on looking for ended consumers."""
    restore_from: str
    """The parked id behind which to go on restoring due times; empty when that is done."""
    pending: Pending | None
    """What is pending; None if the group has so many consumers that it is to be asked apart."""
    now_ms: int
    """The server's time."""
    cancelled: int
    """The number of marks of cancelled messages."""
    next_scheduled_ms: int | None
    """Time until the next scheduled job, in ms; None if there is none."""
    progress: int
    """The number of messages of the group with stored progress."""
    scheduled: int
    """The number of scheduled jobs of the stream."""
    pause: Pause | None
    """Who has paused the group; None if nobody has."""


def parse_heartbeat(reply: Any) -> HeartbeatReply:
    """Return what the heartbeat script says."""
    backlog, dead, due_times, refusal, ended_from, restore_from, pending, now_ms, *jobs = reply
    cancelled, next_scheduled_ms, progress, scheduled, pause = jobs
    return HeartbeatReply(
        backlog=None if backlog < 0 else backlog,
        dead=None if dead < 0 else dead,
        due_times=due_times,
        refusal=driver_errors.refusal(refusal),
        ended_from=ended_from,
        restore_from=restore_from.decode(),
        pending=None if pending is None else parse_pending(pending),
        now_ms=now_ms,
        cancelled=cancelled,
        next_scheduled_ms=None if next_scheduled_ms < 0 else next_scheduled_ms,
        progress=progress,
        scheduled=scheduled,
        pause=Pause.parse(pause),
    )


def parse_marked(reply: Any) -> tuple[list[str], int]:
    """Return which ids are cancelled, and the rank at which to continue removing marks."""
    ids, rank = reply
    return [text_of(one) for one in ids], rank


@dataclass(frozen=True, slots=True)
class NameInUse:
    """Another process has a consumer's name."""

    identity: bytes
    now_ms: int
    lease_end_ms: int


@dataclass(frozen=True, slots=True)
class NameClaimed:
    """A consumer's name is the asking process's own."""

    before: bytes | None
    """Who had it: an earlier process, or the asking one already; empty if that is not known. None
    if neither a claim nor a lease of the name was on record, so that no process of this library
    had it."""
    since_ms: int
    """The server's time from which on it is claimed."""


def parse_claim(reply: Any) -> NameClaimed | NameInUse:
    """Return whether the name was claimed."""
    return NameClaimed(*reply) if len(reply) == 2 else NameInUse(*reply)
