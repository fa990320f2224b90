"""A worker of a supervisor: started again with pauses, replaced if it hangs, killed at last."""

from __future__ import annotations

import queue
import signal
from collections.abc import Mapping
from typing import Any

import pytest
from helpers import Clock

from shared_sync.cli.worker.supervised_worker import SupervisedWorker
from shared_sync.cli.worker.supervisor import Supervisor

DRAIN_SECONDS = 25.0
WELL: Mapping[str, Any] = {"started": True, "live": True, "ready": True, "redis_connected": True}


class Process:
    """A worker process that does what the test says."""

    def __init__(self, clock: Clock, pid: int) -> None:
        self.pid = pid
        self.started_at = self.heard_at = clock()
        self.health: Mapping[str, Any] | None = None
        self.status: int | None = None
        self.drains: list[float | None] = []
        self.was_killed = False

    def exit_status(self) -> int | None:
        return self.status

    def stop(self, seconds: float | None) -> None:
        self.drains.append(seconds)

    def kill(self) -> None:
        self.was_killed = True

    def close(self) -> None: ...


class Scene:
    """A supervised worker, its processes, and a clock that the test moves."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.processes: list[Process] = []
        self.counted = 0
        self.worker = SupervisedWorker(
            "w-1", {}, DRAIN_SECONDS, on_restart=self._count, start=self._start, clock=clock
        )
        assert self.worker.step()

    def _count(self) -> None:
        self.counted += 1

    def _start(self, setup: Mapping[str, Any]) -> Any:
        self.processes.append(Process(self.clock, len(self.processes) + 1))
        return self.processes[-1]

    @property
    def process(self) -> Process:
        return self.processes[-1]

    def after(self, seconds: float) -> int:
        """Let so much time pass; how many processes were started by then."""
        self.clock.now += seconds
        assert self.worker.step()
        return len(self.processes)

    def end(self, status: int) -> None:
        self.process.status = status
        assert self.worker.step()

    def reasons(self) -> list[str]:
        found: list[str] = self.worker.health()["reasons"]
        return found


@pytest.fixture
def scene(clock: Clock) -> Scene:
    return Scene(clock)


def test_pauses_between_starts_grow_until_one_has_run_for_a_while(scene: Scene) -> None:
    pauses = []
    for number in range(1, 10):
        scene.end(70 if number % 2 else -signal.SIGSEGV)
        ended_at = scene.clock()
        while scene.after(0.25) == number:
            pass
        pauses.append(scene.clock() - ended_at)
    assert pauses[0] <= 1.25
    assert pauses[0] < pauses[2] < pauses[4]
    assert 45 <= pauses[-1] <= 60.25
    assert scene.counted == 9
    scene.after(61)
    scene.end(1)
    assert scene.reasons() == ["starts in 1 s, after exit status 1"]
    assert scene.after(1.0) == 11


def test_one_that_is_not_live_drains_and_is_killed_in_the_end(scene: Scene) -> None:
    assert scene.reasons() == ["starts"]
    scene.process.health = {**WELL, "live": False, "reasons": ["a job runs for 90 s"]}
    scene.after(0)
    assert scene.process.drains == [DRAIN_SECONDS]
    health = scene.worker.health()
    assert health["reasons"] == ["is replaced, because a job runs for 90 s"]
    assert health["ready"] is False
    assert "live" not in health
    scene.after(DRAIN_SECONDS + 7)
    assert not scene.process.was_killed
    scene.after(1)
    assert scene.process.was_killed
    scene.end(-signal.SIGKILL)
    assert scene.after(1) == 2
    assert scene.worker.was_killed is False  # that concerns the end of the supervisor


def test_one_that_reports_nothing_is_not_ready_and_then_replaced(scene: Scene) -> None:
    scene.after(1000)
    assert scene.process.drains == []  # it loads a model, perhaps
    scene.process.health, scene.process.heard_at = WELL, scene.clock()
    scene.after(11)
    assert scene.reasons() == ["has reported nothing for 11 s"]
    scene.after(49)
    assert scene.process.drains == [DRAIN_SECONDS]
    scene.end(0)
    assert scene.after(0) == 2  # no pause, as it was asked to end


def test_a_second_stop_shortens_the_first_and_nothing_is_started_again(scene: Scene) -> None:
    scene.worker.stop(None)
    scene.worker.stop(0.0)
    assert scene.process.drains == [DRAIN_SECONDS, 0.0]
    scene.after(8)
    assert scene.process.was_killed
    scene.end(-signal.SIGKILL)
    assert scene.worker.has_ended
    assert scene.worker.was_killed
    assert scene.after(100) == 1
    assert scene.counted == 0


def test_a_bad_configuration_is_tried_again_only_when_the_source_has_changed(scene: Scene) -> None:
    scene.process.status = 2
    assert not scene.worker.step()
    assert scene.after(1000) == 1
    assert scene.reasons() == ["starts when its source has changed, after exit status 2"]
    scene.worker.restart("app.py has changed")
    assert scene.after(0) == 2


class Unable:
    """A worker whose configuration cannot work."""

    was_killed = False
    has_ended = True

    def __init__(self) -> None:
        self.stops = 0

    def step(self) -> bool:
        return self.stops > 0

    def stop(self, seconds: float | None) -> None:
        self.stops += 1


def test_all_end_if_the_configuration_of_one_cannot_work() -> None:
    one, other = Unable(), Unable()
    workers: Any = [one, other]
    assert Supervisor(workers, None).run(queue.SimpleQueue()) == 2
    assert one.stops == other.stops == 1
