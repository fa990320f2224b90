"""What becomes of a message: done, tried again later, or a dead letter with its reason."""

from __future__ import annotations

import json
import logging
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from helpers import Clock, Figures

from shared_sync.common.guarded import GuardedRecorder
from shared_sync.errors import ConfigurationError, Reject, Retry
from shared_sync.message import Message, current_message
from shared_sync.policies import MAX_DELAY_SECONDS, RetryPolicy
from shared_sync.protocol.commands import Answer, Bury, Entry, Finish, Outcome, Park
from shared_sync.redis_consumer.delivery import MAX_ERROR_CHARS, MAX_TRACEBACK_CHARS, Delivery
from shared_sync.redis_consumer.results import Results
from shared_sync.redis_consumer.runner import ThreadProcessor

LOGGER = logging.getLogger("tests.delivery")
POLICY = RetryPolicy(max_attempts=3, base_seconds=2.0, max_seconds=60.0, jitter=0.0)
ID = "1700000000000-0"
WALL = 1_700_000_004.5


class OwnKind(BaseException):
    """Not even an Exception."""


class WithoutText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Exiting(Exception):
    def __str__(self) -> str:
        raise SystemExit(1)


class Deliveries:
    """A Delivery round a processor that a test supplies, and what it recorded."""

    def __init__(
        self,
        process: Callable[[str, dict[str, Any]], object],
        *,
        retry: RetryPolicy = POLICY,
        stream: str | None = "results",
        channel: str | None = None,
        carry: tuple[str, ...] = (),
        binary: tuple[str, ...] = (),
        max_crashes: int = 3,
    ) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.figures = Figures()
        self.clock = Clock()

        def processor(message_id: str, fields: dict[str, Any]) -> object:
            self.calls.append((message_id, dict(fields)))
            return process(message_id, fields)

        self.delivery = Delivery(
            processor=ThreadProcessor(processor),
            results=Results(
                result_stream=stream,
                result_channel=channel,
                carry_fields=carry,
                binary_fields=binary,
            ),
            consumer="worker-1",
            binary_fields=binary,
            retry=retry,
            max_crashes=max_crashes,
            recorder=GuardedRecorder(self.figures, LOGGER),
            logger=LOGGER,
            clock=self.clock,
            wall=lambda: WALL,
        )

    def attempt(self, entry: Entry) -> Outcome:
        return self.delivery.attempt(entry)


@pytest.fixture(autouse=True)
def _listen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger=LOGGER.name)


def entry(*items: bytes, deliveries: int = 1, failures: int = 0) -> Entry:
    return Entry(
        ID,
        list(items) or [b"text", b"hello"],
        deliveries=deliveries,
        history=b'{"error": "x"}\n' * failures,
    )


def raising(error: BaseException) -> Callable[[str, dict[str, Any]], object]:
    def process(_id: str, _fields: dict[str, Any]) -> object:
        raise error

    return process


def metadata(outcome: Outcome) -> dict[str, str]:
    assert isinstance(outcome, Bury)
    texts = [item.decode() for item in outcome.metadata]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def result_of(answer: Answer) -> dict[str, str]:
    texts = [item.decode() for item in answer.items]
    return dict(zip(texts[::2], texts[1::2], strict=True))


# --- success ----------------------------------------------------------------------------------


def test_a_processor_gets_the_id_and_the_fields_and_its_result_is_the_answer() -> None:
    deliveries = Deliveries(lambda _id, fields: {"upper": fields["text"].upper()})
    outcome = deliveries.attempt(entry())
    assert isinstance(outcome, Finish)
    assert outcome.id == ID
    assert result_of(outcome.answer) == {"message_id": ID, "status": "done", "upper": "HELLO"}
    assert deliveries.calls == [(ID, {"text": "hello"})]


def test_a_result_of_none_finishes_the_message_and_publishes_nothing() -> None:
    assert Deliveries(lambda _id, _fields: None).attempt(entry()) == Finish(ID, Answer())


def test_binary_fields_reach_the_processor_as_bytes() -> None:
    deliveries = Deliveries(lambda _id, _fields: None, binary=("audio",))
    deliveries.attempt(entry(b"audio", b"\xff\x00", b"text", b"hello"))
    assert deliveries.calls == [(ID, {"audio": b"\xff\x00", "text": "hello"})]


def test_what_a_processor_does_to_its_fields_does_not_change_what_is_carried() -> None:
    def spoil(_id: str, fields: dict[str, Any]) -> str:
        fields.clear()
        return "done"

    outcome = Deliveries(spoil, carry=("text",)).attempt(entry())
    assert isinstance(outcome, Finish)
    assert result_of(outcome.answer)["text"] == "hello"


