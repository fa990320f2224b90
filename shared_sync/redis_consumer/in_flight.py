"""Which messages this process holds: fetched and not yet started, running, or being settled."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Final

from shared_sync.common.clock import StallTolerantClock
from shared_sync.protocol.commands import Entry, Read

LONGEST_STEP_SECONDS: Final = 3.0
"""What the age of a job grows by at most from one look to the next; the keeper looks every 2 s."""


@dataclass(frozen=True, slots=True)
class Running:
    """A message that a reader runs just now."""

    entry: Entry
    reader: str
    thread: int
    """The identifier of the reader's thread."""

    seconds: float
    """For how long, by a patient clock: a standstill of the whole process is a moment."""

    given_up: bool
    """It runs past its deadline, and this process has given it to others."""


@dataclass(frozen=True, slots=True)
class _Held:
    reader: str
    crashes: int
    left_by: Read | None


_NOT_HELD = _Held("", 0, None)


class InHand:
    """The messages of all readers of one consumer. Safe from any thread; never blocks long.

    A job grows older with each look at what runs, by no more than a little: one that was frozen
    together with its process, or beside a C extension that kept the interpreter, is not late for
    that. Whoever gives up on jobs has to look more often than `longest_step_seconds`.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        longest_step_seconds: float = LONGEST_STEP_SECONDS,
    ) -> None:
        # Guarded by the lock, which is re-entrant: a signal handler may ask what runs, or stop the
        # consumer, while its own thread is in here. So what is gone through is copied first.
        self._lock = threading.RLock()
        self._patient = StallTolerantClock(longest_step_seconds, clock)
        self._held: dict[str, _Held] = {}
        self._waiting: dict[str, deque[Entry]] = {}
        self._running: dict[str, tuple[Entry, int, float]] = {}
        self._given_up: set[str] = set()  # readers
        self._closed = False

    def admit(self, reader: str, entries: Iterable[Entry]) -> None:
        """Take entries in for a reader. One that is held already is left to its holder."""
        with self._lock:
            waiting = self._waiting.setdefault(reader, deque())
            for entry in entries:
                if entry.id not in self._held:
                    self._held[entry.id] = _Held(reader, entry.crashes, entry.left_by)
                    waiting.append(entry)

    def start_next(self, reader: str) -> Entry | None:
        """The reader's next entry, which runs from now on; None if it has none, or when closed."""
        with self._lock:
            waiting = self._waiting.get(reader)
            if not waiting or self._closed:
                return None
            entry = waiting.popleft()
            self._patient.advance()  # so that what passed before does not count
            self._running[reader] = (entry, threading.get_ident(), self._patient())
            return entry

    def has_waiting(self, reader: str) -> bool:
        """Whether the reader has entries that are not started."""
        with self._lock:
            return bool(self._waiting.get(reader))

    def stop_running(self, reader: str) -> None:
        """The reader's running message ended; it stays held until it is settled."""
        with self._lock:
            self._running.pop(reader, None)
            self._given_up.discard(reader)

    def release(self, ids: Iterable[str]) -> bool:
        """These are settled, or given up by this process. Whether one had crashes behind it."""
        with self._lock:
            held = [self._held.pop(message_id, _NOT_HELD) for message_id in ids]
        return any(message.crashes for message in held)

    def keep_only(self, reader: str, unsettled: Collection[str]) -> None:
        """Let go of what a reader holds that neither waits nor is unsettled; it runs nothing now.

        After an error of whatever kind in the middle of its work, such as a lack of memory.
        """
        with self._lock:
            kept = {entry.id for entry in self._waiting.get(reader, ())}.union(unsettled)
            for message_id, held in list(self._held.items()):
                if held.reader == reader and message_id not in kept:
                    del self._held[message_id]

    def close(self) -> None:
        """Let nothing start any more."""
        with self._lock:
            self._closed = True

    def withdraw(self, reader: str | None = None) -> list[str]:
        """Take what was not started away from a reader, or from all, and return the ids."""
        with self._lock:
            queues = [self._waiting.get(reader, deque())] if reader else [*self._waiting.values()]
            ids = [entry.id for queue in queues for entry in list(queue)]
            for queue in queues:
                queue.clear()
            for message_id in ids:
                self._held.pop(message_id, None)
            return ids

    def set_aside(self, reader: str) -> list[str]:
        """Like `withdraw()`, but they stay held until they are released: nobody here takes them."""
        with self._lock:
            waiting = self._waiting.pop(reader, deque())
            for entry in waiting:
                self._held[entry.id] = replace(self._held[entry.id], reader="")
            return [entry.id for entry in waiting]

    def ids(self) -> list[str]:
        with self._lock:
            return list(self._held)

    def startable_crashes(self, max_crashes: int) -> int:
        """Most crashes that a message may have behind it to be started beside what is held.

        One that has a single crash left before it is given up on runs beside no other suspect, so
        that its last chance is not taken by another's crash. Of at most 3 crashes: any may start
        when no suspect is held; those with up to 1 beside suspects with 1; none beside one with 2.
        """
        with self._lock:
            worst = max((message.crashes for message in self._held.values()), default=0)
        if worst == 0:
            return max_crashes
        return max_crashes - 2 if worst < max_crashes - 1 else 0

    def reads_run_again(self) -> set[Read]:
        """Reads of dead consumers from which a message is held, as it may have killed one."""
        with self._lock:
            return {
                message.left_by
                for message in self._held.values()
                if message.crashes and message.left_by is not None
            }

    def running(self) -> list[Running]:
        with self._lock:
            return self._running_now()

    def give_up(self, deadline_seconds: float) -> list[Running]:
        """Those that run longer, each told once. They stay held, so that others take them."""
        with self._lock:
            late = [
                job
                for job in self._running_now()
                if job.seconds >= deadline_seconds and not job.given_up
            ]
            self._given_up.update(job.reader for job in late)
            return late

    def _running_now(self) -> list[Running]:
        self._patient.advance()
        now = self._patient()
        return [
            Running(entry, reader, thread, now - since, reader in self._given_up)
            for reader, (entry, thread, since) in list(self._running.items())
        ]
