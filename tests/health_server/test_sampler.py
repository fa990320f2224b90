"""Samples of the history: what a process knew before it stood still is not recorded as of now."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from helpers import Clock

from shared_sync.common.poller import PollResult
from shared_sync.health_server.payload import HealthData
from shared_sync.health_server.sampler import Sampler
from shared_sync.health_server.time_series import History


class Stub:
    """A poller whose calls a test answers."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.requested = self.answered = 0
        self.result: PollResult[Any] = PollResult()

    def request(self) -> int:
        self.requested += 1
        return self.requested

    def has_answered(self, ticket: int) -> bool:
        return self.answered >= ticket

    def answer(self, value: Any) -> None:
        self.answered = self.requested
        self.result = PollResult(value, ended_at=self._clock.now)


class Process:
    """A process with a sampler, which its watching thread calls four times a second."""

    def __init__(self) -> None:
        self.clock, self.wall = Clock(), Clock()
        self.metrics, self.check = Stub(self.clock), Stub(self.clock)
        self.history = History()
        self._sampler = Sampler(
            self.history,
            self.metrics,  # type: ignore[arg-type]
            clock=lambda: self.clock.now,
            wall=lambda: self.wall.now,
        )

    def run(self, seconds: float, **metrics: float) -> None:
        for _ in range(round(seconds * 4)):
            self.clock.now += 0.25
            self.wall.now += 0.25
            self._sampler.step({"check": self.check})  # type: ignore[dict-item]
            if metrics and self.metrics.requested > self.metrics.answered:
                self.metrics.answer(metrics)

    def sleep(self, seconds: float, *, suspended: bool = False) -> None:
        self.wall.now += seconds
        if not suspended:
            self.clock.now += seconds

    @property
    def rates(self) -> list[float]:
        """The growth of `jobs` per second between neighbouring samples."""
        read = self.history.read()
        points = list(zip(read["times"], read["figures"]["jobs"], strict=True))
        return [
            (value - before) / (at - earlier)
            for (earlier, before), (at, value) in pairwise(points)
            if None not in (value, before)
        ]


@pytest.mark.parametrize("suspended", [False, True], ids=["frozen", "suspended"])
def test_after_the_process_stood_still_no_rate_has_a_spike(suspended: bool) -> None:
    process = Process()
    process.run(30, jobs=0)
    process.run(5)  # requested, and not answered
    process.metrics.answer({"jobs": 0})
    process.sleep(60, suspended=suspended)
    process.run(30, jobs=600)
    assert max(process.rates) <= 600 / 60
    assert sum(rate > 0 for rate in process.rates) == 1


def test_results_of_checks_from_before_are_not_recorded_either() -> None:
    process = Process()
    process.check.answer(HealthData(values={"jobs": 0}))
    process.run(10, other=1)
    process.sleep(60)
    process.run(6, other=1)
    process.check.answer(HealthData(values={"jobs": 600}))
    process.run(10, other=1)
    jobs = process.history.read()["figures"]["jobs"]
    before, after = jobs.index(None), jobs.index(600)
    assert jobs[:before] == [0] * before
    assert jobs[before:after] == [None] * (after - before)
    assert set(jobs[after:]) == {600}


def test_slow_metrics_are_recorded_when_they_come_or_not_at_all() -> None:
    process = Process()
    process.run(1)
    process.metrics.answer({"jobs": 7})
    process.run(9)
    process.run(5, jobs=8)
    assert process.history.read()["figures"]["jobs"] == [7, None, 8]
