"""Why the readers of a pool take no messages just now, and which of them may try one."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from shared_sync.common.fork import renew_in_forks
from shared_sync.common.guarded import Logger
from shared_sync.redis_consumer.slot import Slot

LONGEST_WAIT_SECONDS: Final = 1.0
"""How long one wait of a reader may take, so that its loop turns and settles what is left."""


@dataclass(slots=True)
class _Hold:
    """Why no messages are taken, and until when."""

    reason: str
    until: float
    trials: bool
    error: str
    trials_left: float
    is_intended: bool

    def has_ended(self, now: float) -> bool:
        return now >= self.until and (not self.trials or self.trials_left <= 0)

    def text(self, now: float) -> str:
        if math.isinf(self.until):
            return self.reason
        if self.trials and now >= self.until:
            return f"{self.reason}, one message at a time is tried"
        what = "next trial" if self.trials else "messages are taken again"
        return f"{self.reason}, {what} in {max(0, math.ceil(self.until - now))} s"


class Pauses:
    """Why the readers of one pool take no messages. Any thread may call any method.

    While it is held, no reader reads, takes over or starts a message: what waits in the slots is
    handed back, and what runs goes on. Whoever holds it does so before it hands a message back,
    which could come back at once otherwise. No method blocks for long, except `trial()`.
    """

    def __init__(
        self,
        *,
        logger: Logger,
        on_hold: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_hold` is called when taking messages stops, so that what waits is handed back."""
        # Fixed after construction.
        self._logger = logger
        self._on_hold = on_hold
        self._clock = clock
        # Guarded by the condition, whose lock is re-entrant: a signal handler may close it.
        self._changed = threading.Condition()
        renew_in_forks(self, Pauses._renew)
        self._holds: dict[str, _Hold] = {}
        self._held_since = 0.0
        self._trial: Slot | None = None
        """The slot of the reader that tries a message."""
        # Written under the condition; read without it.
        self.is_held = False
        """Whether readers start nothing but trials: it is held, or closed for good."""
        self._is_closed = False
        # Owned by the reader that tries a message.
        self.owes_a_read = False
        """Whether the last message that was tried was no new one."""

    def hold(
        self,
        name: str,
        reason: str,
        *,
        until: float = math.inf,
        trials: bool = False,
        most_trials: float = math.inf,
        error: str = "",
        is_intended: bool = False,
    ) -> None:
        """Let the readers take no more messages, for this reason.

        Args:
            name: What holds it. A name that holds it already has a new reason and time.
            reason: Why, for the log and the health, without a full stop.
            until: Until when (monotonic clock); for ever if it is infinite.
            trials: What comes then. True: one message at a time is tried, by one reader of the
                pool, until `release()`. False: the hold ends by itself.
            most_trials: After so many messages that were tried since the last call of this name,
                the hold ends by itself.
            error: The text of the error that led to this, for the details of the health.
            is_intended: Whether somebody wants it so: then it is no reason to be degraded.
        """
        with self._changed:
            now = self._clock()
            before = self._holds.get(name)
            is_new = before is None or before.has_ended(now)
            hold = self._holds[name] = _Hold(reason, until, trials, error, most_trials, is_intended)
            begins = not self.is_held
            if begins:
                self.is_held, self._held_since = True, now
            self._changed.notify_all()
        if begins:
            self._on_hold()
        if is_new:
            self._logger.warning("no messages are taken: %s", hold.text(now))

    def release(self, name: str) -> None:
        """Take back a hold; does nothing if there is none of this name."""
        with self._changed:
            if self._holds.pop(name, None) is None:
                return
            seconds = self._end_if_free()
            self._changed.notify_all()
        self._log_end(seconds)

    def has_tried(self) -> None:
        """Note that a message was tried. For the reader that did so."""
        with self._changed:
            now = self._clock()
            for hold in self._holds.values():
                if now >= hold.until:
                    hold.trials_left -= 1
            seconds = self._end_if_free()
            if seconds is not None:
                self._changed.notify_all()
        self._log_end(seconds)

    def is_held_by(self, name: str) -> bool:
        """Return whether this name holds the readers."""
        with self._changed:
            hold = self._holds.get(name)
            return hold is not None and not hold.has_ended(self._clock())

    def close(self) -> None:
        """Let nothing start any more, trials included, because the pool stops."""
        with self._changed:
            self._is_closed = self.is_held = True
            self._changed.notify_all()

    def reasons(self, *, with_intended: bool = False) -> list[str]:
        """Return why no messages are taken although they should be, and what comes next.

        With `with_intended`, also what somebody wants so.
        """
        with self._changed:
            now = self._clock()
            return [
                hold.text(now)
                for hold in self._holds.values()
                if not hold.has_ended(now) and (with_intended or not hold.is_intended)
            ]

    def errors(self) -> list[str]:
        """Return the texts of the errors that led to this."""
        with self._changed:
            return [hold.error for hold in self._holds.values() if hold.error]

    @property
    def allows_trials(self) -> bool:
        """Whether a message may be started: nothing has forbidden it since the trial began."""
        with self._changed:
            return not (self.is_held and self._seconds_until_trials() > 0.0)

    @contextmanager
    def trial(self, slot: Slot) -> Iterator[bool]:
        """Wait for a turn; True if the reader of this slot may try one message within the block.

        Blocks until then, until nothing is held any more, or until the pool stops, and for
        LONGEST_WAIT_SECONDS at most. A message that is tried has to be settled within the block.
        """
        may_try = self._wait_for_turn(slot)
        try:
            yield may_try
        finally:
            if may_try:
                self._end_trial(slot)

    def _wait_for_turn(self, slot: Slot) -> bool:
        with self._changed:
            seconds = self._end_if_free()
            wait_seconds = self._seconds_to_wait()
            if wait_seconds > 0.0 and not self._is_closed:
                self._changed.wait(wait_seconds)
                seconds = self._end_if_free()
            may_try = self.is_held and self._seconds_to_wait() == 0.0
            if may_try:
                self._trial = slot
        self._log_end(seconds)
        return may_try

    def _end_trial(self, slot: Slot) -> None:
        with self._changed:
            if self._trial is slot:
                self._trial = None
                self._changed.notify_all()

    def _seconds_to_wait(self) -> float:
        """Return how long a reader has to wait; 0 if it may try a message, or nothing is held."""
        if not self.is_held:
            return 0.0
        if self._is_tried():
            return LONGEST_WAIT_SECONDS
        return min(self._seconds_until_trials(), LONGEST_WAIT_SECONDS)

    def _seconds_until_trials(self) -> float:
        if self._is_closed:
            return math.inf
        latest = max(hold.until for hold in self._holds.values())
        return max(0.0, latest - self._clock())

    def _is_tried(self) -> bool:
        """Return whether a message is tried just now. One past its deadline is waited for no
        more."""
        if self._trial is None:
            return False
        attempt = self._trial.attempt
        return attempt is None or not attempt.given_up

    def _end_if_free(self) -> float | None:
        """Drop holds that have ended; if none is left, return for how long there were any."""
        if not self.is_held or self._is_closed:
            return None
        now = self._clock()
        self._holds = {name: hold for name, hold in self._holds.items() if not hold.has_ended(now)}
        if self._holds:
            return None
        self.is_held = False
        return now - self._held_since

    def _log_end(self, seconds: float | None) -> None:
        if seconds is not None:
            self._logger.info("messages are taken again after %.1f s", seconds)

    def _renew(self) -> None:
        self._changed = threading.Condition()
