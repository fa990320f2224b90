"""Results that were received and not taken yet."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from shared_sync.result_listener.result import Result

MOST_BYTES: Final = 64 * 1024 * 1024
"""Limit of the size of all kept values. A single result may be larger."""


class Inbox:
    """Keeps results in their order until they are taken. Safe from any thread.

    It is full with `most` results, or with `most_bytes`. If results are taken in order, by
    `take()`, the thread that fills the inbox waits for room. If they are only waited for by id,
    some may never be taken, so the oldest are dropped.
    """

    def __init__(
        self,
        most: int,
        *,
        most_bytes: int = MOST_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Fixed after construction.
        self._most = most
        self._most_bytes = most_bytes
        self._clock = clock
        # Guarded by the lock, which is re-entrant: a signal handler may close the inbox.
        self._changed = threading.Condition(threading.RLock())
        self._kept: OrderedDict[int, tuple[Result, int]] = OrderedDict()
        self._numbers: dict[str, list[int]] = {}
        """By the id of a message: the numbers of its kept results."""
        self._next_number = 0
        self._bytes = 0
        self._waits: dict[str, list[_Wait]] = {}
        self._is_read_in_order = False
        self._is_closed = False
        self.dropped = 0

    def __len__(self) -> int:
        """The number of kept results."""
        return len(self._kept)

    def read_in_order(self) -> None:
        """Drop nothing from now on, because results are taken in order."""
        with self._changed:
            self._is_read_in_order = True

    def wait_for_room(self, seconds: float) -> int:
        """Return for how many results there is room; 0 if there is none within `seconds`."""
        deadline = self._clock() + seconds
        with self._changed:
            while not self._is_closed and self._is_read_in_order and self._is_full():
                left = deadline - self._clock()
                if left <= 0:
                    return 0
                self._changed.wait(left)
            return self._most - len(self._kept) if self._is_read_in_order else self._most

    def put(self, result: Result, size: int) -> None:
        """Add a result whose values have `size` bytes, or pass it to threads that wait for it."""
        with self._changed:
            waits = self._waits.pop(result.id, None) if result.is_final else None
            if waits is not None:
                for wait in waits:
                    wait.end(result)
                self._forget(result.id)
                return
            while not self._is_read_in_order and self._kept and self._is_full(size):
                self._remove(next(iter(self._kept)))
                self.dropped += 1
            self._kept[self._next_number] = (result, size)
            self._numbers.setdefault(result.id, []).append(self._next_number)
            self._next_number += 1
            self._bytes += size
            self._changed.notify_all()

    def take(self) -> Result | None:
        """Wait for a result, and return the oldest; None once the inbox is closed."""
        with self._changed:
            self._is_read_in_order = True
            while not self._is_closed:
                if self._kept:
                    result = self._remove(next(iter(self._kept)))
                    self._changed.notify_all()
                    return result
                self._changed.wait()
            return None

    def wait_for(self, message_id: str, timeout: float | None) -> Result | None:
        """Return the final result of a message; None after `timeout`, or once it is closed."""
        with self._changed:
            result = self._take_final(message_id)
            if result is not None or self._is_closed:
                return result
            wait = _Wait()
            self._waits.setdefault(message_id, []).append(wait)
        try:
            wait.ended.wait(timeout)
        finally:
            with self._changed:
                waits = self._waits.get(message_id, [])
                if wait in waits:
                    waits.remove(wait)
                if not waits:
                    self._waits.pop(message_id, None)
        return wait.result  # it may have come after the timeout

    def close(self) -> None:
        """End all waits. Kept results can still be waited for by id, but not taken in order."""
        with self._changed:
            self._is_closed = True
            for waits in self._waits.values():
                for wait in waits:
                    wait.end(None)
            self._waits.clear()
            self._changed.notify_all()

    def _is_full(self, more: int = 0) -> bool:
        return len(self._kept) >= self._most or self._bytes + more > self._most_bytes

    def _take_final(self, message_id: str) -> Result | None:
        numbers = self._numbers.get(message_id, ())
        for number in numbers:
            result, _ = self._kept[number]
            if result.is_final:
                self._forget(message_id)
                self._changed.notify_all()
                return result
        return None

    def _forget(self, message_id: str) -> None:
        """Remove the kept results of a message after its final one was taken, such as progress."""
        for number in list(self._numbers.get(message_id, ())):
            self._remove(number)

    def _remove(self, number: int) -> Result:
        result, size = self._kept.pop(number)
        numbers = self._numbers[result.id]
        numbers.remove(number)
        if not numbers:
            del self._numbers[result.id]
        self._bytes -= size
        return result


class _Wait:
    """The wait of one thread for one result."""

    __slots__ = ("ended", "result")

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.result: Result | None = None

    def end(self, result: Result | None) -> None:
        self.result = result
        self.ended.set()
