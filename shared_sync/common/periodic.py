"""A step repeated in a daemon thread: started once in each process, ended only by stop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

from shared_sync.common.fork import PerProcess


class _Life:
    """The thread's things in one process."""

    __slots__ = ("claim", "wake")

    def __init__(self) -> None:
        self.claim = threading.Lock()  # who gets it starts the thread; it is never given back
        self.wake: SimpleQueue[None] = SimpleQueue()  # something is in it when the thread shall end


class Background:
    """Calls `step` from a thread of its own, at once and then `period_seconds` after each return.

    An error in a step ends nothing and is dropped: the step tells of its own. The thread holds on
    to `step` and whatever that refers to, until `stop`; so that must not be the owner who would
    call `stop` on its end.

    `stop` may be called from a finalizer, and so in the middle of anything, even of this thread's
    own waiting. An Event has a lock which that thread might hold just then; putting into a
    SimpleQueue is safe there, and that is what it is documented for.
    """

    def __init__(self, name: str, step: Callable[[], None], *, period_seconds: float) -> None:
        # Fixed after construction.
        self._name = name
        self._step = step
        self._period_seconds = period_seconds
        # Ever only set, by any thread.
        self._stopped = False
        # Each process's own.
        self._lives = PerProcess(_Life)

    @property
    def stopped(self) -> bool:
        return self._stopped

    def start(self) -> None:
        """Start the thread, unless this process has it already or `stop` was called.

        A forked process has no thread of its parent's and may call this again. Raises RuntimeError
        where the system gives no more threads.
        """
        life = self._lives.get()
        if self._stopped or not life.claim.acquire(blocking=False):
            return
        try:
            threading.Thread(target=self._run, args=(life,), name=self._name, daemon=True).start()
        except BaseException:
            life.claim.release()
            raise

    def stop(self) -> None:
        """End the thread: at once if it waits, otherwise after the step it is in. Never blocks."""
        self._stopped = True
        self._lives.get().wake.put(None)

    def _run(self, life: _Life) -> None:
        while not self._stopped:
            with suppress(BaseException):  # not even one that is thrown into the thread
                self._step()
            with suppress(Empty):
                life.wake.get(timeout=self._period_seconds)
