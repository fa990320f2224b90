"""The loop round a step: started once, ended only by its stop event, never by an error."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum

FALLBACK_PAUSE_SECONDS = 1.0


class State(Enum):
    """What a consumer is doing; it moves down this list, but a start that fails is new again."""

    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"


class Loop:
    """Repeats `step` in a daemon thread until `stop` is set, then calls `finish`.

    An error of any kind in a step goes to `trouble`, which returns how many seconds to pause; it
    is also told how many steps in a row have failed. `step` must return soon after `stop` is set.
    An error of `finish` is told as well, and ends the loop.
    """

    def __init__(
        self,
        name: str,
        *,
        step: Callable[[], None],
        stop: threading.Event,
        trouble: Callable[[BaseException, int], float],
        finish: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self._step = step
        self._stop = stop
        self._trouble = trouble
        self._finish = finish
        # Written by whoever starts it, once; anyone may read.
        self.started_at = 0.0  # by the monotonic clock, from when the thread runs
        # Written by the loop's thread alone; anyone may read.
        self.turns = 0
        """Steps begun, those that failed included."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def thread(self) -> threading.Thread:
        return self._thread

    @property
    def has_ended(self) -> bool:
        """Whether the thread was started and is no more."""
        return self.was_started and not self._thread.is_alive()

    @property
    def was_started(self) -> bool:
        """Whether its thread was seen to run."""
        return self.started_at > 0.0

    @property
    def is_to_turn(self) -> bool:
        """Whether it was started and shall go on: if it does not, something holds it up."""
        return self.was_started and not self._stop.is_set()

    def start(self) -> None:
        self._thread.start()
        self.started_at = time.monotonic()

    def join(self, deadline: float) -> bool:
        """Wait until the loop ended or the moment (monotonic clock) has come; whether it ended."""
        if self._thread.ident is not None:
            self._thread.join(max(0.0, deadline - time.monotonic()))
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            # Even an error that is thrown into the thread while it pauses after one.
            with suppress(BaseException):
                self._repeat()
        try:
            self._finish()
        except BaseException as error:  # noqa: BLE001 - the thread is at its end either way
            self._pause_after(error, 1)

    def _repeat(self) -> None:
        failures = 0
        while not self._stop.is_set():
            self.turns += 1
            try:
                self._step()
                failures = 0
            except BaseException as error:  # noqa: BLE001 - a loop ends by its stop event only
                failures += 1
                self._stop.wait(self._pause_after(error, failures))

    def _pause_after(self, error: BaseException, failures: int) -> float:
        try:
            return self._trouble(error, failures)
        except BaseException:  # noqa: BLE001 - not even a broken logger ends a loop
            return FALLBACK_PAUSE_SECONDS
