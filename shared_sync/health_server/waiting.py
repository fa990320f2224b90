"""Lets only a few requests at a time wait for a new call of a function."""

from __future__ import annotations

import threading
from typing import TypeVar

from shared_sync.common.poller import Poller, PollResult
from shared_sync.health_server.checks import as_detail

T = TypeVar("T")

WAITING_REQUESTS = 2
"""Requests that may wait at the same time. The server has more threads, which stay free."""


class Busy(Exception):
    """Too many requests wait already."""


class CallFailed(Exception):
    """A function of the user raised, or did not return in time.

    The text is for everybody; `detail`, None if there is none, only for servers with
    `details=True`.
    """

    def __init__(self, reason: str, detail: str | None = None) -> None:
        super().__init__(reason)
        self.detail = detail


class Waiting:
    """Limits how many requests wait. Any thread may call any method."""

    def __init__(self) -> None:
        self._places = threading.BoundedSemaphore(WAITING_REQUESTS)

    def newest(self, poller: Poller[T], wait_seconds: float) -> PollResult[T]:
        """Request a call and return its result if that comes in time, else the last one.

        Blocks for at most `wait_seconds`, and not at all if too many requests wait already.
        """
        if not self._places.acquire(blocking=False):
            return poller.result
        try:
            return poller.refresh(wait_seconds)[0]
        finally:
            self._places.release()

    def new_result(self, poller: Poller[T]) -> PollResult[T]:
        """Request a call and return its result. Blocks up to the time limit of the call.

        Raises `CallFailed` if the call raises or takes too long, and `Busy` if too many requests
        wait already.
        """
        if not self._places.acquire(blocking=False):
            raise Busy
        try:
            result, is_new = poller.refresh(poller.timeout_seconds)
        finally:
            self._places.release()
        if not is_new:
            raise CallFailed(f"{poller.name} timed out after {poller.timeout_seconds:g} s")
        if result.error is not None:
            raise CallFailed(f"{poller.name} failed", as_detail(result.error))
        return result
