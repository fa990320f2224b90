"""How long a message waited is measured at its first delivery, how long it took at each."""

from __future__ import annotations

import pytest

from shared_sync.protocol.messages import Entry
from shared_sync.redis_consumer.attempt_metrics import AttemptMetrics
from shared_sync.redis_consumer.slot import Attempt

WALL = 1_700_000_004.5


class Remembering:
    """A recorder that keeps every duration."""

    def __init__(self) -> None:
        self.durations: list[tuple[str, float]] = []

    def record_duration(self, name: str, seconds: float) -> None:
        self.durations.append((name, seconds))


@pytest.fixture
def recorder() -> Remembering:
    return Remembering()


@pytest.fixture
def metrics(recorder: Remembering) -> AttemptMetrics:
    return AttemptMetrics(recorder, wall=lambda: WALL)


def attempt(*entries: Entry) -> Attempt:
    return Attempt(entries, 1, started_at=100.0)


def test_the_wait_in_the_queue_is_the_age_of_the_id_and_never_negative(
    metrics: AttemptMetrics, recorder: Remembering
) -> None:
    for entry_id in ("1700000000000-0", "9700000000000-0", "0-1"):
        metrics.before_attempt(attempt(Entry(entry_id, [])))
    assert recorder.durations == [
        ("queue_wait", pytest.approx(4.5)),
        ("queue_wait", 0.0),
        ("queue_wait", pytest.approx(WALL)),
    ]


def test_the_wait_is_measured_at_the_first_delivery_only(
    metrics: AttemptMetrics, recorder: Remembering
) -> None:
    metrics.before_attempt(attempt(Entry("1700000000000-0", [], deliveries=2)))
    assert recorder.durations == []


def test_each_message_of_an_attempt_has_waited_and_the_attempt_took_its_time_once(
    metrics: AttemptMetrics, recorder: Remembering
) -> None:
    both = attempt(Entry("1700000000000-0", []), Entry("1700000003500-0", []))
    metrics.before_attempt(both)
    both.ended_at = 103.0
    metrics.after_attempt(both, None)
    assert recorder.durations == [
        ("queue_wait", pytest.approx(4.5)),
        ("queue_wait", pytest.approx(1.0)),
        ("processing_latency", 3.0),
    ]


@pytest.mark.parametrize("error", [None, ValueError(), SystemExit()])
def test_the_processing_time_is_recorded_whatever_happens(
    metrics: AttemptMetrics, recorder: Remembering, error: BaseException | None
) -> None:
    ended = attempt(Entry("1700000000000-0", [], deliveries=2))
    ended.ended_at = 100.25
    metrics.after_attempt(ended, error)
    assert recorder.durations == [("processing_latency", 0.25)]
