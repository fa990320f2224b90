"""What the model knows of a message and of a process.

Messages are numbered as they were published and time is counted in ticks, so the model knows no
ids, keys or clocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

TICK_MS = 3_600_000
"""So long that the time which an example really takes does not count."""

LEASE = 12
GRACE = LEASE // 2
OWN_IDLE = 4
"""After so long the reply to a read is not on its way any more."""
MAX_CRASHES = 2


class NoGroup(Exception):
    """The group was destroyed, and the command must fail for that."""


class Place(Enum):
    """Where a message is for one group: in exactly one of these."""

    UNREAD = "unread"
    PENDING = "pending"
    PARKED = "parked"
    FINISHED = "finished"
    DEAD = "dead"
    LOST = "lost"
    """Ended without an outcome, because others deleted its entry or the group."""
    DROPPED = "dropped"
    """Removed from the pending list together with its consumer, which others deleted."""


NEEDED = frozenset({Place.UNREAD, Place.PENDING, Place.PARKED})
DELIVERED = frozenset({Place.PENDING, Place.PARKED})


@dataclass(eq=False)
class Process:
    """One process of a consumer's name, which several may have one after another."""

    name: str
    born: int
    in_flight: dict[int, int] = field(default_factory=dict)
    """Its messages, each with the delivery at which it came."""
    dead: bool = False
    frozen: bool = False
    silent: bool = False
    """It was frozen, and has sent no heartbeat since."""
    draining: bool = False
    left: bool = False

    @property
    def sends_heartbeats(self) -> bool:
        """Whether it sends heartbeats as time passes."""
        return not (self.dead or self.frozen or self.left)


@dataclass(frozen=True)
class Ending:
    """How a message ends whose entries go to several streams, or which has not run."""

    number: int
    status: str
    outputs: int
    """How many entries it has emitted."""
    caller: str
    """Who gets its result: a caller that "waits" or is "gone", or '' for nobody in particular."""


@dataclass
class Message:
    """A message for one group."""

    place: Place = Place.UNREAD
    owner: str = ""
    deliveries: int = 0
    crashes: int = 0
    failures: int = 0
    """Those that were recorded, though the history may be lost."""
    uncounted: int = 0
    """Deliveries that another library took the message away from."""
    delivered_at: int = 0
    received_by: Process | None = None
    """The process that got the last delivery, unless that reply was lost."""
    begun_anew: int = 0
    """Times the group was destroyed and created again, which begins or loses every message."""
    left_over: int = 0
    """Times it was settled again after its end: the entry was left over, since another group that
    needed it was destroyed."""
