"""The consumers of a group: which of them live, and which are silent or dead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from shared_sync.protocol.commands import heartbeat_seconds
from shared_sync.protocol.group_reading import ConsumerReading, GroupReading

SILENT_HEARTBEATS: Final = 3
"""After so many heartbeats that did not come, a consumer is silent."""

SHORTEST_SILENCE_SECONDS: Final = 1.0


class ConsumerState(Enum):
    """How a consumer is, as far as Redis knows."""

    LIVE = "live"
    SILENT = "silent"
    """It has sent no heartbeat for some time, and its lease still runs."""
    DEAD = "dead"
    """Its lease has ended, and it has not left the group."""
    OTHER = "other"
    """It belongs to another program: it has neither a lease nor a claim."""


@dataclass(frozen=True, slots=True)
class Consumer:
    """A consumer at one moment."""

    name: str
    state: ConsumerState
    last_heartbeat_seconds: float | None
    """Time since its last heartbeat; None if it does not state the length of its lease."""
    lease_seconds_left: float | None
    """0 if its lease has ended, None without a lease."""
    pending: int
    oldest_pending_seconds: float | None
    has_paused: bool
    host: str | None
    pid: int | None

    @property
    def process(self) -> str:
        """Where it runs, in words, as far as that is known."""
        return f"process {self.pid} on {self.host}" if self.host else "its process"

    def to_json(self, *, group_is_paused: bool) -> dict[str, Any]:
        """Return it as a page and `--json` show it."""
        return {
            "name": self.name,
            "state": self.state.value,
            "alive": self.state is ConsumerState.LIVE,
            "last_heartbeat_seconds": self.last_heartbeat_seconds,
            "lease_seconds_left": self.lease_seconds_left,
            "pending": self.pending,
            "oldest_pending_seconds": self.oldest_pending_seconds,
            "paused": self.has_paused if group_is_paused else None,
            "host": self.host,
            "pid": self.pid,
        }


def consumers_of(reading: GroupReading) -> list[Consumer]:
    """Return the consumers of a reading: first those that live, then the silent and the dead."""
    found = [_consumer(one, reading.now_ms) for one in reading.consumers]
    order = list(ConsumerState)
    return sorted(found, key=lambda one: (order.index(one.state), one.name))


def of_state(consumers: Sequence[Consumer], state: ConsumerState) -> list[Consumer]:
    """Return the consumers of a state."""
    return [one for one in consumers if one.state is state]


def _consumer(found: ConsumerReading, now_ms: int) -> Consumer:
    identity, lease_end_ms = found.identity, found.lease_end_ms
    left = None if lease_end_ms is None else (lease_end_ms - now_ms) / 1000
    silence = None
    state = ConsumerState.LIVE
    if left is not None and identity is not None and identity.lease_ms > 0:
        lease_seconds = identity.lease_ms / 1000
        silence = max(0.0, lease_seconds - left)
        patience = SILENT_HEARTBEATS * heartbeat_seconds(lease_seconds)
        if silence > max(patience, SHORTEST_SILENCE_SECONDS):
            state = ConsumerState.SILENT
    if left is not None and left <= 0:
        state = ConsumerState.DEAD
    elif left is None and identity is None:
        state = ConsumerState.OTHER
    oldest = found.oldest_idle_ms
    return Consumer(
        name=found.name,
        state=state,
        last_heartbeat_seconds=None if silence is None else round(silence, 3),
        lease_seconds_left=None if left is None else round(max(0.0, left), 3),
        pending=found.pending,
        oldest_pending_seconds=None if oldest is None else oldest / 1000,
        has_paused=found.has_paused,
        host=identity.host if identity else None,
        pid=identity.pid if identity else None,
    )
