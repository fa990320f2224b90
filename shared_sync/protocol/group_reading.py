"""Reading how a group is, in one round trip: its sizes, its consumers, and whether it is paused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from shared_sync.connection import scripts
from shared_sync.connection.connection import Connection
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.pause import Pause
from shared_sync.protocol.process_identity import ProcessIdentity
from shared_sync.protocol.replies import QueueMetrics, text_of

MOST_CONSUMERS: Final = 200


@dataclass(frozen=True, slots=True)
class ConsumerReading:
    """A consumer that has a lease or has messages pending."""

    name: str
    lease_end_ms: int | None
    """None for one without a lease."""
    identity: ProcessIdentity | None
    """The process that has claimed the name; None if none has, or if its text is not known."""
    pending: int
    oldest_idle_ms: int | None
    """Time since its oldest pending message was delivered; None if none is pending."""
    has_paused: bool
    """Whether it has confirmed that it takes no messages, because the group is paused."""


@dataclass(frozen=True, slots=True)
class GroupReading:
    """A stream and group at one moment, by the server's clock. What is not known is None."""

    now_ms: int
    group_exists: bool
    entries: int
    """Entries in the stream."""
    dead: int | None
    pending: int
    """Delivered and not acknowledged, the parked ones included."""
    parked: int
    groups: int
    """How many groups the stream has; 0 if this one does not exist."""
    unread: int | None
    """Entries that the group has not read, as the server counts. None before Redis 7.0, and
    wherever the server does not know."""
    next_due_ms: int | None
    """When the first parked message is due; None if none is parked."""
    scheduled: int | None
    next_scheduled_ms: int | None
    pause: Pause | None
    leases: int
    """Consumers whose lease runs."""
    consumers_total: int
    consumers: Sequence[ConsumerReading]
    """Those of other programs first, then the others in the order in which their leases end."""

    @property
    def waiting(self) -> int:
        """Messages that the group has not read.

        Where several groups share the stream, entries that this one has finished are still there;
        and a group that was created behind entries never reads those. Otherwise the server's count
        of unread entries is not needed, and wrong if unread ones were deleted.
        """
        most, unread = max(0, self.entries - self.pending), self.unread
        return most if unread is None or (self.groups < 2 and unread > 0) else min(most, unread)

    @property
    def queue(self) -> QueueMetrics:
        """The sizes as workers report them."""
        return QueueMetrics(self.entries, self.pending, self.parked, self.dead)


def read(connection: Connection, keys: Keys) -> GroupReading:
    """Return a reading. One round trip; raises what the connection raises."""
    names = (keys.stream, keys.dead, keys.presence, keys.holders, keys.due, keys.scheduled)
    command = scripts.call("status", [*names, keys.paused], keys.group, MOST_CONSUMERS)
    return parse(connection.call(*command))


def parse(reply: Any) -> GroupReading:
    """Return what the script says."""
    now_ms, exists, entries, dead, pending, parked, groups, unread, next_due, *more = reply
    scheduled, next_scheduled, pause, leases, total, consumers = more
    return GroupReading(
        now_ms=now_ms,
        group_exists=exists == 1,
        entries=entries,
        dead=_known(dead),
        pending=pending,
        parked=parked,
        groups=groups,
        unread=_known(unread),
        next_due_ms=_known(next_due),
        scheduled=_known(scheduled),
        next_scheduled_ms=_known(next_scheduled),
        pause=Pause.parse(pause),
        leases=leases,
        consumers_total=total,
        consumers=[_consumer(*row) for row in consumers],
    )


def _consumer(
    name: bytes, lease_end: int, identity: bytes, pending: int, oldest: int, has_paused: int
) -> ConsumerReading:
    return ConsumerReading(
        name=text_of(name),
        lease_end_ms=_known(lease_end),
        identity=ProcessIdentity.parse(text_of(identity)),
        pending=pending,
        oldest_idle_ms=_known(oldest),
        has_paused=has_paused == 1,
    )


def _known(number: int) -> int | None:
    return None if number < 0 else number
