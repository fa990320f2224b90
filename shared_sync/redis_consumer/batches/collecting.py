"""Collecting the messages of a batch: until it is full, or until its first message has waited."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from shared_sync.batching import Batching
from shared_sync.message import Fields
from shared_sync.protocol.messages import Entry
from shared_sync.redis_consumer.batches.plan import Planner
from shared_sync.redis_consumer.faults.pauses import Pauses
from shared_sync.redis_consumer.in_flight import InFlight
from shared_sync.redis_consumer.slot import Attempt, Slot

POLLS_PER_WAIT: Final = 10
LONGEST_PAUSE_SECONDS: Final = 0.02
"""How often a reader that waits for more messages looks for some.

It does not let the server wait: that may end a wait up to 100 ms late.
"""

Read = Callable[[int], None]
"""Reads up to so many messages that are there into the slot."""


class Begun(NamedTuple):
    """An attempt of messages that were collected."""

    attempt: Attempt
    error: BaseException | None
    """What `size` has raised for its only message, which then must not run."""


class Collector:
    """Collects the batches of one reader in its slot. All methods belong to the reader's thread."""

    def __init__(
        self,
        batching: Batching,
        decode: Callable[[Entry], Fields],
        *,
        slot: Slot,
        in_flight: InFlight,
        pauses: Pauses,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        # Fixed after construction.
        self._max_wait_seconds = batching.max_wait_seconds
        self._slot = slot
        self._in_flight = in_flight
        self._pauses = pauses
        self._clock = clock
        self._sleep = sleep
        self._pause_seconds = min(batching.max_wait_seconds / POLLS_PER_WAIT, LONGEST_PAUSE_SECONDS)
        # Owned by the reader's thread.
        self._planner = Planner(batching, decode)

    def expected(self, most: int) -> int:
        """Return how many messages, `most` at most, to fetch for the next batch."""
        return self._planner.expected(most)

    def collect(self, read: Read, most: int, *, has_fetched: bool) -> float:
        """Read until `most` messages wait, or the batch is full; return for how many seconds.

        `has_fetched` says that what waits in the slot has just come. Then this blocks up to
        `max_wait_seconds` for more, unless nothing may start any more.
        """
        began = self._clock()
        self._read(read, most, began + self._max_wait_seconds if has_fetched else began)
        return self._clock() - began

    def start(self, most: int) -> Begun | None:
        """Begin an attempt of the messages that run next, `most` at most; None if none wait."""
        slot = self._slot
        waiting = list(slot.waiting.copy())
        if not waiting:
            return None
        plan = self._planner.plan(waiting, most)
        attempt = self._in_flight.start_batch(slot, plan.messages, self._clock())
        self._planner.forget_all_but(slot.waiting.copy())
        return None if attempt is None else Begun(attempt, plan.error)

    def _read(self, read: Read, most: int, wait_until: float) -> None:
        while not self._pauses.is_held:
            waiting = list(self._slot.waiting.copy())
            room = self._planner.plan(waiting, most).room if waiting else 0
            if not room:
                return
            read(room)
            if len(self._slot.waiting) >= len(waiting) + room:
                continue  # the stream may have more
            seconds = wait_until - self._clock()
            if seconds <= 0.0:
                return
            self._sleep(min(seconds, self._pause_seconds))
