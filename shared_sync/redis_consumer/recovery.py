"""Recovery: taking over messages that nobody works on, in bounded steps, one reader at a time."""

from __future__ import annotations

import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final, NamedTuple

from shared_sync.common import backoff
from shared_sync.common.guarded import Logger, Recorder
from shared_sync.connection.scripts import Command
from shared_sync.protocol.commands import GroupCommands
from shared_sync.protocol.keys import PARKED
from shared_sync.protocol.messages import Entry, LostEntry
from shared_sync.protocol.scan import (
    START,
    Found,
    Position,
    Predecessor,
    ScanRequest,
    parse_found,
)
from shared_sync.redis_consumer import crashes
from shared_sync.redis_consumer.in_flight import InFlight
from shared_sync.redis_consumer.lost_replies import LostReplies

INTERVAL_SECONDS = 1.0
"""How often a process looks for messages to take over, if nothing else calls for it."""

SPACING_SECONDS: Final = 0.02
"""At least so much lies between two turns that fall due, so that many retries come together."""

BUSY_SECONDS: Final = 0.00125
"""The same while messages of dead consumers are left, so that new messages are read as well."""

FRUITLESS_SECONDS: Final = 0.02
"""The same after a step that found nothing where there is more to look at; doubled each time."""

WAKE_TOLERANCE_SECONDS: Final = 0.01
"""By how much a reader may wake after the turn that it waits for."""

SCAN_WAIT_SECONDS: Final = 0.05
"""How long an idle reader waits at most while a sibling scans: there may be work for several."""

MOST_FOREIGN: Final = 50
"""Names of consumers that one step is asked about."""

NEVER_MS: Final = 2**53
"""An idle time that no message reaches, and that Lua represents exactly."""

Exchange = Callable[[Command], Any]


class Recovered(NamedTuple):
    """What a step of recovery has brought."""

    entries: Sequence[Entry]
    """Messages that are this consumer's now."""
    given_up: Sequence[LostEntry]
    """This consumer's messages whose replies are lost each time, to become dead letters."""
    marks: Sequence[bytes] | None
    """The ids of cancelled messages; None if they are not known."""


