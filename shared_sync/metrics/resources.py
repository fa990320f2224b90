"""All that this process has and uses of its machine, in one sample."""

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
from shared_sync.metrics.polled_source import NothingToRead, Source
from shared_sync.metrics.process import ProcessProbe, ProcessSample
from shared_sync.metrics.stall_detector import StallDetector

T = TypeVar("T")

_NOTHING_KNOWN = ProcessSample(
    memory_bytes=None, cpu_percent=None, cpu_seconds=None, open_descriptors=None, threads=None
)


@dataclass(frozen=True, slots=True)
class ResourceSample:
    """Everything at one moment. What is missing, failed or is not known is None or empty.

    `gc_collections` is of all generations, since the process began. `stall_seconds` is the longest
    that the interpreter let its threads wait within the window; None before `Resources.start`.
    `source_failures` has each of "process", "container" and "gpu", also those that never failed, so
    that a counter made of it begins at 0; they count from the first sample of this process.
    """

    process: ProcessSample
    container: ContainerMemory | None
    gpus: tuple[GpuSample, ...]
    gc_collections: int
    stall_seconds: float | None
    source_failures: Mapping[str, int]


class Resources:
    """Samples the process, its container and the GPUs. Any thread may call any method.

    `root` is where the files of the kernel are looked for; `process` is the process to look at,
    by default the one that asks; `clock` counts seconds and never runs backwards. `on_tick` is
    called about once a second by a thread of this object, from `start` on; see `StallDetector`.

    Its threads refer to this object at most, never to who made it. So an owner does well to have
    it stopped on its own end: `weakref.finalize(owner, resources.stop)`.
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
        self._gpu_source = Source("gpu", partial(_read, self._gpus), clock=clock)
        # Each process's own: a fork is another process to look at.
        self._looks = PerProcess(partial(_Look, root, process, clock))
        self._looks.get()  # the first use of CPU counts from now on

    def start(self) -> None:
        """Start the threads, once in each process; a fork starts its own by calling this again.

        One keeps time; one reads the GPUs, if NVIDIA's library is installed, and ends when there is
        no driver. Raises RuntimeError where the system gives no more threads.
        """
        self._stall_detector.start()
        look = self._looks.get()
        if not look.has_asked_for_gpus:
            look.has_asked_for_gpus = True
            if may_have_gpus():
                self._gpu_source.start()

    def stop(self) -> None:
        """End the threads for good. Never waits, and may be called from a finalizer."""
        self._stall_detector.stop()
        self._gpu_source.stop()

    def sample(self) -> ResourceSample:
        """Return everything as of now, or the last sample if it is fresh. Raises nothing.

        A part that fails is counted under its name, and the others are there.
        """
        look = self._looks.get()
        with look.lock:
            now = self._clock()
            if look.sample is None or now - look.sampled_at >= self._max_age_seconds:
                look.sample = self._take(look)
                look.sampled_at = now
            return look.sample

    def _take(self, look: _Look) -> ResourceSample:
        process = look.part("process", look.look_at_process)
        container = look.part("container", look.look_at_container)
        return ResourceSample(
            process=_NOTHING_KNOWN if process is None else process,
            container=container,
            gpus=self._gpu_source.latest() or (),
            gc_collections=sum(generation["collections"] for generation in gc.get_stats()),
            stall_seconds=self._stall_detector.stall_seconds(),
            source_failures={
                **look.failures,
                "gpu": self._gpu_source.failures + self._gpus.failures,
            },
        )


class _Look:
    """One process's look at itself."""

    def __init__(
        self, root: Path, process: psutil.Process | None, clock: Callable[[], float]
    ) -> None:
        # Fixed after construction.
        self._root = root
        self._process = process
        self._clock = clock
        self.has_asked_for_gpus = False  # twice does no harm
        # Guarded by the lock, which is held while sampling: whoever comes meanwhile wants that
        # same sample. Re-entrant, because a signal handler may read metrics, too.
        self.lock = threading.RLock()
        self.failures = {"process": 0, "container": 0}
        self.sample: ResourceSample | None = None
        self.sampled_at = 0.0
        self._probe: ProcessProbe | None = None
        self.part("process", self._make_probe)

    def part(self, name: str, look: Callable[[], T]) -> T | None:
        """Return what `look` returns, or None if it fails, which is counted."""
        try:
            return look()
        except Exception:  # noqa: BLE001 - no part takes the others with it
            self.failures[name] += 1
            return None

    def look_at_process(self) -> ProcessSample:
        return self._make_probe().sample()

    def look_at_container(self) -> ContainerMemory | None:
        return container_memory(self._root)

    def _make_probe(self) -> ProcessProbe:
        """Return the probe; make it if that has not succeeded so far."""
        if self._probe is None:
            # How old a sample may be is decided once, above, not by two clocks' looks.
            self._probe = ProcessProbe(process=self._process, clock=self._clock, max_age_seconds=0)
        return self._probe


def _read(gpus: Gpus) -> tuple[GpuSample, ...]:
    samples = gpus.read()
    if not gpus.available:
        raise NothingToRead
    return samples
