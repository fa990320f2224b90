"""Samples of a machine that is made up, of parts that fail or hang; and of this very process."""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nvml
import psutil
import pytest
from helpers import Clock, eventually, in_a_fork

from shared_sync.metrics import resources as metrics_resources
from shared_sync.metrics.cgroup import ContainerMemory
from shared_sync.metrics.process import ProcessSample
from shared_sync.metrics.resources import Resources, ResourceSample

WITHIN = 20  # seconds for what should be there at once
NO_FAILURES = {"process": 0, "container": 0, "gpu": 0}
UNKNOWN = ProcessSample(None, None, None, None, None)


class FakeProcess:
    """A process that uses a CPU for as many seconds as the test says."""

    def __init__(self) -> None:
        self.cpu_seconds = 3.0
        self.error: Exception | None = None
        self.samples = 0

    def memory_info(self) -> Any:
        self.samples += 1
        return SimpleNamespace(rss=1000)

    def cpu_times(self) -> Any:
        if self.error is not None:
            raise self.error
        return SimpleNamespace(user=self.cpu_seconds, system=0.0)

    def num_fds(self) -> int:
        return 7

    def num_threads(self) -> int:
        return 3


@pytest.fixture
def process() -> FakeProcess:
    return FakeProcess()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A container with half of its memory in use."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    cgroup = tmp_path / "sys/fs/cgroup"
    cgroup.mkdir(parents=True)
    (cgroup / "memory.max").write_text("8192\n")
    (cgroup / "memory.current").write_text("4096\n")
    return tmp_path


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[nvml.FakeNvml]:
    library = nvml.FakeNvml(gpus=2)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    yield library
    library.go_on.set()


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_resources, "may_have_gpus", lambda: False)


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("shared-sync-")}


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    gc.collect()  # the metrics of other tests in this process stop their threads only then
    for thread in threads():
        thread.join(WITHIN)
    before = threads()
    yield
    for thread in threads() - before:
        thread.join(WITHIN)
    assert threads() <= before


Make = Callable[..., Resources]


@pytest.fixture
def make(clock: Clock, process: FakeProcess, root: Path) -> Iterator[Make]:
    """Makes resources of the made-up machine, which are stopped at the end of the test."""
    made: list[Resources] = []

    def make_one(**options: Any) -> Resources:
        given = {"root": root, "clock": clock, "process": process, **options}
        made.append(Resources(**given))
        return made[-1]

    yield make_one
    for resources in made:
        resources.stop()


# --- a sample ---------------------------------------------------------------------------------


def test_a_sample_has_the_process_and_its_container(
    make: Make, clock: Clock, process: FakeProcess
) -> None:
    resources = make()
    clock.now += 10
    process.cpu_seconds += 5
    sample = resources.sample()
    assert sample.process == ProcessSample(
        memory_bytes=1000, cpu_percent=50.0, cpu_seconds=8.0, open_descriptors=7, threads=3
    )
    assert sample.container == ContainerMemory(used_bytes=4096, limit_bytes=8192)
    assert sample.gpus == ()
    assert sample.stall_seconds is None
    assert sample.source_failures == NO_FAILURES


def test_a_sample_counts_the_garbage_collections(make: Make, clock: Clock) -> None:
    resources = make()
    before = resources.sample().gc_collections
    gc.collect()
    gc.collect()
    clock.now += 1
    assert resources.sample().gc_collections >= before + 2


def test_a_second_look_within_a_second_sees_the_same_sample(
    make: Make, clock: Clock, process: FakeProcess
) -> None:
    resources = make()
    first = resources.sample()
    clock.now += 0.9
    assert resources.sample() is first
    assert process.samples == 1
    clock.now += 0.1
    process.cpu_seconds += 0.25
    assert resources.sample().process.cpu_percent == pytest.approx(25.0)
    assert process.samples == 2


