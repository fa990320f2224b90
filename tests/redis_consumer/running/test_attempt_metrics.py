"""How long a message waited is measured at its first delivery, how long it took at each."""

from __future__ import annotations

import logging

import pytest
from helpers import Figures

from shared_sync.common.guarded import GuardedLogger, GuardedRecorder, ThreadRecorder
from shared_sync.protocol.messages import Entry
from shared_sync.redis_consumer.running.attempt_metrics import AttemptMetrics
from shared_sync.redis_consumer.server_clock import ServerClock
from shared_sync.redis_consumer.slot import Attempt, PartialAttempt

LOGGER = GuardedLogger(logging.getLogger("tests.attempt_metrics"))
WALL = 1_700_000_004.5
"""The server's time at the moment STARTED_AT of the monotonic clock."""
STARTED_AT = 100.0


class Remembering(Figures):
    """Keeps every duration."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded: list[tuple[str, float]] = []

    def record_duration(self, name: str, seconds: float) -> None:
        self.recorded.append((name, seconds))


class Scene:
    """The hook, and what it has recorded so far."""

    def __init__(self) -> None:
        self._remembering = Remembering()
        self._recorder = ThreadRecorder(GuardedRecorder(self._remembering, LOGGER))
        server_clock = ServerClock(clock=lambda: STARTED_AT, wall=lambda: WALL)
        self.metrics = AttemptMetrics(self._recorder, server_clock)

    def counters(self) -> dict[str, int]:
        self._recorder.flush()
        return self._remembering.counters

    def durations(self) -> list[tuple[str, float]]:
        self._recorder.flush()
        return self._remembering.recorded


@pytest.fixture
def scene() -> Scene:
    return Scene()


def attempt(*entries: Entry, seconds: float = 0.0) -> Attempt:
    made = Attempt(entries, 1, started_at=STARTED_AT)
    made.ended_at = STARTED_AT + seconds
    return made


def waits(scene: Scene) -> list[float]:
    return [seconds for name, seconds in scene.durations() if name == "queue_wait"]


def test_the_wait_in_the_queue_is_the_age_of_the_id_and_never_negative(scene: Scene) -> None:
    for entry_id in ("1700000000000-0", "1700000005400-0"):
        scene.metrics.after_attempt(attempt(Entry(entry_id, [])), None)
    assert waits(scene) == [pytest.approx(4.5), 0.0]
    assert scene.counters() == {}


@pytest.mark.parametrize(
    "entry_id",
    ["1-1", "0-1", "1700000000-0", "1514764799999-0", "1700000005600-0", f"{2**64 - 1}-7"],
)
def test_an_id_that_is_no_time_is_counted_apart(scene: Scene, entry_id: str) -> None:
    scene.metrics.after_attempt(attempt(Entry(entry_id, [])), None)
    assert waits(scene) == []
    assert scene.counters() == {"queue_wait_unknown": 1}


def test_the_time_that_the_message_ran_is_no_wait(scene: Scene) -> None:
    scene.metrics.after_attempt(attempt(Entry("1700000000000-0", []), seconds=3.0), None)
    assert waits(scene) == [pytest.approx(4.5)]


def test_the_wait_is_measured_at_the_first_delivery_only(scene: Scene) -> None:
    scene.metrics.after_attempt(attempt(Entry("1700000000000-0", [], deliveries=2)), None)
    assert waits(scene) == []


def test_each_message_of_an_attempt_has_waited_and_the_attempt_took_time_once(
    scene: Scene,
) -> None:
    both = attempt(Entry("1700000000000-0", []), Entry("1700000000500-0", []), seconds=3.0)
    scene.metrics.after_attempt(both, None)
    assert scene.durations() == [
        ("queue_wait", pytest.approx(4.5)),
        ("queue_wait", pytest.approx(4.0)),
        ("processing_latency", 3.0),
    ]


def test_messages_that_run_again_by_parts_of_their_batch_have_not_waited_twice(
    scene: Scene,
) -> None:
    part = PartialAttempt([Entry("1700000000000-0", [])], 2, 0.0)
    part.ended_at = 3.0
    scene.metrics.after_repeat(part, None)
    assert scene.durations() == [("processing_latency", 3.0)]


@pytest.mark.parametrize("error", [None, ValueError(), SystemExit()])
def test_the_processing_time_is_recorded_whatever_happens(
    scene: Scene, error: BaseException | None
) -> None:
    ended = attempt(Entry("1700000000000-0", [], deliveries=2), seconds=0.25)
    scene.metrics.after_attempt(ended, error)
    assert scene.durations() == [("processing_latency", 0.25)]
