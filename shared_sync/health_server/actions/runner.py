"""Calls the functions of actions in one background thread, so that no request does.

A request waits for its call, for a limited time. A few may wait; further ones are refused at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final

from shared_sync.common.loop import Loop

LIMIT_SECONDS: Final = 10.0
"""How long a request waits for its call, from being queued to the result."""

PLACES: Final = 3
"""Requests that may wait at the same time, each in a thread of the HTTP server."""


class Refused(Exception):
    """The call was not begun, and will not be."""


class Unfinished(Exception):
    """The call was begun and has not returned in time; it may still do what it was to do."""


class _Call:
    """A call on its way through the queue."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        # Acquired once: by the thread that begins the call, or by the request that gives it up.
        self.claim = threading.Lock()
        self.ended = threading.Event()
        # Written by the thread before `ended` is set.
        self.result: Any = None
        self.error: Exception | None = None

    def run(self) -> None:
        if not self.claim.acquire(blocking=False):
            return
        try:
            self.result = self.function()
        except Exception as error:  # noqa: BLE001 - raised anew where the request waits
            self.error = error
        finally:
            self.ended.set()


class Life:
    """The thread of one start, and its queue. Any thread may call any method."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._queue: SimpleQueue[_Call | None] = SimpleQueue()
        self._loop = Loop("health-actions", step=self._step, stop=self._stopping)

    def start(self) -> None:
        """Start the thread. Raises RuntimeError if the system has no more threads."""
        self._loop.start()

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    def put(self, call: _Call) -> None:
        """Have a call run behind those that are in the queue."""
        self._queue.put(call)

    def runs_here(self) -> bool:
        """Whether the calling thread is this one."""
        return self._loop.thread is threading.current_thread()

    def stop(self) -> None:
        """End the thread: at once, or when its call returns. Never blocks."""
        self._stopping.set()
        self._queue.put(None)

    def join(self, deadline: float) -> bool:
        """Wait until the thread has ended or until `deadline` (monotonic clock).

        Returns whether it has ended.
        """
        return self._loop.join(deadline)

    def _step(self) -> None:
        call = self._queue.get()
        if call is not None:
            call.run()


class ActionRunner:
    """Calls one function at a time. Any thread may call any method."""

    def __init__(self, limit_seconds: float = LIMIT_SECONDS) -> None:
        # Fixed after construction.
        self._limit_seconds = limit_seconds
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget what the parent's threads were doing. For a forked process."""
        self._places = threading.BoundedSemaphore(PLACES)
        # Held during a call: the thread of an earlier start may still be in the middle of one.
        self._calling = threading.Lock()
        # Replaced as a whole.
        self._life: Life | None = None

    @property
    def limit_seconds(self) -> float:
        """How long `call()` waits."""
        return self._limit_seconds

    def start(self) -> Life:
        """Start a thread that calls from now on, and return it, so that it can be stopped.

        Raises RuntimeError if the system has no more threads.
        """
        life = Life()
        life.start()
        self._life = life
        return life

    def call(self, function: Callable[[], Any]) -> Any:
        """Have the function called, and return its result. Blocks up to the limit.

        Raises what the function raises; `Refused` if it was not called, and `Unfinished` if it has
        not returned in time.
        """
        life, places = self._life, self._places
        if life is None or life.is_stopping:
            raise Refused("the server stops; nothing was done")
        if not places.acquire(blocking=False):
            raise Refused(f"{PLACES} other requests wait already; nothing was done, ask again")
        try:
            call = _Call(lambda: self._call_alone(function))
            life.put(call)
            if not call.ended.wait(self._limit_seconds):
                if call.claim.acquire(blocking=False):
                    raise Refused("other actions take too long; nothing was done, ask again")
                raise Unfinished
        finally:
            places.release()
        if call.error is not None:
            raise call.error
        return call.result

    def _call_alone(self, function: Callable[[], Any]) -> Any:
        with self._calling:
            return function()