class Recovery:
    """Gives the readers of one pool turns at recovery. Safe from any thread; never blocks long."""

    def __init__(
        self,
        *,
        commands: GroupCommands,
        in_flight: InFlight,
        own_idle_seconds: float,
        foreign_idle_seconds: float,
        max_crashes: int,
        recorder: Recorder,
        logger: Logger,
        on_taken_over: Callable[[Iterable[bytes]], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`on_taken_over` is called with the consumers that left messages, for each one once."""
        # Fixed after construction.
        self._commands = commands
        self._in_flight = in_flight
        self._own_idle_ms = round(own_idle_seconds * 1000)
        self._foreign_idle_ms = round(min(foreign_idle_seconds * 1000, NEVER_MS))
        self._max_crashes = max_crashes
        self._recorder = recorder
        self._logger = logger
        self._on_taken_over = on_taken_over
        self._clock = clock
        self._chance = chance
        # Set once, before the first turn.
        self._since_ms = 0
        self._predecessor = Predecessor.READ_SEVERAL
        # Guarded by the lock.
        self._lock = threading.Lock()
        self._next_turn = clock()
        self._is_due = False  # the next turn comes because something falls due
        self._last_turn = -math.inf
        self._next_whole_look = clock()
        self._waiter: object = None  # the reader that waits for the next turn
        self._wakes_at = math.inf  # and when it wakes
        self._is_searched = False  # a reader looks for suspects just now
        self._position = Position()
        self._fruitless_steps = 0
        self._left_behind_first = False
        self._foreign: deque[str] = deque()
        self._lost_replies = LostReplies()

    def name_claimed(self, since_ms: int, predecessor: Predecessor) -> None:
        """Note since when the name is claimed, by the server's clock, before the readers start.

        Messages that were delivered to the name before belonged to the predecessor.
        """
        self._since_ms = since_ms
        self._predecessor = predecessor

    def found_consumers(self, names: Iterable[str]) -> None:
        """Note the consumers that have pending messages; some of them perhaps have no lease."""
        others = [name for name in names if name not in (PARKED, self._commands.consumer)]
        with self._lock:
            known = [name for name in self._foreign if name in others]
            self._foreign = deque([*known, *(name for name in others if name not in known)])

    def heartbeat_broke(self) -> None:
        """Note that the connection of a heartbeat broke, so that no lost message is at fault."""
        with self._lock:
            self._lost_replies.others_break()

    # --- when ---

    def wait_seconds(self, reader: object, longest: float) -> float:
        """Return how long a reader with nothing to do may wait for a message, `longest` at most.

        When something falls due, all idle readers wake, as there may be work for each of them. For
        a turn that only comes with time one wakes. Call `woke()` afterwards.
        """
        with self._lock:
            now = self._clock()
            turn = max(self._next_turn, now)
            if self._is_searched:
                longest = min(longest, SCAN_WAIT_SECONDS)
            if now + longest <= turn:
                return longest
            if not self._is_due:
                if self._wakes_at <= turn + WAKE_TOLERANCE_SECONDS:
                    return longest
                self._waiter, self._wakes_at = reader, turn
            return turn - now

    def woke(self, reader: object) -> None:
        """Note that a reader waits no more, for whatever reason."""
        with self._lock:
            if self._waiter is reader:
                self._waiter, self._wakes_at = None, math.inf

    def take_turn(self) -> bool:
        """Return True to the one reader that is to recover now."""
        with self._lock:
            now = self._clock()
            if now < self._next_turn:
                return False
            self._last_turn = now
            self._next_turn = now + INTERVAL_SECONDS * (1.0 + 0.5 * self._chance())
            self._is_due = False
            return True

    def due_in(self, seconds: float) -> None:
        """Note that there will be something to take over after so many seconds."""
        with self._lock:
            earliest = self._last_turn + SPACING_SECONDS
            self._come_by(max(self._clock() + seconds, earliest))

    def _go_on_in(self, seconds: float) -> None:
        """Have the next turn after so many seconds, because there is more to visit."""
        with self._lock:
            self._come_by(self._clock() + seconds)

    def _come_by(self, moment: float) -> None:
        if moment < self._next_turn:
            self._next_turn = moment
            self._is_due = True

    # --- what ---

    @contextmanager
    def scan(self, exchange: Exchange, *, most: int) -> Iterator[Recovered]:
        """Take over messages; they must stand in the reader's slot when the block ends.

        `exchange` sends a command and returns its reply; what it raises comes through. `most`
        limits how many messages without a crash are taken. While the block lasts, no other reader
        looks for suspects (rule 5 of `crashes.py`).
        """
        is_searching = self._begin_search()
        try:
            request = self._request(is_searching, most)
            found = parse_found(exchange(self._commands.recover(request)), request)
            given_up = self._note(request, found)
            yield Recovered(found.entries, given_up, found.marks)
        finally:
            if is_searching:
                self._is_searched = False

    def _begin_search(self) -> bool:
        """Return whether this reader is the one that looks for suspects now."""
        with self._lock:
            if self._is_searched:
                return False
            self._is_searched = True
            return True

    def _request(self, is_searching: bool, most: int) -> ScanRequest:
        with self._lock:
            now = self._clock()
            is_whole = now >= self._next_whole_look
            if is_whole:
                self._next_whole_look = now + INTERVAL_SECONDS
            self._left_behind_first = not self._left_behind_first
            position, left_behind_first = self._position, self._left_behind_first
            again = self._lost_replies.next() if is_searching else ""
            foreign = tuple(islice(self._foreign, MOST_FOREIGN))
        # A message that a reply is still bringing is not lost. Asked before the ids of what is in
        # flight, as those which have come are among these.
        fetching_ms = max(0, round(self._in_flight.longest_fetch_seconds(now) * 1000))
        running = self._in_flight.suspects()
        startable = crashes.startable_crashes(running, self._max_crashes) if is_searching else 0
        looks_at_foreign = is_searching and (is_whole or position.foreign_from != START)
        return ScanRequest(
            own_idle_ms=self._own_idle_ms + fetching_ms,
            since_ms=self._since_ms,
            foreign_idle_ms=self._foreign_idle_ms,
            predecessor=self._predecessor,
            max_crashes=self._max_crashes,
            startable_crashes=startable,
            most=most,
            apart=crashes.reads_to_keep_apart(running),
            in_flight=tuple(self._in_flight.ids(self._commands.keys)),
            foreign=foreign if looks_at_foreign else (),
            position=position,
            again=again,
            has_worked=self._in_flight.successes > 0,
            looks_at_own=is_whole or position.own_from != START,
            looks_at_dead=is_searching and (is_whole or startable > 0),
            due_comes_last=is_searching and left_behind_first,
        )

    def _note(self, request: ScanRequest, found: Found) -> list[LostEntry]:
        """Decide when the next turn comes, and report what was taken over.

        Returns the messages to give up on.
        """
        with self._lock:
            if request.again:
                for entry in found.entries:
                    self._lost_replies.arrived(entry.id)
            given_up = self._lost_replies.named(found.lost)
        left_behind = [entry for entry in found.entries if entry.left_by is not None]
        self._go_on_from(request, found)
        if left_behind or found.lost:
            self._go_on_in(BUSY_SECONDS)
        elif found.more:
            took = found.entries or found.lost_bodies
            self._go_on_in(0.0 if took else self._fruitless_pause())
        if found.next_due_seconds is not None:
            self.due_in(found.next_due_seconds)
        if found.lost_bodies:
            self._recorder.increment_counter("lost_bodies", found.lost_bodies)
            self._logger.warning(
                "%d pending messages ended: their entries were deleted from the stream by others",
                found.lost_bodies,
            )
        if left_behind:
            self._recorder.increment_counter("jobs_recovered", len(left_behind))
            self._on_taken_over(one.left_by.consumer for one in left_behind if one.left_by)
        for entry in left_behind:
            self._logger.info(
                "message %s taken over from a consumer that left it (delivery %d)",
                entry.id,
                entry.deliveries,
            )
        return given_up

    def _go_on_from(self, request: ScanRequest, found: Found) -> None:
        with self._lock:
            if found.entries or found.lost_bodies:
                self._fruitless_steps = 0
            if request.looks_at_dead:
                self._position = found.position
                for name in request.foreign[: found.foreign_done]:
                    if self._foreign and self._foreign[0] == name:
                        self._foreign.rotate(-1)

    def _fruitless_pause(self) -> float:
        with self._lock:
            self._fruitless_steps += 1
            return backoff.exponential(
                self._fruitless_steps,
                base_seconds=FRUITLESS_SECONDS,
                max_seconds=INTERVAL_SECONDS,
                jitter=0.0,
            )
