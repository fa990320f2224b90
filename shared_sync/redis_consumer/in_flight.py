"""The messages that this process has fetched and not settled, in the slots of all readers."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Final

from shared_sync.common.fork import renew_lock_in_forks
from shared_sync.protocol.keys import Keys, id_numbers
from shared_sync.protocol.messages import Entry
from shared_sync.redis_consumer import crashes
from shared_sync.redis_consumer.slot import Attempt, Slot

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
        renew_lock_in_forks(self)
        # Fixed before the pool starts.
        self._slots: list[Slot] = []
        self._outboxes: list[tuple[Keys, Ids, Ids]] = []
        # Written by any reader, each time as a whole.
        self._newest: dict[Keys, tuple[int, int]] = {}

    def add_slot(self, slot: Slot) -> None:
        """Let a slot take part, before the pool starts."""
        self._slots.append(slot)

    def add_outbox(self, source: Keys, ids: Ids, returning: Ids = lambda: ()) -> None:
        """Let an outbox take part, which settles messages of this stream and group.

        `returning` are those of its messages that anyone may take once they are settled.
        """
        self._outboxes.append((source, ids, returning))

    @property
    def slots(self) -> Sequence[Slot]:
        """The slots of all readers."""
        return self._slots

    @property
    def successes(self) -> int:
        """How many attempts have ended in success. May be wrong by some for a moment."""
        return sum(slot.successes for slot in self._slots)

    # --- for readers ---

    def newest(self, source: Keys) -> tuple[int, int]:
        """Return the newest id that a read of a stream has brought; perhaps a moment old."""
        return self._newest.get(source, (0, 0))

    def admit_read(
        self,
        slot: Slot,
        source: Keys,
        entries: Sequence[Entry],
        newest_before: tuple[int, int],
        into: Callable[[Sequence[str]], None] = lambda _: None,
    ) -> None:
        """Put what a read has brought into its reader's slot, behind what waits there.

        `newest_before` is what `newest()` was before the read was sent: a message that is not newer
        was delivered anew, because its group was lost, and may still be in flight here. `into` is
        as for `admit()`.
        """
        if not entries:
            return
        if id_numbers(entries[0].id) <= newest_before:
            self.admit(slot, source, entries, into)
        else:
            slot.source = source
            slot.waiting.extend(entries)
        self._newest[source] = max(self.newest(source), id_numbers(entries[-1].id))

    def admit(
        self,
        slot: Slot,
        source: Keys,
        entries: Sequence[Entry],
        into: Callable[[Sequence[str]], None] = lambda _: None,
    ) -> None:
        """Put messages into a slot, except those in flight here already.

        `into` is called with the ids of those that an outbox is giving back: the server has given
        them back by now, or will. As that may happen twice after a lost reply, nobody starts them
        before it is known; they are to be handed back again.
        """
        with self._lock:
            returning = {
                one for of, _, returning in self._outboxes if of == source for one in returning()
            }
            known = self.ids(source)
            slot.source = source
            slot.waiting.extend(entry for entry in entries if entry.id not in known)
            into([entry.id for entry in entries if entry.id in known & returning])

    def start_batch(
        self, slot: Slot, count: int, now: float, *, again: bool = False
    ) -> Attempt | None:
        """Begin an attempt of the first messages that wait in a slot, at most so many."""
        with self._lock:
            return slot.start_several(count, now, again=again)

    def put_back(self, slot: Slot, entries: Sequence[Entry]) -> None:
        """Let the messages of an attempt wait again, before all others; the attempt has ended."""
        with self._lock:
            slot.waiting.extendleft(reversed(entries))
            slot.end_attempt()

    def take_from_sibling(self, slot: Slot, now: float) -> bool:
        """Move messages that wait behind a sibling's long job into an idle reader's slot.

        Takes half of them, the newest. Returns whether any message still waits in a sibling's slot,
        or was taken: its job may become a long one.
        """
        with self._lock:
            behind = [
                sibling
                for sibling in self._slots
                if sibling.waiting and sibling is not slot and not sibling.holds_parts
            ]
            for sibling in behind:
                attempt = sibling.attempt
                if attempt is None or now - attempt.started_at < STEAL_AFTER_SECONDS:
                    continue
                taken = _take_from_right(sibling, math.ceil(len(sibling.waiting) / 2))
                if taken:
                    slot.source = sibling.source
                    slot.waiting.extend(taken)
                    break
        return bool(behind)

    # --- for recovery ---

    def longest_fetch_seconds(self, now: float) -> float:
        """Return how long a reader has been fetching messages, the one that began first; 0 if none.

        Until its reply has come as a whole, which may take long where messages are large, what it
        brings is in no slot.
        """
        since = [slot.fetches_since for slot in self._slots]
        return max((now - one for one in since if one is not None), default=0.0)

    def ids(self, source: Keys) -> set[str]:
        """Return the ids of the messages of a stream and group that are in flight here."""
        with self._lock:
            known: set[str] = set()
            for slot in self._slots:
                if slot.source == source:
                    known.update(entry.id for entry in slot.waiting.copy())
                    attempt = slot.attempt
                    if attempt is not None:
                        known.update(entry.id for entry in attempt.entries)
            for of, ids, _ in self._outboxes:
                if of == source:
                    known.update(ids())
            return known

    def suspects(self) -> list[Entry]:
        """Return the messages that have a crash behind them and are not settled."""
        with self._lock:
            found: list[Entry] = []
            for slot in self._slots:
                found += crashes.suspects(slot.waiting.copy())
                attempt = slot.attempt
                if attempt is not None:
                    found += crashes.suspects(attempt.entries)
                found += slot.unsettled_suspects.copy()
            return found

    # --- for stopping, pauses, and jobs that take long ---

    def abandon(self) -> None:
        """In a forked process: forget what waits, as all that is in flight is the other's."""
        for slot in self._slots:
            slot.waiting.clear()

    def withdraw(
        self, source: Keys, *slots: Slot, into: Callable[[Sequence[str]], None] = lambda _: None
    ) -> list[str]:
        """Take messages of a stream and group that were not started away from readers.

        From all of them, if none is named. Returns the ids; the caller is to hand them back. `into`
        is called with the ids while nobody can list what is in flight: an outbox that they are put
        into has them before they could be missed.
        """
        with self._lock:
            ids = [
                entry.id
                for slot in slots or self._slots
                if slot.source == source
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
