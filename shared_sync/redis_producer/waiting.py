"""The jobs of one process whose results are waited for."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shared_sync.common.guarded import GuardedRecorder
from shared_sync.errors import ConsumerStateError, ResultTimeout
from shared_sync.result_listener.result import Result


class Awaited:
    """What has come for one job. The listener's thread writes, any thread may read and wait."""

    def __init__(self, job_id: str, sent_at: float) -> None:
        # Fixed after construction.
        self.job_id = job_id
        self.sent_at = sent_at
        self._ended = threading.Event()
        # Written before the event is set.
        self._final: Result | None = None
        # Written by the listener's thread.
        self.progress: Result | None = None

    @property
    def final(self) -> Result | None:
        """The final result, if it has come."""
        return self._final

    def add(self, result: Result) -> None:
        """Note a result."""
        if result.is_final:
            self._final = result
            self._ended.set()
        else:
            self.progress = result

    def give_up(self) -> None:
        """End the waits, as no result can come any more."""
        self._ended.set()

    def wait(self, timeout: float | None) -> Result:
        """Return the final result; wait up to `timeout` seconds for it."""
        if not self._ended.wait(timeout):
            raise ResultTimeout(self.job_id, timeout or 0.0)
        if self._final is None:
            raise ConsumerStateError(
                f"the producer was closed before the result of {self.job_id!r} came"
            )
        return self._final


class Waiting:
    """Gives each result to those who wait for it. Safe from any thread.

    A result may come before the id of its job is known here. So what comes while a job is being
    published is kept until that is over. Other results that nobody waits for are dropped: their
    handles are gone.
    """

    def __init__(
        self, recorder: GuardedRecorder, clock: Callable[[], float] = time.monotonic
    ) -> None:
        # Fixed after construction.
        self._recorder = recorder
        self._clock = clock
        # Guarded by the lock.
        self._lock = threading.Lock()
        self._awaited: weakref.WeakValueDictionary[str, Awaited] = weakref.WeakValueDictionary()
        self._publishing: dict[int, None] = {}
        """The numbers of the jobs that are being published, in their order."""
        self._next_number = 0
        self._early: deque[tuple[int, Result]] = deque()
        """Each with the number of the job that is published next."""
        self._is_closed = False

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """While a job is being published, and until it was added."""
        with self._lock:
            number = self._next_number
            self._next_number += 1
            self._publishing[number] = None
        try:
            yield
        finally:
            with self._lock:
                del self._publishing[number]
                first = next(iter(self._publishing), self._next_number)
                while self._early and self._early[0][0] <= first:
                    self._early.popleft()  # it came before any of these was published

    def add(self, job_id: str, sent_at: float) -> Awaited:
        """Wait for the results of a job, as long as what is returned is referred to."""
        with self._lock:
            awaited = self._awaited.get(job_id)
            if awaited is None:
                awaited = self._awaited[job_id] = Awaited(job_id, sent_at)
            early = [result for _, result in self._early if result.id == job_id]
            if self._is_closed:
                awaited.give_up()
        for result in early:
            self._hand_out(awaited, result)
        return awaited

    def receive(self, result: Result) -> None:
        """Take a result that has come."""
        with self._lock:
            awaited = self._awaited.get(result.id)
            if awaited is None and self._publishing:
                self._early.append((self._next_number, result))
        if awaited is not None:
            self._hand_out(awaited, result)

    def close(self) -> None:
        """End all waits."""
        with self._lock:
            self._is_closed = True
            left = list(self._awaited.values())
        for awaited in left:
            awaited.give_up()

    def _hand_out(self, awaited: Awaited, result: Result) -> None:
        if result.is_final and awaited.final is None:
            self._recorder.record_duration("job_round_trip", self._clock() - awaited.sent_at)
        awaited.add(result)
