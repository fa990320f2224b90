"""Lets only a few requests at a time wait for a new call of a function."""

from __future__ import annotations

import threading
from time import monotonic
from typing import TypeVar

from shared_sync.common.poller import Poller, PollResult
from shared_sync.health_server.checks import as_detail

T = TypeVar("T")

WAITING_REQUESTS = 6
"""Requests that may wait at the same time. The server has more threads, which stay free."""

RECENT_SECONDS = 2.0
"""How old a result may be that a request gets because too many others wait for the next one."""


class Busy(Exception):
    """Too many requests wait already, and there is no recent result."""


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

        Requests that wait for the same poller share its next call. If too many requests wait
        already, returns at once what a call of the last `RECENT_SECONDS` has returned. Raises
        `CallFailed` if the call raises or takes too long, and `Busy` if there is no such result.
        """
        if self._places.acquire(blocking=False):
            try:
                result, is_new = poller.refresh(poller.timeout_seconds)
            finally:
                self._places.release()
            if not is_new:
                raise CallFailed(f"{poller.name} timed out after {poller.timeout_seconds:g} s")
        else:
            result = poller.result
            if result.ended_at is None or monotonic() - result.ended_at > RECENT_SECONDS:
                raise Busy
        if result.error is not None:
            raise CallFailed(f"{poller.name} failed", as_detail(result.error))
        return result
