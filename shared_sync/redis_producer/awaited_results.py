"""The jobs of one process that wait for their results."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable

from shared_sync.common.guarded import GuardedRecorder
from shared_sync.errors import ConsumerStateError, ResultTimeout
from shared_sync.redis_producer.recent import RecentResults
from shared_sync.result_listener.result import Result

_MAKING = threading.Lock()
"""Held while a condition is made, so that all who wait for one job share it."""


class AwaitedResult:
    """The results of one job. Any thread may wait; `AwaitedResults` writes, with its lock."""

    __slots__ = (
        "__weakref__",
        "_changed",
        "_has_ended",
        "_open",
        "final",
        "job_id",
        "progress",
        "sent_at",
    )

    def __init__(self, job_id: str, sent_at: float) -> None:
        # Fixed after construction.
        self.job_id = job_id
        self.sent_at = sent_at
        # Held until the job has ended. An event takes several times as long to make and to set.
        self._open = threading.Lock()
        self._open.acquire()
        # Written with the lock of `AwaitedResults`; any thread may read.
        self._has_ended = False
        self._changed: threading.Condition | None = None
        """Wakes those that wait for progress. Made by the first of them: few jobs have any."""
        self.final: Result | None = None
        """The final result, if it has arrived."""
        self.progress: Result | None = None
        """The newest progress that has arrived."""

    def add(self, result: Result) -> None:
        """Take a result. Only the first final one counts: each group of the stream sends one."""
        if self.final is not None:
            return
        if result.is_final:
            self.final = result
            self.end()
        else:
            self.progress = result
            self._wake()

    def end(self) -> None:
        """End all waits."""
        if not self._has_ended:
            self._has_ended = True
            self._open.release()
            self._wake()

    def _wake(self) -> None:
        if (changed := self._changed) is not None:
            with changed:
                changed.notify_all()

    def wait(self, timeout: float | None) -> Result:
        """Return the final result; wait up to `timeout` seconds for it."""
        if self.final is None:
            limit = -1 if timeout is None else min(timeout, threading.TIMEOUT_MAX)
            if not self._open.acquire(timeout=limit):
                raise ResultTimeout(self.job_id, timeout or 0.0)
            self._open.release()  # for the next thread that waits
        if self.final is None:
            raise self._closed()
        return self.final

    def wait_for_update(self, after: str, timeout: float | None) -> Result | None:
        """Return the newest result once its `entry_id` is not `after`; None after `timeout`."""
        with _MAKING:
            if self._changed is None:
                self._changed = threading.Condition()
        limit = None if timeout is None else min(timeout, threading.TIMEOUT_MAX)
        with self._changed:
            self._changed.wait_for(lambda: self._has_ended or self._is_newer(after), limit)
            if self._is_newer(after):
                return self.final or self.progress
            if self._has_ended and self.final is None:
                raise self._closed()
            return None

    def _is_newer(self, after: str) -> bool:
        newest = self.final or self.progress
        return newest is not None and newest.entry_id != after

    def _closed(self) -> ConsumerStateError:
        return ConsumerStateError(
            f"the producer was closed before the result of {self.job_id!r} came"
        )


class AwaitedResults:
    """Passes each result to the threads that wait for it. Safe from any thread.

    A result may arrive before the call that publishes its job has returned the id. Therefore
    results that arrive during a publication are kept until it ends. Other results without a handle
    are dropped. Once a job was published with a `deduplicate_key`, recent results are kept as well,
    because the same call may be repeated and then returns the same id.
    """

    def __init__(
        self, recorder: GuardedRecorder, clock: Callable[[], float] = time.monotonic
    ) -> None:
        # Fixed after construction.
        self._recorder = recorder
        self._clock = clock
        # Guarded by the lock.
        self._lock = threading.Lock()
        self._awaited: weakref.WeakValueDictionary[str, AwaitedResult] = (
            weakref.WeakValueDictionary()
        )
        self._publishing: dict[int, None] = {}
        """The numbers of the publications in progress, in order."""
        self._next_number = 0
        self._early: deque[tuple[int, Result]] = deque()
        """Results without a handle, each with the number of the next publication."""
        self._recent: RecentResults | None = None
        self._is_closed = False

    def keep_recent(self) -> None:
        """Keep the newest results from now on, for jobs that are published again."""
        with self._lock:
            if self._recent is None:
                self._recent = RecentResults(self._clock)

    def begin(self) -> int:
        """Begin a publication, and return its number."""
        with self._lock:
            number = self._next_number
            self._next_number += 1
            self._publishing[number] = None
        return number

    def end(self, number: int) -> None:
        """End a publication: the job was added, or was not published."""
        with self._lock:
            del self._publishing[number]
            if self._early:
                first = next(iter(self._publishing), self._next_number)
                while self._early and self._early[0][0] <= first:
                    self._early.popleft()  # it arrived before any of these publications began

    def add(self, job_id: str, sent_at: float) -> AwaitedResult:
        """Keep the results of a job for as long as the returned object is referenced."""
        with self._lock:
            awaited = self._awaited.get(job_id)
            if awaited is None:
                awaited = self._awaited[job_id] = AwaitedResult(job_id, sent_at)
                recent = self._recent.find(job_id) if self._recent is not None else None
                if recent is not None:
                    awaited.add(recent)
            for _, result in self._early:
                if result.id == job_id:
                    self._hand_out(awaited, result)
            if self._is_closed:
                awaited.end()
        return awaited

    def receive(self, result: Result) -> None:
        """Take a result that has arrived."""
        with self._lock:
            if self._recent is not None and result.is_final:
                self._recent.add(result)
            awaited = self._awaited.get(result.id)
            if awaited is not None:
                self._hand_out(awaited, result)
            elif self._publishing:
                self._early.append((self._next_number, result))

    def close(self) -> None:
        """End all waits."""
        with self._lock:
            self._is_closed = True
            for awaited in list(self._awaited.values()):
                awaited.end()

    def _hand_out(self, awaited: AwaitedResult, result: Result) -> None:
        if self._recorder.records and result.is_final and awaited.final is None:
            self._recorder.record_duration("job_round_trip", self._clock() - awaited.sent_at)
        awaited.add(result)