def test_the_current_message_tells_the_attempt() -> None:
    seen: list[Message] = []
    deliveries = Deliveries(lambda _id, _fields: seen.append(current_message()))
    deliveries.attempt(entry(deliveries=2, failures=1))
    assert seen == [Message(ID, {"text": "hello"}, attempt=2)]


# --- failure ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("failures", "delay_ms"), [(0, 2000), (1, 4000)])
def test_a_failure_is_tried_again_after_the_policys_delay(failures: int, delay_ms: int) -> None:
    deliveries = Deliveries(raising(ValueError("bad day")))
    outcome = deliveries.attempt(entry(deliveries=failures + 1, failures=failures))
    assert isinstance(outcome, Park)
    assert (outcome.id, outcome.delay_ms) == (ID, delay_ms)
    assert json.loads(outcome.failure) == {
        "worker": "worker-1",
        "time": WALL,
        "attempt": failures + 1,
        "error_type": "ValueError",
        "error": "bad day",
    }
    assert "\n" not in outcome.failure


def test_an_errors_text_of_several_lines_is_one_line_of_history() -> None:
    outcome = Deliveries(raising(ValueError("a\nb\r\n\u2028c"))).attempt(entry())
    assert isinstance(outcome, Park)
    assert "\n" not in outcome.failure
    assert json.loads(outcome.failure)["error"] == "a\nb\r\n\u2028c"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        SystemExit(1),
        KeyboardInterrupt(),
        MemoryError(),
        RecursionError(),
        GeneratorExit(),
        StopIteration(),
        OwnKind("x"),
        WithoutText(),
        Exiting(),
        ConfigurationError("x"),
        ValueError("\ud800 half a surrogate"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("failures", [0, 2])
def test_whatever_a_processor_raises_is_a_failure_and_never_comes_through(
    error: BaseException, failures: int
) -> None:
    deliveries = Deliveries(raising(error))
    outcome = deliveries.attempt(entry(deliveries=failures + 1, failures=failures))
    assert isinstance(outcome, Park if failures == 0 else Bury)
    name = type(error).__name__
    assert deliveries.figures.counters["jobs_failed"] == 1
    assert deliveries.figures.counters[f"errors.{name}"] == 1
    assert json.loads(outcome.failure)["error_type"] == name
    outcome.failure.encode()


def test_an_error_whose_text_cannot_be_read_is_still_a_failure_with_its_type() -> None:
    outcome = Deliveries(raising(WithoutText())).attempt(entry())
    assert isinstance(outcome, Park)
    assert json.loads(outcome.failure)["error_type"] == "WithoutText"
    assert json.loads(outcome.failure)["error"]


def test_a_long_error_text_is_shortened() -> None:
    outcome = Deliveries(raising(ValueError("x" * 100_000))).attempt(entry())
    assert isinstance(outcome, Park)
    assert len(json.loads(outcome.failure)["error"]) == MAX_ERROR_CHARS


@pytest.mark.parametrize("told_as", [MemoryError, RuntimeError])
def test_what_a_call_held_when_memory_ran_out_is_gone_before_it_is_told(
    monkeypatch: pytest.MonkeyPatch, told_as: type[Exception]
) -> None:
    """Telling needs memory too."""
    hoards: list[weakref.ref[Figures]] = []
    gone: list[bool] = []

    def fill() -> None:
        hoard = Figures()
        hoards.append(weakref.ref(hoard))
        raise MemoryError

    def process(*_: object) -> None:
        own = Figures()
        hoards.append(weakref.ref(own))
        try:
            fill()
        except MemoryError:
            if told_as is MemoryError:
                raise
            raise told_as("no room") from None

    def log(*_: object, **__: object) -> None:
        gone.extend(hoard() is None for hoard in hoards)

    monkeypatch.setattr(LOGGER, "warning", log)
    assert isinstance(Deliveries(process).attempt(entry()), Park)
    assert gone == [True, True]


def test_a_result_that_cannot_be_written_is_a_failure_that_names_the_field() -> None:
    deliveries = Deliveries(lambda _id, _fields: {"score": object()})
    outcome = deliveries.attempt(entry())
    assert isinstance(outcome, Park)
    assert "'score'" in json.loads(outcome.failure)["error"]
    assert deliveries.figures.counters["errors.InvalidMessage"] == 1


def test_a_result_that_breaks_while_it_is_read_is_a_failure() -> None:
    class Treacherous(Mapping[str, object]):
        def __getitem__(self, _name: str) -> object:
            raise OSError("lazily loaded, and gone")

        def __iter__(self) -> Iterator[str]:
            return iter(["text"])

        def __len__(self) -> int:
            return 1

    outcome = Deliveries(lambda _id, _fields: Treacherous()).attempt(entry())
    assert isinstance(outcome, Park)
    assert json.loads(outcome.failure)["error_type"] == "OSError"


def test_the_last_allowed_failure_makes_a_dead_letter_with_all_that_is_known() -> None:
    deliveries = Deliveries(raising(ValueError("bad day")), carry=("text",))
    outcome = deliveries.attempt(entry(deliveries=4, failures=2))
    assert isinstance(outcome, Bury)
    facts = metadata(outcome)
    trace = facts.pop("dead.traceback")
    assert facts == {
        "dead.id": ID,
        "dead.reason": "failed 3 times",
        "dead.error_type": "ValueError",
        "dead.error": "bad day",
        "dead.attempts": "4",
        "dead.crashes": "1",
        "dead.worker": "worker-1",
        "dead.time": str(WALL),
    }
    assert trace.startswith("Traceback")
    assert trace.rstrip().endswith("ValueError: bad day")
    assert json.loads(outcome.failure)["error"] == "bad day"
    assert result_of(outcome.answer) == {
        "message_id": ID,
        "status": "dead",
        "text": "hello",
        "reason": "failed 3 times",
        "error_type": "ValueError",
        "error": "bad day",
        "attempts": "4",
    }


def test_of_a_long_traceback_the_end_is_kept() -> None:
    def deep(depth: int) -> None:
        if depth == 0:
            raise ValueError("at the bottom " + "y" * 1000)
        deep(depth - 1)

    def process(_id: str, _fields: dict[str, Any]) -> None:
        try:
            deep(50)
        except ValueError as cause:
            raise RuntimeError("last words") from cause

    outcome = Deliveries(process).attempt(entry(deliveries=3, failures=2))
    trace = metadata(outcome)["dead.traceback"]
    assert len(trace) <= MAX_TRACEBACK_CHARS
    assert trace.rstrip().endswith("last words")


# --- what a processor asks for ----------------------------------------------------------------


def test_a_retry_waits_as_long_as_the_processor_says() -> None:
    outcome = Deliveries(raising(Retry(12.3456, "rate limit"))).attempt(entry())
    assert isinstance(outcome, Park)
    assert outcome.delay_ms == 12346
    assert json.loads(outcome.failure)["error"] == "rate limit"


def test_a_retry_without_a_delay_waits_as_the_policy_says() -> None:
    outcome = Deliveries(raising(Retry())).attempt(entry(deliveries=2, failures=1))
    assert isinstance(outcome, Park)
    assert outcome.delay_ms == 4000


def test_a_retry_with_a_delay_of_zero_does_not_wait() -> None:
    outcome = Deliveries(raising(Retry(0))).attempt(entry())
    assert isinstance(outcome, Park)
    assert outcome.delay_ms == 0


@pytest.mark.parametrize("delay", [1e9, 1e300, 1e306])
def test_a_retry_with_an_absurd_delay_is_still_a_retry_after_the_longest_wait(delay: float) -> None:
    outcome = Deliveries(raising(Retry(delay))).attempt(entry())
    assert isinstance(outcome, Park)
    assert outcome.delay_ms == MAX_DELAY_SECONDS * 1000


def test_a_message_that_is_put_off_for_ever_ends_as_a_dead_letter_too() -> None:
    outcome = Deliveries(raising(Retry(1, "later"))).attempt(entry(deliveries=3, failures=2))
    facts = metadata(outcome)
    assert facts["dead.reason"] == "failed 3 times"
    assert facts["dead.error_type"] == "Retry"


def test_a_reject_is_a_dead_letter_at_once_with_its_text_as_the_reason() -> None:
    outcome = Deliveries(raising(Reject("no audio in it"))).attempt(entry())
    assert isinstance(outcome, Bury)
    facts = metadata(outcome)
    assert facts["dead.reason"] == "rejected: no audio in it"
    assert facts["dead.attempts"] == "1"
    assert facts["dead.crashes"] == "0"
    assert json.loads(outcome.failure)["error_type"] == "Reject"


def test_with_a_single_attempt_the_first_failure_is_the_end() -> None:
    retry = RetryPolicy(max_attempts=1)
    assert isinstance(Deliveries(raising(ValueError()), retry=retry).attempt(entry()), Bury)


# --- past the deadline --------------------------------------------------------------------------


def test_a_message_past_its_deadline_is_a_failure_that_says_so() -> None:
    deliveries = Deliveries(lambda *_: None)
    outcome = deliveries.delivery.overdue(entry(failures=1, deliveries=2), 30.0, "the stack")
    assert isinstance(outcome, Park)
    failure = json.loads(outcome.failure)
    assert failure["error_type"] == "deadline"
    assert failure["error"] == "still running after 30 s (job_deadline_seconds)"
    assert deliveries.figures.counters["jobs_overdue"] == 1
    assert deliveries.figures.counters["jobs_failed"] == 1


def test_the_last_allowed_deadline_makes_a_dead_letter_with_the_stack() -> None:
    deliveries = Deliveries(lambda *_: None, retry=RetryPolicy(max_attempts=1))
    outcome = deliveries.delivery.overdue(entry(), 0.5, "the stack")
    assert metadata(outcome)["dead.reason"] == "failed 1 times"
    assert metadata(outcome)["dead.traceback"] == "the stack"
    assert isinstance(outcome, Bury)
    assert "deadline" in outcome.failure


# --- messages that are not run ----------------------------------------------------------------


def test_a_message_that_kills_its_processes_is_buried_without_running_again() -> None:
    deliveries = Deliveries(lambda _id, _fields: None, max_crashes=2)
    outcome = deliveries.attempt(entry(deliveries=3))
    assert deliveries.calls == []
    facts = metadata(outcome)
    assert facts["dead.reason"].startswith("crashed")
    assert facts["dead.crashes"] == "2"
    assert isinstance(outcome, Bury)
    assert outcome.failure == ""
    assert deliveries.figures.counters == {}


def test_below_the_crash_limit_it_runs() -> None:
    deliveries = Deliveries(lambda _id, _fields: None, max_crashes=2)
    assert isinstance(deliveries.attempt(entry(deliveries=2)), Finish)


def test_failures_are_not_crashes() -> None:
    deliveries = Deliveries(lambda _id, _fields: None, max_crashes=1)
    assert isinstance(deliveries.attempt(entry(deliveries=3, failures=2)), Finish)


def test_a_field_that_is_not_utf8_is_a_dead_letter_that_names_it() -> None:
    deliveries = Deliveries(lambda _id, _fields: None, carry=("client",))
    outcome = deliveries.attempt(entry(b"client", b"c1", b"audio", b"\xff"))
    assert deliveries.calls == []
    facts = metadata(outcome)
    assert facts["dead.reason"].startswith("bad input: field 'audio'")
    assert "binary_fields" in facts["dead.reason"]
    assert isinstance(outcome, Bury)
    assert result_of(outcome.answer)["client"] == "c1"


def test_a_field_name_that_is_not_utf8_is_a_dead_letter() -> None:
    outcome = Deliveries(lambda _id, _fields: None).attempt(entry(b"n\xff", b"x"))
    assert metadata(outcome)["dead.reason"].startswith("bad input: the field name")


def test_an_undecodable_message_still_answers_on_its_channel_if_that_field_is_readable() -> None:
    deliveries = Deliveries(lambda _id, _fields: None, channel="r:{client}")
    outcome = deliveries.attempt(entry(b"client", b"c1", b"audio", b"\xff"))
    assert isinstance(outcome, Bury)
    assert outcome.answer.channel == "r:c1"
    assert json.loads(outcome.answer.payload)["status"] == "dead"


def test_an_undecodable_channel_field_is_a_dead_letter_without_a_channel() -> None:
    deliveries = Deliveries(lambda _id, _fields: None, channel="r:{client}")
    outcome = deliveries.attempt(entry(b"client", b"\xff"))
    assert isinstance(outcome, Bury)
    assert outcome.answer.channel == ""
    assert result_of(outcome.answer)["status"] == "dead"


def test_a_message_without_the_field_that_the_channel_needs_is_a_dead_letter() -> None:
    deliveries = Deliveries(lambda _id, _fields: None, channel="r:{client}")
    outcome = deliveries.attempt(entry())
    assert deliveries.calls == []
    assert metadata(outcome)["dead.reason"].startswith("bad input: field 'client'")


# --- what is recorded and said ----------------------------------------------------------------


def test_the_wait_in_the_queue_is_measured_at_the_first_delivery_only() -> None:
    deliveries = Deliveries(lambda _id, _fields: None)
    deliveries.attempt(entry(deliveries=2))
    assert "queue_wait" not in deliveries.figures.durations
    deliveries.attempt(entry())
    deliveries.attempt(entry())
    assert deliveries.figures.durations["queue_wait"] == 2


def test_the_wait_in_the_queue_is_the_age_of_the_id_and_never_negative() -> None:
    class Remembering(Figures):
        def __init__(self) -> None:
            super().__init__()
            self.waits: list[float] = []

        def record_duration(self, name: str, seconds: float) -> None:
            if name == "queue_wait":
                self.waits.append(seconds)

    recorder = Remembering()
    delivery = Deliveries(lambda _id, _fields: None).delivery.recording_to(
        GuardedRecorder(recorder, LOGGER)
    )
    delivery.attempt(entry())
    delivery.attempt(Entry("9700000000000-0", [b"a", b"b"]))
    delivery.attempt(Entry("0-1", [b"a", b"b"]))
    assert recorder.waits == [pytest.approx(4.5), 0.0, pytest.approx(WALL)]


@pytest.mark.parametrize("error", [None, ValueError(), SystemExit(), Reject()])
def test_the_processing_time_is_recorded_whatever_happens(error: BaseException | None) -> None:
    deliveries = Deliveries(raising(error) if error else lambda _id, _fields: None)
    deliveries.attempt(entry())
    assert deliveries.figures.durations["processing_latency"] == 1


def test_the_log_names_the_message_the_error_and_what_happens_next(
    caplog: pytest.LogCaptureFixture,
) -> None:
    deliveries = Deliveries(raising(ValueError("bad day")))
    deliveries.attempt(entry())
    deliveries.attempt(entry(deliveries=2, failures=1))
    deliveries.attempt(entry(deliveries=3, failures=2))
    first, second, last = caplog.records
    for record in (first, second):
        assert record.levelno == logging.WARNING
        assert ID in record.getMessage()
        assert "ValueError: bad day" in record.getMessage()
    assert "next attempt in 2.0 s" in first.getMessage()
    assert "failure 2 of 3" in second.getMessage()
    assert first.exc_info
    assert not second.exc_info
    assert last.levelno == logging.ERROR
    assert "dead letter" in last.getMessage()
    assert last.exc_info


def test_a_directive_is_told_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    Deliveries(raising(Retry(1))).attempt(entry())
    Deliveries(raising(Reject("no"))).attempt(entry())
    assert [record.exc_info for record in caplog.records] == [None, None]


OUTCOMES: list[tuple[Outcome, str]] = [
    (Finish(ID, Answer()), "jobs_processed"),
    (Park(ID, "{}", 0, 1), "jobs_retried"),
    (Bury(ID, "", [], Answer()), "jobs_dead"),
]


@pytest.mark.parametrize(("outcome", "counter"), OUTCOMES)
def test_a_settled_outcome_counts_as_what_it_was(outcome: Outcome, counter: str) -> None:
    deliveries = Deliveries(lambda _id, _fields: None)
    deliveries.delivery.settle(outcome, 1, repeated=False)
    assert deliveries.figures.counters == {counter: 1}


@pytest.mark.parametrize(("outcome", "counter"), OUTCOMES)
def test_an_outcome_whose_first_reply_was_lost_counts_as_what_it_was(
    outcome: Outcome, counter: str
) -> None:
    deliveries = Deliveries(lambda _id, _fields: None)
    deliveries.delivery.settle(outcome, 0, repeated=True)
    assert deliveries.figures.counters == {counter: 1}


@pytest.mark.parametrize(("outcome", "_counter"), OUTCOMES)
def test_a_message_that_another_consumer_took_over_counts_as_lost_and_is_told(
    outcome: Outcome, _counter: str, caplog: pytest.LogCaptureFixture
) -> None:
    deliveries = Deliveries(lambda _id, _fields: None)
    deliveries.delivery.settle(outcome, 0, repeated=False)
    assert deliveries.figures.counters == {"jobs_lost": 1}
    assert ID in caplog.text


@pytest.mark.parametrize("repeated", [False, True])
def test_a_message_whose_entry_was_deleted_counts_as_a_lost_body(
    repeated: bool, caplog: pytest.LogCaptureFixture
) -> None:
    deliveries = Deliveries(lambda _id, _fields: None)
    deliveries.delivery.settle(OUTCOMES[1][0], -1, repeated=repeated)
    assert deliveries.figures.counters == {"lost_bodies": 1}
    assert ID in caplog.text
