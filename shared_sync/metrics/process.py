"""What this process uses of its machine: memory, CPU, descriptors, threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import psutil

T = TypeVar("T")

SHORTEST_CPU_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """The process at one moment. A value that the system does not reveal is None.

    `cpu_percent` is the CPU use since the sample before; one busy core is 100, so it can be more.
    `cpu_seconds` is the user and system time since the process began.
    """

    memory_bytes: int | None
    cpu_percent: float | None
    cpu_seconds: float | None
    open_descriptors: int | None
    threads: int | None


class ProcessProbe:
    """Samples this process, at most once in `max_age_seconds`. Any thread may call.

    `process` is the process to sample, this one by default; `clock` counts seconds and never runs
    backwards.
    """

    def __init__(
        self,
        *,
        process: psutil.Process | None = None,
        clock: Callable[[], float] = time.monotonic,
        max_age_seconds: float = 1.0,
    ) -> None:
        # Fixed after construction.
        self._process = psutil.Process() if process is None else process
        self._clock = clock
        self._max_age_seconds = max_age_seconds
        # Guarded by the lock, which is held while sampling: a thread that comes meanwhile wants the
        # same sample, and to measure the CPU use again a moment later would make no sense.
        self._lock = threading.Lock()
        self._sampled_at = clock()
        self._sample: ProcessSample | None = None
        self._cpu_since = self._sampled_at
        self._cpu_seconds_then = self._read_cpu_seconds()

    def sample(self) -> ProcessSample:
        """Return the current values, or the last ones if they are fresh. Raises nothing.

        The `cpu_percent` of the first sample is the use since construction, and None if that is
        less than a tenth of a second ago: the system counts CPU time in steps of a hundredth.
        """
        with self._lock:
            now = self._clock()
            age = now - self._sampled_at
            if self._sample is None or age >= self._max_age_seconds:
                self._sample = self._take(now)
                self._sampled_at = now
            return self._sample

    def _take(self, now: float) -> ProcessSample:
        cpu_seconds, elapsed = self._read_cpu_seconds(), now - self._cpu_since
        used = None
        if elapsed >= SHORTEST_CPU_SECONDS:
            if cpu_seconds is not None and self._cpu_seconds_then is not None:
                used = 100 * (cpu_seconds - self._cpu_seconds_then) / elapsed
            self._cpu_since, self._cpu_seconds_then = now, cpu_seconds
        memory = _read_or_none(self._process.memory_info)
        return ProcessSample(
            memory_bytes=None if memory is None else memory.rss,
            cpu_percent=used,
            cpu_seconds=cpu_seconds,
            open_descriptors=_read_or_none(self._process.num_fds),
            threads=_read_or_none(self._process.num_threads),
        )

    def _read_cpu_seconds(self) -> float | None:
        times = _read_or_none(self._process.cpu_times)
        return None if times is None else times.user + times.system


def _read_or_none(read: Callable[[], T]) -> T | None:
    """Return what `read` returns, or None if the system does not reveal it."""
    try:
        return read()
    except (psutil.Error, OSError):
        return None
