"""Connects a consumer: tries again while Redis is away, and can be interrupted at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from shared_sync.common import backoff
from shared_sync.errors import RedisAccessDenied, RedisRefused, RedisUnavailable, SharedSyncError

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 2.0
POLL_SECONDS: Final = 0.05

_PASSING_REFUSALS: Final = frozenset({"OOM", "MISCONF"})
"""Codes of refusals that may end by themselves: the server is full, or cannot save."""

GiveUp = Callable[[float], bool]
"""Waits up to so many seconds; returns True if the result is not wanted any more."""


def may_pass(error: SharedSyncError) -> bool:
    """Return whether trying again may help: Redis is away, or cannot serve now.

    A wrong password, a missing right, a key of another type and a name in use stay as they are.
    """
    if isinstance(error, RedisRefused):
        return error.code in _PASSING_REFUSALS
    return isinstance(error, RedisUnavailable) and not isinstance(error, RedisAccessDenied)


def until_redis_answers(
    connect: Callable[[GiveUp], bool],
    *,
    give_up: GiveUp,
    for_seconds: float,
    on_failure: Callable[[SharedSyncError], None],
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Call `connect` until it returns, and return what it does; False if `give_up` ended it.

    Raises the error of `connect` if that cannot pass by itself, or after `for_seconds` (0 for one
    attempt). `on_failure` is called with each error after which `connect` is called again.
    """
    deadline = clock() + for_seconds
    failures = 0
    while True:
        try:
            return connect(give_up)
        except SharedSyncError as error:
            if not may_pass(error) or clock() >= deadline:
                raise
            on_failure(error)
        failures += 1
        pause = backoff.exponential(
            failures,
            base_seconds=FIRST_PAUSE_SECONDS,
            max_seconds=LONGEST_PAUSE_SECONDS,
            jitter=0.5,
        )
        if give_up(min(pause, max(0.0, deadline - clock()))):
            return False


def interruptibly(
    connect: Callable[[GiveUp], bool], *, give_up: GiveUp, undo: Callable[[], object]
) -> bool:
    """Call `connect` in a thread; return what it does, or False as soon as `give_up` says so.

    Looking up a name or connecting may block for many seconds, and could not be interrupted in this
    thread. An attempt that is abandoned may still succeed; its thread then calls `undo`.
    """
    attempt = _Attempt(connect, undo)
    thread = threading.Thread(target=attempt.run, name="connect", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no more threads: then in this one
        return connect(give_up)
    try:
        while not attempt.ended.wait(POLL_SECONDS):
            if give_up(0.0):
                break
    except BaseException:
        attempt.abandon()
        raise
    return attempt.result() if attempt.ended.is_set() or not attempt.abandon() else False


class _Attempt:
    """One call of `connect` in a thread of its own."""

    def __init__(self, connect: Callable[[GiveUp], bool], undo: Callable[[], object]) -> None:
        # Fixed after construction.
        self._connect = connect
        self._undo = undo
        self.ended = threading.Event()
        self._abandoned = threading.Event()
        # Guarded by the lock until `ended` is set.
        self._lock = threading.Lock()
        self._connected = False
        self._error: BaseException | None = None

    def run(self) -> None:
        """Call `connect`, and undo it if the call was abandoned meanwhile."""
        connected, error = False, None
        try:
            connected = self._connect(self._abandoned.wait)
        except BaseException as caught:  # noqa: BLE001 - raised in the thread that waits
            error = caught
        with self._lock:
            self._connected, self._error = connected, error
            is_abandoned = self._abandoned.is_set()
            self.ended.set()
        if is_abandoned and connected:
            self._undo()

    def abandon(self) -> bool:
        """Stop waiting for the call; return False if it has ended already."""
        with self._lock:
            if self.ended.is_set():
                return False
            self._abandoned.set()
            return True

    def result(self) -> bool:
        """Return what `connect` has returned, or raise its error."""
        if self._error is not None:
            raise self._error
        return self._connected