def test_many_who_ask_at_once_share_one_look(make: Make, process: FakeProcess) -> None:
    resources = make()
    all_here = threading.Barrier(8)
    samples: list[ResourceSample] = []

    def ask() -> None:
        all_here.wait(WITHIN)
        samples.append(resources.sample())

    askers = [threading.Thread(target=ask) for _ in range(8)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(WITHIN)
    assert len(samples) == 8
    assert {id(sample) for sample in samples} == {id(samples[0])}
    assert process.samples == 1


# --- parts that fail --------------------------------------------------------------------------


def test_a_process_that_cannot_be_looked_at_leaves_the_rest(
    make: Make, clock: Clock, process: FakeProcess
) -> None:
    resources = make()
    process.error = ZeroDivisionError()
    for failures in (1, 2):
        sample = resources.sample()
        assert sample.process == UNKNOWN
        assert sample.container == ContainerMemory(4096, 8192)
        assert sample.source_failures == {**NO_FAILURES, "process": failures}
        clock.now += 1
    process.error = None
    sample = resources.sample()
    assert sample.process.memory_bytes == 1000
    assert sample.source_failures == {**NO_FAILURES, "process": 2}


def test_a_process_that_cannot_be_looked_at_from_the_beginning_may_be_later(
    make: Make, process: FakeProcess
) -> None:
    process.error = ZeroDivisionError()
    resources = make()
    process.error = None
    sample = resources.sample()
    assert sample.process.memory_bytes == 1000
    assert sample.source_failures == {**NO_FAILURES, "process": 1}


def test_a_system_that_knows_no_process_leaves_the_rest(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise psutil.NoSuchProcess(os.getpid())

    monkeypatch.setattr(psutil, "Process", refuse)
    sample = make(process=None).sample()
    assert sample.process == UNKNOWN
    assert sample.container is not None
    assert sample.source_failures == {**NO_FAILURES, "process": 2}


def test_a_container_that_makes_no_sense_leaves_the_rest(
    make: Make, clock: Clock, root: Path
) -> None:
    resources = make()
    (root / "sys/fs/cgroup/memory.max").write_text("plenty\n")
    sample = resources.sample()
    assert sample.container is None
    assert sample.process.memory_bytes == 1000
    assert sample.source_failures == {**NO_FAILURES, "container": 1}
    (root / "sys/fs/cgroup/memory.max").write_text("max\n")
    clock.now += 1
    sample = resources.sample()
    assert sample.container is None
    assert sample.source_failures == {**NO_FAILURES, "container": 1}


# --- GPUs -------------------------------------------------------------------------------------


def test_gpus_are_read_by_a_thread_of_their_own(
    make: Make, clock: Clock, library: nvml.FakeNvml
) -> None:
    resources = make(max_age_seconds=0)
    assert library.calls == []
    resources.start()
    eventually(lambda: resources.sample().gpus, within=WITHIN)
    assert [gpu.index for gpu in resources.sample().gpus] == [0, 1]
    assert library.threads.isdisjoint({threading.get_ident()})


def test_nobody_waits_for_a_driver_that_hangs(
    make: Make, clock: Clock, library: nvml.FakeNvml
) -> None:
    library.hangs = "nvmlInit"
    resources = make(max_age_seconds=0)
    resources.start()
    assert library.hanging.wait(WITHIN)
    assert resources.sample().source_failures == NO_FAILURES
    clock.now += 6
    sample = resources.sample()
    assert sample.gpus == ()
    assert sample.process.memory_bytes == 1000
    assert sample.source_failures == {**NO_FAILURES, "gpu": 1}
    library.go_on.set()
    eventually(lambda: resources.sample().gpus, within=WITHIN)
    assert resources.sample().source_failures == {**NO_FAILURES, "gpu": 1}


def test_gpus_that_fail_leave_the_rest(make: Make, library: nvml.FakeNvml) -> None:
    library.errors = {"nvmlDeviceGetCount": nvml.NVMLError_GpuIsLost()}
    resources = make(max_age_seconds=0)
    resources.start()
    eventually(lambda: resources.sample().source_failures["gpu"] > 0, within=WITHIN)
    sample = resources.sample()
    assert sample.gpus == ()
    assert sample.container is not None


def test_without_a_driver_the_thread_for_gpus_ends(
    make: Make, library: nvml.FakeNvml, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    library.errors = {"nvmlInit": nvml.NVMLError_DriverNotLoaded()}
    resources = make(max_age_seconds=0)
    resources.start()
    eventually(lambda: "nvmlInit" in library.calls, within=WITHIN)
    eventually(lambda: {thread.name for thread in threads()} == {"shared-sync-stall-detector"})
    assert resources.sample().source_failures == NO_FAILURES
    assert caplog.records == []


@pytest.mark.usefixtures("no_library")
def test_without_the_library_there_is_no_thread_for_gpus(make: Make) -> None:
    resources = make()
    for _ in range(2):
        resources.start()
    assert [thread.name for thread in threads()] == ["shared-sync-stall-detector"]


# --- its life ---------------------------------------------------------------------------------


def test_making_it_starts_nothing(make: Make, library: nvml.FakeNvml) -> None:
    make().sample()
    assert threads() == set()
    assert library.calls == []


@pytest.mark.usefixtures("no_library")
def test_after_the_start_stalls_are_known_and_the_tick_comes(make: Make) -> None:
    ticked = threading.Event()
    resources = make(on_tick=ticked.set, max_age_seconds=0)
    resources.start()
    assert ticked.wait(WITHIN)
    eventually(lambda: resources.sample().stall_seconds is not None, within=WITHIN)


def test_an_owner_that_goes_takes_all_threads_with_it(library: nvml.FakeNvml) -> None:
    class Owner:
        def __init__(self) -> None:
            self.ticked = threading.Event()
            self.resources = Resources(on_tick=self.tick)
            weakref.finalize(self, self.resources.stop)
            self.resources.start()

        def tick(self) -> None:
            self.ticked.set()

    owner = Owner()
    assert owner.ticked.wait(WITHIN)
    assert library.read_once.wait(WITHIN)
    assert {thread.name for thread in threads()} == {
        "shared-sync-stall-detector",
        "shared-sync-gpu",
    }
    running = threads()
    gone = weakref.ref(owner)
    del owner
    eventually(lambda: gone() is None, within=WITHIN)  # the thread may just be in the method
    for thread in running:
        thread.join(WITHIN)
    assert threads() == set()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_looks_at_itself_and_has_threads_of_its_own(library: nvml.FakeNvml) -> None:
    resources = Resources(max_age_seconds=0)
    resources.start()
    eventually(lambda: resources.sample().gpus, within=WITHIN)
    busy = resources.sample().process.cpu_seconds

    def live_in_the_child() -> None:
        sample = resources.sample()
        assert sample.stall_seconds is None
        assert sample.gpus == ()
        assert busy is not None
        assert sample.process.cpu_seconds is not None
        assert sample.process.cpu_seconds < busy  # a new process has used next to nothing
        assert sample.process.threads == 1
        resources.start()
        eventually(lambda: resources.sample().gpus, within=WITHIN)
        assert resources.sample().process.threads == 3

    in_a_fork(live_in_the_child)
    resources.stop()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_can_be_asked_although_its_parent_was_just_looking(make: Make) -> None:
    resources = make()
    with resources._samplers.get().lock:
        assert in_a_fork(lambda: resources.sample().gc_collections) >= 0


def test_this_very_process_has_a_sample_that_makes_sense() -> None:
    sample = Resources().sample()
    assert sample.process.memory_bytes is not None
    assert sample.process.memory_bytes > 1_000_000
    assert sample.gc_collections >= 0
    assert sample.source_failures == NO_FAILURES
