"""Progress of a child is reported in its order, each once, and nothing after the attempt."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from readers import entries

from shared_sync.protocol import progress
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.live_job import JobContext, LiveJob
from shared_sync.redis_consumer.running.received_progress import ReceivedProgress
from shared_sync.redis_consumer.slot import Attempt


class Sink:
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.reported: list[tuple[str, float | None, dict[str, object]]] = []

    def report(self, job: LiveJob, value: float | None, fields: Mapping[str, object]) -> None:
        self.reported.append((job.entry.id, value, dict(fields)))


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def received(sink: Sink) -> ReceivedProgress:
    return ReceivedProgress(JobContext(Keys.of("jobs", "workers"), False, lambda: 0.0, sink))


def reported(number: int, value: float, message_id: str = "1-0") -> tuple[str, int, str]:
    return message_id, number, progress.store(value, {"n": number}).decode()


def test_the_last_progress_is_left_out_if_it_has_come_before(
    received: ReceivedProgress, sink: Sink
) -> None:
    received.begin(Attempt(entries("1-0", "2-0"), 5, 0.0))
    received.receive((5, *reported(1, 0.1)))
    received.receive((5, *reported(2, 0.2, "2-0")))
    received.end([reported(1, 0.1), reported(3, 0.3, "2-0")])
    assert sink.reported == [
        ("1-0", 0.1, {"n": 1}),
        ("2-0", 0.2, {"n": 2}),
        ("2-0", 0.3, {"n": 3}),
    ]


def test_progress_after_the_outcome_or_of_another_attempt_is_dropped(
    received: ReceivedProgress, sink: Sink
) -> None:
    received.receive((4, *reported(1, 0.1)))
    received.begin(Attempt(entries("1-0"), 5, 0.0))
    received.receive((4, *reported(2, 0.2)))
    received.end([reported(3, 0.3)])
    received.receive((5, *reported(2, 0.2)))
    received.end([reported(4, 0.4)])
    assert sink.reported == [("1-0", 0.3, {"n": 3})]


def test_the_numbers_of_each_attempt_begin_anew(received: ReceivedProgress, sink: Sink) -> None:
    for number in (5, 6):
        received.begin(Attempt(entries("1-0"), number, 0.0))
        received.receive((number, *reported(1, 0.1)))
        received.end()
    assert len(sink.reported) == 2


def test_a_message_that_has_ended_reports_nothing(received: ReceivedProgress, sink: Sink) -> None:
    attempt = Attempt(entries("1-0"), 5, 0.0)
    attempt.job(attempt.entries[0]).end()
    received.begin(attempt)
    received.receive((5, *reported(1, 0.1)))
    assert sink.reported == []
