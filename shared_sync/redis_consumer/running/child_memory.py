"""The memory of child processes: shown as a metric, and a reason to replace one that has grown."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import psutil

from shared_sync.common.guarded import Recorder

MEASURE_SECONDS: Final = 0.5
"""How old a measurement may be that decides whether a child is too large."""

MEGABYTE: Final = 1024 * 1024


class HasChild(Protocol):
    """What runs attempts in a child."""

    @property
    def child_pid(self) -> int | None:
        """The process id of the child; None while there is none. Any thread may ask."""


class MemoryLimit:
    """Whether a child has grown beyond a limit. For the thread that uses the child."""

    def __init__(
        self, limit_mb: float | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit_mb = limit_mb
        self._clock = clock
        self._measured_at: float | None = None
        self.measured_mb = 0.0
        """What the child had when it was last measured."""

    def child_starts(self) -> None:
        """Forget what another child has had."""
        self._measured_at, self.measured_mb = None, 0.0

    def is_passed_by(self, pid: int) -> bool:
        """Return whether a child has more than it may; measured now and then, if at all."""
        if self._limit_mb is None:
            return False
        now = self._clock()
        if self._measured_at is None or now - self._measured_at >= MEASURE_SECONDS:
            self._measured_at, self.measured_mb = now, resident_mb(pid)
        return self.measured_mb > self._limit_mb


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process in MB of 1024 * 1024 bytes; 0 if it has ended."""
    try:
        return float(psutil.Process(pid).memory_info().rss) / MEGABYTE
    except psutil.Error:
        return 0.0


def record_memory(runners: Sequence[HasChild], recorder: Recorder) -> None:
    """Record what the children of a pool have together, if it has any."""
    pids = [runner.child_pid for runner in runners]
    if runners:
        recorder.set_gauge("children_memory_mb", sum(resident_mb(pid) for pid in pids if pid))
