"""A delivery around a processor that a test supplies, and what became of its attempts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from helpers import Clock, Figures
from runners import new_runner

from shared_sync.common.guarded import GuardedRecorder, ThreadRecorder
from shared_sync.policies import RetryPolicy
from shared_sync.protocol.job_options import OPTIONS, JobOptions
from shared_sync.protocol.messages import Bury, Entry, Finish, Outcome
from shared_sync.protocol.results import Results
from shared_sync.redis_consumer.charges import Rules
from shared_sync.redis_consumer.delivery import Delivery
from shared_sync.redis_consumer.interruptions import Interruptions
from shared_sync.redis_consumer.jobs.cancellations import KnownMarks
from shared_sync.redis_consumer.running.attempt_metrics import AttemptMetrics
from shared_sync.redis_consumer.server_clock import ServerClock
from shared_sync.redis_consumer.slot import Slot

LOGGER = logging.getLogger("tests.delivery")
POLICY = RetryPolicy(max_attempts=3, base_seconds=2.0, max_seconds=60.0, jitter=0.0)
ID = "1700000000000-0"
WALL = 1_700_000_004.5

Process = Callable[[str, dict[str, Any]], object]


class Deliveries:
    """A `Delivery` with its runner and slot, what it called, and what it recorded."""

    def __init__(
        self,
        process: Process,
        *,
        retry: RetryPolicy = POLICY,
        stream: str | None = "results",
        channel: str | None = None,
        carry: tuple[str, ...] = (),
        binary: tuple[str, ...] = (),
        max_crashes: int = 3,
        max_age_seconds: float | None = None,
        dead_letter_expired: bool = False,
    ) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.retries: list[float] = []
        self.figures = Figures()
        self.slot = Slot("reader-1")
        self.interruptions = Interruptions()
        self.marks = KnownMarks()
        self._recorder = recorder = ThreadRecorder(GuardedRecorder(self.figures, LOGGER))

        def processor(message_id: str, fields: dict[str, Any]) -> object:
            self.calls.append((message_id, dict(fields)))
            return process(message_id, fields)

        server_clock = ServerClock(clock=Clock(), wall=lambda: WALL)
        self.runner = new_runner(processor, [AttemptMetrics(recorder, server_clock)], clock=Clock())
        self.delivery = Delivery(
            Rules(
                consumer="worker-1",
                binary_fields=frozenset(binary),
                retry=retry,
                max_crashes=max_crashes,
                results=Results(
                    stream="jobs",
                    result_stream=stream,
                    result_channel=channel,
                    carry_fields=carry,
                    binary_fields=binary,
                ),
                max_age_seconds=max_age_seconds,
                dead_letter_expired=dead_letter_expired,
            ),
            recorder=recorder,
            logger=LOGGER,
            on_retry=self.retries.append,
            interruptions=self.interruptions,
            marks=self.marks,
            server_time=lambda: WALL,
            wall=lambda: WALL,
        )

    def attempt(self, entry: Entry) -> Outcome | None:
        """What becomes of a message; None if it is done and has no result."""
        self.slot.waiting.append(entry)
        attempt = self.slot.start_next(Clock.now)
        assert attempt is not None
        try:
            return self.delivery.run(attempt, self.runner, self.slot)
        finally:
            self.slot.end_attempt()
            self._recorder.flush()

    def overdue(self, entry: Entry, deadline_seconds: float) -> Outcome:
        """What becomes of a message that has run for too long."""
        outcome = self.delivery.overdue(entry, deadline_seconds, "the stack")
        self._recorder.flush()
        return outcome


def entry(
    *items: bytes, deliveries: int = 1, failures: int = 0, options: JobOptions | None = None
) -> Entry:
    job = [OPTIONS.encode(), options.to_item()] if options is not None else []
    return Entry(
        ID,
        [*(items or (b"text", b"hello")), *job],
        deliveries=deliveries,
        history=b'{"error": "x"}\n' * failures,
    )


def raising(error: BaseException) -> Process:
    def process(_id: str, _fields: dict[str, Any]) -> object:
        raise error

    return process


def metadata(outcome: Outcome | None) -> dict[str, str]:
    """What a dead letter says besides the fields of its message."""
    assert isinstance(outcome, Bury)
    return as_texts(outcome.metadata)


def result_of(outcome: Finish | Bury) -> dict[str, str]:
    """The fields of the entry that goes to the result stream."""
    if isinstance(outcome, Bury):
        return as_texts(outcome.answer.items)
    header = {"message_id": outcome.id, "status": "done"} if outcome.adds_header else {}
    return {**header, **as_texts(outcome.items)}


def as_texts(items: Any) -> dict[str, str]:
    texts = [item.decode() for item in items]
    return dict(zip(texts[::2], texts[1::2], strict=True))
