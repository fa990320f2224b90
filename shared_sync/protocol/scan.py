"""What one step of recovery asks for, and what it found."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from shared_sync.protocol.messages import Entry, LostEntry, Read, ResumableEntry

START: Final = "-"
"""Where the pending messages of a consumer begin."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far the walk through all places has come; the next step goes on there."""

    due_rank: int = 0
    own_from: str = START
    dead_rank: int = 0
    dead_from: str = START
    foreign_from: str = START


class Predecessor(Enum):
    """What is known of the process that had the name before."""

    READ_SEVERAL = ""
    """It may have read several messages at a time. Assumed if nothing is known of it."""
    READ_SINGLY = "1"
    FOREIGN = "foreign"
    """Another program: no process of this library is on record."""


@dataclass(frozen=True, slots=True)
class ScanRequest:
    """One step of recovery. What may be taken is explained in `redis_consumer/crashes.py`."""

    own_idle_ms: int
    """After how long a message of this consumer that no reader has counts as left behind."""
    since_ms: int
    """When this process claimed its name, by the server's clock."""
    foreign_idle_ms: int
    """After how long an idle message of another program is taken over."""
    predecessor: Predecessor
    max_crashes: int
    startable_crashes: int
    most: int
    """Most messages without a crash behind them to take; a message with one comes alone."""
    apart: Collection[Read]
    """Reads of dead consumers of which nothing more may be taken for now."""
    in_flight: Sequence[str]
    """The ids of the messages that this process has."""
    foreign: Sequence[str] = ()
    """Names of consumers that perhaps have no lease, such as those of other programs."""
    position: Position = Position()
    again: str = ""
    """The id of a message that was lost with a reply, to be taken again."""
    has_worked: bool = True
    """Whether this process has finished any message."""
    looks_at_own: bool = True
    looks_at_dead: bool = True
    due_comes_last: bool = False

    def arguments(self) -> tuple[object, ...]:
        """Return the arguments of the script, behind those that tell who asks."""
        position = self.position
        return (
            self.own_idle_ms,
            self.since_ms,
            self.predecessor.value,
            self.max_crashes,
            self.startable_crashes,
            self.most,
            position.due_rank,
            position.own_from if self.looks_at_own else "",
            position.dead_rank if self.looks_at_dead else -1,
            position.dead_from,
            position.foreign_from,
            "1" if self.due_comes_last else "",
            self.foreign_idle_ms,
            self.again,
            "1" if self.has_worked else "",
            len(self.foreign),
            *self.foreign,
            len(self.apart),
            *(item for read in self.apart for item in read),
            *self.in_flight,
        )


@dataclass(frozen=True, slots=True)
class Found:
    """What one step of recovery found."""

    entries: Sequence[Entry]
    """Messages that are this consumer's now: several without a crash, or one with crashes."""
    lost_bodies: int
    """Pending messages that ended, because others had deleted their entries."""
    next_due_seconds: float | None
    """When the next parked message is due; None if that is not known, or there is none."""
    position: Position
    foreign_done: int
    """How many of the foreign consumers need no further look for now."""
    more: bool
    """Whether a next step may find more at once."""
    lost: Sequence[LostEntry]
    """This consumer's messages that were lost with a reply, and can be asked for again."""
    marks: Sequence[bytes] | None
    """The ids of cancelled messages, if any entry was found; None if they are not known."""


def parse_found(reply: Any, request: ScanRequest) -> Found:
    """Return what the reply to a scan says."""
    taken, lost_bodies, next_due_ms, *walk, foreign_done, more, lost, resumable, marks = reply
    due_rank, own_from, dead_rank, dead_from, foreign_from = walk
    before = request.position
    progress_of = dict(zip(resumable[::2], resumable[1::2], strict=True))
    return Found(
        entries=[_parse_entry(progress_of.get(row[0]), *row) for row in taken],
        lost_bodies=lost_bodies,
        next_due_seconds=None if next_due_ms < 0 else next_due_ms / 1000,
        position=Position(
            due_rank=due_rank,
            own_from=own_from.decode() if request.looks_at_own else before.own_from,
            dead_rank=dead_rank if request.looks_at_dead else before.dead_rank,
            dead_from=dead_from.decode(),
            foreign_from=foreign_from.decode(),
        ),
        foreign_done=foreign_done,
        more=bool(more),
        lost=[LostEntry(one.decode(), count, notes or b"", at) for one, count, notes, at in lost],
        marks=marks,
    )


def _parse_entry(
    progress: bytes | None,
    entry_id: bytes,
    items: list[bytes],
    deliveries: int,
    history: bytes | None,
    *left_by: Any,
) -> Entry:
    read = Read(*left_by) if left_by else None
    entry = Entry(entry_id.decode(), items, deliveries, history or b"", read)
    return entry if progress is None else ResumableEntry(entry, progress)
