"""The memory of children is measured now and then, and is a reason to replace one."""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil
import pytest
from helpers import Clock, Figures

from shared_sync.redis_consumer.running import child_memory
from shared_sync.redis_consumer.running.child_memory import (
    MEASURE_SECONDS,
    MemoryLimit,
    record_memory,
    resident_mb,
)

GONE = 2**22 + 1
"""No process has such an id."""


@dataclass
class Runner:
    child_pid: int | None


def test_a_child_is_measured_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, sizes = Clock(), [90.0, 110.0]
    monkeypatch.setattr(child_memory, "resident_mb", lambda _: sizes.pop(0))
    limit = MemoryLimit(100, clock=clock)
    assert not limit.is_passed_by(1)
    clock.now += MEASURE_SECONDS / 2
    assert not limit.is_passed_by(1), "not measured again"
    clock.now += MEASURE_SECONDS / 2
    assert limit.is_passed_by(1)
    assert limit.is_passed_by(1)
    assert limit.measured_mb == 110


def test_a_new_child_is_measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [110.0, 90.0]
    monkeypatch.setattr(child_memory, "resident_mb", lambda _: sizes.pop(0))
    limit = MemoryLimit(100, clock=Clock())
    assert limit.is_passed_by(1)
    limit.child_starts()
    assert not limit.is_passed_by(2)


def test_without_a_limit_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_memory, "resident_mb", lambda _: 1 / 0)
    assert not MemoryLimit(None).is_passed_by(1)


def test_what_is_measured_is_the_resident_memory() -> None:
    found = resident_mb(os.getpid())
    assert found == pytest.approx(psutil.Process().memory_info().rss / 2**20, rel=0.1)
    assert resident_mb(GONE) == 0.0


def test_the_memory_of_all_children_is_one_gauge() -> None:
    figures = Figures()
    record_memory([Runner(os.getpid()), Runner(None), Runner(GONE)], figures)
    assert figures.gauges["children_memory_mb"] == pytest.approx(resident_mb(os.getpid()), rel=0.1)


def test_a_pool_without_children_has_no_such_gauge() -> None:
    figures = Figures()
    record_memory([], figures)
    assert figures.gauges == {}
