"""Loading the processors of a pool: all of them, before anything is read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from shared_sync.common.fork import renew_in_forks
from shared_sync.errors import LoadingFailed
from shared_sync.redis_consumer.connecting import GiveUp

POLL_SECONDS: Final = 0.05


class Loading:
    """The loading of the processors of one pool. Any thread may call any method.

    Each reader loads its own, in its own thread, and begins to read when all are loaded. In threads
    one reader loads after the other: several models that are loaded at once need their memory
    at once, and many libraries do not bear being loaded from in two threads.

    Args:
        readers: How many there are.
        takes_time: Whether loading runs code of the program. If not, no reader waits for another.
        one_by_one: Whether a reader waits until those before it have loaded.
    """

    def __init__(
        self,
        readers: int,
        *,
        takes_time: bool,
        one_by_one: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Fixed after construction.
        self._readers = readers
        self.takes_time = takes_time
        self._one_by_one = one_by_one
        self._clock = clock
        # Guarded by the condition, whose lock is re-entrant: a signal handler may cancel.
        self._changed = threading.Condition()
        renew_in_forks(self, Loading._renew)
        self._loaded = 0
        self._failure: LoadingFailed | None = None
        # Written under the condition; read without it.
        self.is_cancelled = False
        """Whether no reader is to begin to load."""
        # Written by whoever starts the pool; any thread may read.
        self._began_at: float | None = None

    def begin(self) -> None:
        """Note that the readers are about to start."""
        self._began_at = self._clock()

    @property
    def has_begun(self) -> bool:
        """Whether there is something to load and its loading has begun; it may have ended."""
        return self.takes_time and self._began_at is not None

    @property
    def is_complete(self) -> bool:
        """Whether every reader has its processor."""
        return not self.takes_time or self._loaded == self._readers

    @property
    def reason(self) -> str:
        """What a start waits for, while it waits for this."""
        seconds = self._clock() - (self._began_at or 0.0)
        return (
            f"loading processors: {self._loaded} of {self._readers} loaded, {seconds:.0f} s so far"
        )

    def cancel(self) -> None:
        """Let no reader begin to load or to read. What loads just now cannot be stopped."""
        with self._changed:
            self.is_cancelled = True
            self._changed.notify_all()

    def load(self, reader: int, load: Callable[[], None]) -> bool:
        """Call `load` for a reader (1, 2, ...) in its thread, and wait for the others.

        Returns whether the reader is to go on: False if another one failed, or loading was
        cancelled. An error of `load` is raised by `wait()`, and returns False here.
        """
        if not self.takes_time:
            load()
            return True
        with self._changed:
            self._changed.wait_for(lambda: self.is_cancelled or self._is_turn_of(reader))
            if self.is_cancelled:
                return False
        failure: LoadingFailed | None = None
        try:
            load()
        except LoadingFailed as error:
            failure = error
        with self._changed:
            if failure is None:
                self._loaded += 1
            else:
                self._failure = self._failure or failure
                self.is_cancelled = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.is_cancelled or self.is_complete)
            return not self.is_cancelled

    def wait(self, give_up: GiveUp) -> bool:
        """Wait until every reader has its processor; return False if that is not wanted any more.

        That is so if `give_up` says so, or loading was cancelled. Raises `LoadingFailed` as soon as
        one reader has failed.
        """
        while not give_up(0.0):
            with self._changed:
                if not (self.is_cancelled or self.is_complete):
                    self._changed.wait(POLL_SECONDS)
                if self._failure is not None:
                    raise self._failure
                if self.is_cancelled or self.is_complete:
                    return not self.is_cancelled
        return False

    def _is_turn_of(self, reader: int) -> bool:
        return not self._one_by_one or self._loaded == reader - 1

    def _renew(self) -> None:
        self._changed = threading.Condition()
