"""The messages that this process has fetched and not settled, in the slots of all readers."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from shared_sync.protocol.messages import Entry
from shared_sync.redis_consumer import crashes
from shared_sync.redis_consumer.slot import Slot

STEAL_AFTER_SECONDS: Final = 0.02
"""How long a reader runs a job before idle siblings take what waits behind it."""

Ids = Callable[[], Collection[str]]


class InFlight:
    """The slots of one pool. Any thread may call any method; none blocks long.

    The lock serialises those who take messages away from a reader, and whoever lists what is in
    flight, so that a message on its way from one slot to another is always seen. A reader that
    works on its own slot needs no lock. The lock is re-entrant: a signal handler may stop the
    consumer while its own thread is in here.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        # Fixed before the pool starts.
        self._slots: list[Slot] = []
        self._unsettled: list[Ids] = []
        # Written under the lock; read without it.
        self.is_closed = False
        """Whether nothing starts any more."""
        # Written by any reader, each time as a whole.
        self.newest_id = (0, 0)
        """The newest id that a read has brought; perhaps a moment old."""

    def add(self, slot: Slot, unsettled: Ids) -> None:
        """Let a slot take part, and the outbox of its reader, before the pool starts."""
        self._slots.append(slot)
        self._unsettled.append(unsettled)

    def add_outbox(self, unsettled: Ids) -> None:
        """Let an outbox take part that belongs to no reader, before the pool starts."""
        self._unsettled.append(unsettled)

    @property
    def slots(self) -> Sequence[Slot]:
        """The slots of all readers."""
        return self._slots

    # --- for readers ---

    def admit_read(
        self, slot: Slot, entries: Sequence[Entry], newest_before: tuple[int, int]
    ) -> None:
        """Put what a read has brought into its reader's slot.

        `newest_before` is what `newest_id` was before the read was sent: a message that is not
        newer was delivered anew, because its group was lost, and may still be in flight here.
        """
        if not entries:
            return
        if _number(entries[0].id) <= newest_before:
            self.admit(slot, entries)
        else:
            slot.waiting.extend(entries)
        self.newest_id = max(self.newest_id, _number(entries[-1].id))

    def admit(self, slot: Slot, entries: Iterable[Entry]) -> None:
        """Put messages into a slot, except those that are in flight here already."""
        with self._lock:
            known = self.ids()
            slot.waiting.extend(entry for entry in entries if entry.id not in known)

    def take_from_sibling(self, slot: Slot, now: float) -> bool:
        """Move messages that wait behind a sibling's long job into an idle reader's slot.

        Takes half of them, the newest. Returns whether any message still waits in a sibling's slot,
        or was taken: its job may become a long one.
        """
        with self._lock:
            behind = [sibling for sibling in self._slots if sibling.waiting and sibling is not slot]
            for sibling in behind:
                attempt = sibling.attempt
                if attempt is None or now - attempt.started_at < STEAL_AFTER_SECONDS:
                    continue
                taken = _take_from_right(sibling, math.ceil(len(sibling.waiting) / 2))
                if taken:
                    slot.waiting.extend(taken)
                    break
        return bool(behind)

    # --- for recovery ---

    def ids(self) -> set[str]:
        """Return the ids of all messages that are in flight here."""
        with self._lock:
            known: set[str] = set()
            for slot in self._slots:
                known.update(entry.id for entry in slot.waiting.copy())
                attempt = slot.attempt
                if attempt is not None:
                    known.update(entry.id for entry in attempt.entries)
            for ids in self._unsettled:
                known.update(ids())
            return known

    def suspects(self) -> list[Entry]:
        """Return the messages in the readers' slots that have a crash behind them."""
        with self._lock:
            found: list[Entry] = []
            for slot in self._slots:
                found += crashes.suspects(slot.waiting.copy())
                attempt = slot.attempt
                if attempt is not None:
                    found += crashes.suspects(attempt.entries)
            return found

    # --- for stopping, and for jobs that take long ---

    def close(self) -> None:
        """Let nothing start any more."""
        with self._lock:
            self.is_closed = True

    def withdraw(
        self, *slots: Slot, into: Callable[[Sequence[str]], None] = lambda _: None
    ) -> list[str]:
        """Take what was not started away from readers, and return the ids.

        Without slots, from all of them. The caller is to hand these messages back. `into` is called
        with the ids while nobody can list what is in flight: an outbox that they are put into has
        them before they could be missed.
        """
        with self._lock:
            ids = [
                entry.id
                for slot in slots or self._slots
                for entry in _take_from_right(slot, len(slot.waiting))
            ]
            into(ids)
            return ids


def _take_from_right(slot: Slot, count: int) -> list[Entry]:
    """Take the newest waiting messages of a slot, in their order."""
    taken: list[Entry] = []
    try:
        for _ in range(count):
            taken.append(slot.waiting.pop())
    except IndexError:
        pass  # the reader was quicker
    taken.reverse()
    return taken


def _number(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)
