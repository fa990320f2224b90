"""What the process that shows the page remembers of a group for an hour."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from shared_sync.protocol.events import BACK, GONE, Event
from shared_sync.protocol.gone_consumers import KEPT_MS, MOST_KEPT
from shared_sync.protocol.group_tables import ConsumerRow
from shared_sync.protocol.keys import id_numbers
from shared_sync.protocol.process_identity import ProcessIdentity
from shared_sync.protocol.replies import text_of

STEP_MS: Final = 10_000
"""Time between two counts of the workers that live; a group is read at least so often."""

MOST_COUNTS: Final = KEPT_MS // STEP_MS
MOST_EVENTS: Final = 300


@dataclass(frozen=True, slots=True)
class Vanished:
    """A worker that has died."""

    name: str
    at_ms: int
    """When its lease ended, or when others noticed it."""
    host: str = ""
    pid: int = 0
    release: str = ""
    pending: int | None = None
    """How many messages it had."""
    message_ids: Sequence[str] = ()
    """Some of those that it ran."""


class GroupMemory:
    """Counts of the workers that live, events, and workers that died. Safe from any thread."""

    def __init__(self) -> None:
        # Guarded by the lock.
        self._lock = threading.Lock()
        self._counts: deque[int | None] = deque(maxlen=MOST_COUNTS)
        self._step = 0
        """The number of the last count: the time of the server, in steps."""
        self._events: dict[str, Event] = {}
        self._newest_event = ""
        self._gone: Sequence[ConsumerRow] = ()

    @property
    def newest_event(self) -> str:
        """The id of the newest event that was noted last; '' for none."""
        return self._newest_event

    def note(
        self, now_ms: int, *, alive: int, events: Sequence[Event], gone: Sequence[ConsumerRow]
    ) -> None:
        """Note what the group was like at this time of the server.

        `events` are the newest ones, newest first, if there are new ones; `gone` are consumers
        that died within the last hour.
        """
        with self._lock:
            self._count(now_ms // STEP_MS, alive)
            self._gone = gone
            if events:
                self._newest_event = events[0].id
                known = self._events | {event.id: event for event in events}
                newest = sorted(known.values(), key=_place, reverse=True)[:MOST_EVENTS]
                self._events = {event.id: event for event in newest}

    def _count(self, step: int, alive: int) -> None:
        missed = step - self._step - 1
        if not 0 <= missed < MOST_COUNTS:
            if step == self._step and self._counts:
                self._counts[-1] = alive
                return
            self._counts.clear()  # the first one, or the clock was set back or far ahead
            missed = 0
        self._counts += [*[None] * missed, alive]
        self._step = step

    def alive(self) -> dict[str, Any]:
        """Return how many workers lived at each step of the last hour, for the page."""
        with self._lock:
            return {
                "end": self._step * STEP_MS / 1000,
                "step_seconds": STEP_MS / 1000,
                "counts": list(self._counts),
            }

    def events(self) -> list[Event]:
        """Return the events, the newest first."""
        with self._lock:
            return list(self._events.values())

    def vanished(self) -> list[Vanished]:
        """Return the workers that died within the hour before the last note, the newest first.

        One that was only frozen, and is back since, has not died.
        """
        with self._lock:
            now_ms, gone = (self._step + 1) * STEP_MS, self._gone
            known = sorted(self._events.values(), key=_place)
        back = {one.worker: _place(one) for one in known if one.kind == BACK}
        events = [
            one for one in known if one.kind == GONE and _place(one) > back.get(one.worker, ())
        ]
        pending = {text_of(row.name): row.pending for row in gone}
        found = [_of_event(event, pending.get(event.worker)) for event in events]
        names = {one.name for one in found}
        found += [_of_row(row) for row in gone if text_of(row.name) not in names]
        recent = [one for one in found if now_ms - one.at_ms < KEPT_MS]
        recent.sort(key=lambda one: one.at_ms, reverse=True)
        return recent[:MOST_KEPT]


def _place(event: Event) -> tuple[int, ...]:
    return id_numbers(event.id)


def _of_event(event: Event, pending: int | None) -> Vanished:
    died = event.died
    if died is None:
        return Vanished(event.worker, event.at_ms, pending=pending)
    return Vanished(
        event.worker,
        event.at_ms,
        host=died.host,
        pid=died.pid,
        release=died.release,
        pending=died.running if pending is None else max(pending, died.running),
        message_ids=died.message_ids,
    )


def _of_row(row: ConsumerRow) -> Vanished:
    identity = ProcessIdentity.parse(text_of(row.identity))
    return Vanished(
        text_of(row.name),
        row.lease_end_ms or 0,
        host=identity.host if identity else "",
        pid=identity.pid if identity else 0,
        pending=row.pending,
    )
