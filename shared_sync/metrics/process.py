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
    """The process at one moment. A figure the machine does not give away is None.

    `cpu_percent` is the use since the sample before, 100 for one busy core, so it can pass 100.
    `cpu_seconds` is user and system time since the process began.
    """

    memory_bytes: int | None
    cpu_percent: float | None
    cpu_seconds: float | None
    open_descriptors: int | None
    threads: int | None


class ProcessProbe:
    """Samples this process, at most once in `max_age_seconds`. Any thread may ask.

    `process` is the process to look at, this one by default; `clock` counts seconds and never runs
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
        # Guarded by the lock, which is held while sampling: whoever comes meanwhile wants that
        # same sample, and a second look at the CPU a moment later would measure nothing.
        self._lock = threading.Lock()
        self._sampled_at = clock()
        self._sample: ProcessSample | None = None
        self._cpu_since = self._sampled_at
        self._cpu_seconds_then = self._read_cpu_seconds()

    def sample(self) -> ProcessSample:
        """Return the figures of now, or the last ones if they are fresh. Raises nothing.

        The first sample's `cpu_percent` is the use since the probe was made, None if that is less
        than a tenth of a second ago: CPU time is told in steps of a hundredth.
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
        memory = _figure(self._process.memory_info)
        return ProcessSample(
            memory_bytes=None if memory is None else memory.rss,
            cpu_percent=used,
            cpu_seconds=cpu_seconds,
            open_descriptors=_figure(self._process.num_fds),
            threads=_figure(self._process.num_threads),
        )

    def _read_cpu_seconds(self) -> float | None:
        times = _figure(self._process.cpu_times)
        return None if times is None else times.user + times.system


def _figure(read: Callable[[], T]) -> T | None:
    """Return what `read` returns, or None where the system does not tell, as in some containers."""
    try:
        return read()
    except (psutil.Error, OSError):
        return None
