"""Events that a worker has noticed, until its next report takes them to Redis."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from shared_sync.common.fork import renew_lock_in_forks
from shared_sync.connection.scripts import Command
from shared_sync.protocol import worker_reports
from shared_sync.protocol.commands import GroupCommands
from shared_sync.protocol.events import event_items

MOST_WAITING: Final = 20
"""Events that wait for a report, which takes them all. While Redis is away, further ones are
dropped: they say no more than the first ones."""

TAKEN_OVER_SECONDS: Final = 60.0
"""Messages that are taken over within this time are one event. The first one does not wait."""

OUTAGE_MS: Final = 30_000
"""All workers notice the same outage; the event of the first one suffices."""


class WaitingEvent(NamedTuple):
    """An event on its way to Redis."""

    within_ms: int
    """The group needs only one of its kind within this time; 0 if it needs all."""
    items: Sequence[bytes]


class WorkerEvents:
    """Collects the events of one consumer. Any thread may call any method; none blocks."""

    def __init__(self, consumer: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        # Fixed after construction.
        self._consumer = consumer
        self._clock = clock
        # Guarded by the lock.
        self._lock = threading.RLock()
        renew_lock_in_forks(self)
        self._sent = 0
        self._waiting: list[WaitingEvent] = []
        self._taken_over: Counter[str] = Counter()
        self._taken_over_from = clock()  # when the next event about that may be made
        # Set by whoever finds the consumer broken.
        self.broken = ""
        """Why the consumer ends by itself, for everyone to read."""
        # Set by the heartbeat thread.
        self.has_reported = False
        """Whether Redis perhaps has a report of this consumer, so that others may notice its
        death."""

    def note(self, kind: str, text: str, *, within_ms: int = 0) -> None:
        """Note that something has happened."""
        items = event_items(kind, text, worker=self._consumer)
        with self._lock:
            if len(self._waiting) < MOST_WAITING:
                self._waiting.append(WaitingEvent(within_ms, items))

    def redis_returned(self, seconds: float) -> None:
        """Note that Redis answers again after an outage of this length."""
        text = f"worker {self._consumer} could not use Redis for {seconds:.1f} s; it answers again"
        self.note("redis_back", text, within_ms=OUTAGE_MS)

    def taken_over(self, consumers: Iterable[bytes]) -> None:
        """Note that messages were taken over: for each, the name of the consumer that left it."""
        with self._lock:
            self._taken_over.update(name.decode(errors="replace") for name in consumers)

    def waiting(self) -> tuple[int, Sequence[WaitingEvent]]:
        """Return the events that a report is to take to Redis, the oldest first.

        Also returns the number of the first one. They are numbered from 1 on, so that the server
        recognizes one that it has already, although its reply was lost.
        """
        with self._lock:
            if self._taken_over and self._clock() >= self._taken_over_from:
                self._taken_over_from = self._clock() + TAKEN_OVER_SECONDS
                taken_over, self._taken_over = self._taken_over, Counter()
                for name, messages in taken_over.most_common():
                    self.note("taken_over", self._text_about(name, messages))
            return self._sent + 1, tuple(self._waiting)

    def were_sent(self, events: int) -> None:
        """Note that so many of the waiting events are in Redis, the oldest ones."""
        with self._lock:
            del self._waiting[:events]
            self._sent += events

    def sign_off(self, commands: GroupCommands) -> Command | None:
        """Return the command that says that the consumer leaves; None if nobody would miss it."""
        if not self.has_reported:
            return None
        text = f"worker {self._consumer} left" + (f": {self.broken}" if self.broken else "")
        event = event_items("left", text, worker=self._consumer)
        return worker_reports.sign_off(commands.keys, self._consumer, commands.identity, event)

    def _text_about(self, name: str, messages: int) -> str:
        number = f"{messages} message{'s' * (messages != 1)}"
        if name == self._consumer:
            return f"worker {name} took over {number} from an earlier process of its name"
        return f"worker {self._consumer} took over {number} from {name}, which is gone"
