"""When to look for messages that nobody works on, and what was found."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

from shared_sync.common.guarded import Logger, Recorder
from shared_sync.connection.scripts import Command
from shared_sync.protocol import commands as stream_commands
from shared_sync.protocol.commands import Entry, GroupCommands
from shared_sync.protocol.process_identity import Holder
from shared_sync.redis_consumer.in_flight import InHand

INTERVAL_SECONDS = 1.0


class Recoverer:
    """Gives the readers of one process turns at recovery, one a second. Safe from any thread."""

    def __init__(
        self,
        *,
        commands: GroupCommands,
        in_hand: InHand,
        own_idle_seconds: float,
        max_crashes: int,
        recorder: Recorder,
        logger: Logger,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._commands = commands
        self._in_hand = in_hand
        self._own_idle_seconds = own_idle_seconds
        self._max_crashes = max_crashes
        self._recorder = recorder
        self._logger = logger
        self._clock = clock
        self._chance = chance
        # Set once, before the first turn.
        self._since_ms = 0
        self._predecessor_read_singly = False
        # Guarded by the lock.
        self._lock = threading.Lock()
        self._next_turn = clock()
        self._finds_suspects = ""  # the reader that looks for them just now

    def name_taken(self, since_ms: int, predecessor: Holder | None) -> None:
        """The name is held since then, by the server's clock; call it before the readers start.

        What the name was given before, an earlier process had: the predecessor, as far as known.
        """
        self._since_ms = since_ms
        self._predecessor_read_singly = predecessor is not None and predecessor.prefetch == 1

    def seconds_to_turn(self) -> float:
        """How long a reader may block before recovery is due again."""
        with self._lock:
            return max(0.0, self._next_turn - self._clock())

    def take_turn(self) -> bool:
        """True for the one reader that is to recover now."""
        with self._lock:
            now = self._clock()
            if now < self._next_turn:
                return False
            self._next_turn = now + INTERVAL_SECONDS * (1.0 - 0.25 * self._chance())
            return True

    def due_in(self, seconds: float) -> None:
        """There will be something to take over in so long; the next turn comes no later."""
        with self._lock:
            self._next_turn = min(self._next_turn, self._clock() + seconds)

    def command(self, reader: str) -> Command:
        """Look for a message to take over; call `looked()` when what was found is in hand.

        A turn may come before what the turn before it found is known here, as when its reply takes
        long. Which messages may run beside that one is not known either, so this looks only for
        those that may run beside any: none that has a crash behind it.
        """
        with self._lock:
            self._finds_suspects = self._finds_suspects or reader
            finds_suspects = self._finds_suspects == reader
        startable = self._in_hand.startable_crashes(self._max_crashes) if finds_suspects else 0
        return self._commands.recover(
            own_idle_ms=round(self._own_idle_seconds * 1000),
            since_ms=self._since_ms,
            predecessor_read_singly=self._predecessor_read_singly,
            max_crashes=self._max_crashes,
            startable_crashes=startable,
            apart=self._in_hand.reads_run_again(),
            held=self._in_hand.ids(),
        )

    def looked(self, reader: str) -> None:
        """What the reader found is in hand, or it has given up looking. Harmless without a look."""
        with self._lock:
            if self._finds_suspects == reader:
                self._finds_suspects = ""

    def found(self, reply: Any) -> list[Entry]:
        """The message that was taken over, if any; there may be more, so call `due_in(0)` then."""
        recovered = stream_commands.parse_recovered(reply)
        if recovered.lost_bodies:
            self.due_in(0)
            self._recorder.increment_counter("lost_bodies", recovered.lost_bodies)
            self._logger.warning(
                "%d pending messages ended: their entries were deleted from the stream by others",
                recovered.lost_bodies,
            )
        if recovered.entry is None:
            if recovered.next_due_seconds is not None:
                self.due_in(recovered.next_due_seconds)
            return []
        if recovered.entry.left_by is not None:
            self._recorder.increment_counter("jobs_recovered")
            self._logger.info(
                "message %s taken over from a consumer that left it (delivery %d)",
                recovered.entry.id,
                recovered.entry.deliveries,
            )
        return [recovered.entry]
