"""Samples of a process that is made up, on a clock that is set by hand; and of this one."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from helpers import Clock

from shared_sync.metrics.process import ProcessProbe


class FakeProcess:
    """A process whose values are set by the test; those in `hidden` may not be read."""

    def __init__(self) -> None:
        self.rss, self.user, self.system, self.descriptors, self.thread_count = 1000, 2.0, 1.0, 7, 3
        self.hidden: dict[str, Exception] = {}
        self.reads = 0

    def _value(self, name: str, value: Any) -> Any:
        self.reads += 1
        if name in self.hidden:
            raise self.hidden[name]
        return value

    def memory_info(self) -> Any:
        return self._value("memory", SimpleNamespace(rss=self.rss))

    def cpu_times(self) -> Any:
        return self._value("cpu", SimpleNamespace(user=self.user, system=self.system))

    def num_fds(self) -> Any:
        return self._value("descriptors", self.descriptors)

    def num_threads(self) -> Any:
        return self._value("threads", self.thread_count)


@pytest.fixture
def process() -> FakeProcess:
    return FakeProcess()


@pytest.fixture
def probe(clock: Clock, process: FakeProcess) -> ProcessProbe:
    return ProcessProbe(process=process, clock=clock)  # type: ignore[arg-type]


def test_a_sample_has_what_the_process_uses(probe: ProcessProbe) -> None:
    sample = probe.sample()
    assert (sample.memory_bytes, sample.open_descriptors, sample.threads) == (1000, 7, 3)
    assert sample.cpu_seconds == 3.0


def test_cpu_percent_is_the_use_since_the_sample_before(
    probe: ProcessProbe, process: FakeProcess, clock: Clock
) -> None:
    clock.now += 10
    process.user += 2
    process.system += 3
    assert probe.sample().cpu_percent == pytest.approx(50.0)
    clock.now += 2
    process.user += 3
    assert probe.sample().cpu_percent == pytest.approx(150.0)
    clock.now += 2
    assert probe.sample().cpu_percent == 0.0


def test_the_use_of_a_moment_is_not_known(
    probe: ProcessProbe, process: FakeProcess, clock: Clock
) -> None:
    """One step of the kernel's clock would be a multiple of all there is."""
    process.user += 0.01
    clock.now += 0.0001
    assert probe.sample().cpu_percent is None
    process.user += 0.99
    clock.now += 1.9999
    assert probe.sample().cpu_percent == pytest.approx(50.0)


def test_a_second_look_within_a_second_sees_the_same_sample(
    probe: ProcessProbe, process: FakeProcess, clock: Clock
) -> None:
    first = probe.sample()
    reads = process.reads
    process.rss = 5000
    clock.now += 0.9
    assert probe.sample() is first
    assert process.reads == reads
    clock.now += 0.1
    assert probe.sample().memory_bytes == 5000


@pytest.mark.parametrize(
    "error",
    [psutil.AccessDenied(1), psutil.NoSuchProcess(1), FileNotFoundError("/proc")],
    ids=lambda error: type(error).__name__,
)
def test_a_value_that_may_not_be_read_is_none_and_the_others_are_there(
    probe: ProcessProbe, process: FakeProcess, error: Exception
) -> None:
    process.hidden = {"descriptors": error, "cpu": error}
    sample = probe.sample()
    assert (sample.open_descriptors, sample.cpu_percent, sample.cpu_seconds) == (None, None, None)
    assert (sample.memory_bytes, sample.threads) == (1000, 3)


def test_cpu_percent_comes_back_one_sample_after_it_can_be_read_again(
    probe: ProcessProbe, process: FakeProcess, clock: Clock
) -> None:
    process.hidden = {"cpu": psutil.AccessDenied(1)}
    clock.now += 1
    assert probe.sample().cpu_percent is None
    process.hidden = {}
    clock.now += 1
    assert probe.sample().cpu_percent is None
    clock.now += 1
    process.user += 1
    assert probe.sample().cpu_percent == pytest.approx(100.0)


def test_this_very_process_has_values_that_make_sense() -> None:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    try:
        sample = ProcessProbe().sample()
    finally:
        os.close(descriptor)
    assert sample.memory_bytes is not None
    assert sample.memory_bytes > 1_000_000
    assert sample.open_descriptors is not None
    assert sample.open_descriptors >= 1
    assert sample.threads is not None
    assert sample.threads >= threading.active_count()
    assert sample.cpu_seconds is not None
    assert sample.cpu_seconds >= 0
