"""What this process uses of its machine, in one sample."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import psutil

from shared_sync.common.fork import PerProcess
from shared_sync.metrics.cgroup import ContainerMemory, container_memory
from shared_sync.metrics.gpu import Gpus, GpuSample, may_have_gpus
from shared_sync.metrics.polled_source import NothingToRead, PolledSource
from shared_sync.metrics.process import ProcessProbe, ProcessSample
from shared_sync.metrics.stall_detector import StallDetector

T = TypeVar("T")

_NOTHING_KNOWN = ProcessSample(
    memory_bytes=None, cpu_percent=None, cpu_seconds=None, open_descriptors=None, threads=None
)


@dataclass(frozen=True, slots=True)
class ResourceSample:
    """Everything at one moment. What is missing, has failed or is not known is None or empty.

    `gc_collections` is of all generations, since the process began. `stall_seconds` is the longest
    time within the window in which the interpreter let no thread run; None before
    `Resources.start`. `source_failures` is the number of failures of each source ("process",
    "container" and "gpu") since the first sample of this process, also of those that never failed,
    so that a counter begins at 0.
    """

    process: ProcessSample
    container: ContainerMemory | None
    gpus: tuple[GpuSample, ...]
    gc_collections: int
    stall_seconds: float | None
    source_failures: Mapping[str, int]


class Resources:
    """Samples the process, its container and the GPUs. Any thread may call any method.

    The background threads may keep this object alive, but not its owner. So an owner should have it
    stopped when the owner itself ends: `weakref.finalize(owner, resources.stop)`.

    Args:
        root: The folder that has the kernel's files; `/` except in tests.
        clock: Counts seconds and never runs backwards.
        process: The process to sample; None for the one that calls.
        max_age_seconds: For how long a sample counts as fresh.
        window_seconds: How far back a stall counts.
        on_tick: Called about once a second by a background thread, from `start` on; see
            `StallDetector`.
    """

    def __init__(
        self,
        *,
        root: Path = Path("/"),
        clock: Callable[[], float] = time.monotonic,
        process: psutil.Process | None = None,
        max_age_seconds: float = 1.0,
        window_seconds: float = 300.0,
        on_tick: Callable[[], None] | None = None,
    ) -> None:
        # Fixed after construction.
        self._clock = clock
        self._max_age_seconds = max_age_seconds
        self._stall_detector = StallDetector(on_tick, window_seconds=window_seconds, clock=clock)
        self._gpus = Gpus()
        self._gpu_source = PolledSource("gpu", partial(_read, self._gpus), clock=clock)
        # Each process's own: a fork is another process to sample.
        self._samplers = PerProcess(partial(_Sampler, root, process, clock))
        self._samplers.get()  # the first CPU use is measured from now on

    def start(self) -> None:
        """Start the threads, once in each process; a fork starts its own by calling this again.

        One thread measures stalls. Another reads the GPUs if NVIDIA's library is installed, and
        ends if there is no driver. Raises RuntimeError if the system gives no more threads.
        """
        self._stall_detector.start()
        sampler = self._samplers.get()
        if not sampler.has_started_gpus:
            sampler.has_started_gpus = True
            if may_have_gpus():
                self._gpu_source.start()

    def stop(self) -> None:
        """End the threads for good. Never waits, and may be called from a finalizer."""
        self._stall_detector.stop()
        self._gpu_source.stop()

    def sample(self) -> ResourceSample:
        """Return a current sample, or the last one if it is fresh. Raises nothing.

        A source that fails is counted under its name, and the others are sampled all the same.
        """
        sampler = self._samplers.get()
        with sampler.lock:
            now = self._clock()
            if sampler.sample is None or now - sampler.sampled_at >= self._max_age_seconds:
                sampler.sample = self._take(sampler)
                sampler.sampled_at = now
            return sampler.sample

    def _take(self, sampler: _Sampler) -> ResourceSample:
        process = sampler.read_source("process", sampler.sample_process)
        container = sampler.read_source("container", sampler.sample_container)
        return ResourceSample(
            process=_NOTHING_KNOWN if process is None else process,
            container=container,
            gpus=self._gpu_source.latest() or (),
            gc_collections=sum(generation["collections"] for generation in gc.get_stats()),
            stall_seconds=self._stall_detector.stall_seconds(),
            source_failures={
                **sampler.failures,
                "gpu": self._gpu_source.failures + self._gpus.failures,
            },
        )


class _Sampler:
    """Samples one process and its container."""

    def __init__(
        self, root: Path, process: psutil.Process | None, clock: Callable[[], float]
    ) -> None:
        # Fixed after construction.
        self._root = root
        self._process = process
        self._clock = clock
        self.has_started_gpus = False  # starting twice does no harm
        # Guarded by the lock, which is held while sampling: a thread that comes meanwhile wants the
        # same sample. Re-entrant, because a signal handler may read metrics.
        self.lock = threading.RLock()
        self.failures = {"process": 0, "container": 0}
        self.sample: ResourceSample | None = None
        self.sampled_at = 0.0
        self._probe: ProcessProbe | None = None
        self.read_source("process", self._get_probe)

    def read_source(self, name: str, read: Callable[[], T]) -> T | None:
        """Return what `read` returns, or None if it fails, which is counted."""
        try:
            return read()
        except Exception:  # noqa: BLE001 - if one source fails, the others are read all the same
            self.failures[name] += 1
            return None

    def sample_process(self) -> ProcessSample:
        return self._get_probe().sample()

    def sample_container(self) -> ContainerMemory | None:
        return container_memory(self._root)

    def _get_probe(self) -> ProcessProbe:
        """Return the probe; construct it if that has not succeeded so far."""
        if self._probe is None:
            # `Resources.sample` alone decides how old a sample may be.
            self._probe = ProcessProbe(process=self._process, clock=self._clock, max_age_seconds=0)
        return self._probe


def _read(gpus: Gpus) -> tuple[GpuSample, ...]:
    samples = gpus.read()
    if not gpus.available:
        raise NothingToRead
    return samples
