"""How a failure is reported, kept and tried again, or ends as a dead letter with its reason."""

from __future__ import annotations

import json
import logging
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from deliveries import ID, LOGGER, WALL, Deliveries, entry, metadata, raising, result_of
from helpers import Figures

from shared_sync.errors import ConfigurationError, Reject, Retry
from shared_sync.policies import MAX_DELAY_SECONDS, RetryPolicy
from shared_sync.protocol.messages import Bury, Park
from shared_sync.redis_consumer.failures import MAX_ERROR_CHARS, MAX_TRACEBACK_CHARS


class OwnKind(BaseException):
    """Not even an Exception."""


class WithoutText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Exiting(Exception):
    def __str__(self) -> str:
        raise SystemExit(1)


@pytest.fixture(autouse=True)
def _listen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger=LOGGER.name)


# --- failure ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("failures", "delay_ms"), [(0, 2000), (1, 4000)])
def test_a_failure_is_tried_again_after_the_policys_delay(failures: int, delay_ms: int) -> None:
    deliveries = Deliveries(raising(ValueError("bad day")))
    outcome = deliveries.attempt(entry(deliveries=failures + 1, failures=failures))
    assert isinstance(outcome, Park)
    assert (outcome.id, outcome.delay_ms) == (ID, delay_ms)
    assert outcome.delivery == failures + 1
    assert deliveries.retries == [delay_ms / 1000], "so that recovery comes in time"
    assert json.loads(outcome.failure) == {
        "worker": "worker-1",
        "time": WALL,
        "attempt": failures + 1,
        "error_type": "ValueError",
        "error": "bad day",
        "delay_ms": delay_ms,
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


@pytest.mark.parametrize("raised_as", [MemoryError, RuntimeError])
def test_what_a_call_held_when_memory_ran_out_is_gone_before_it_is_logged(
    monkeypatch: pytest.MonkeyPatch, raised_as: type[Exception]
) -> None:
    """Logging needs memory, too."""
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
            if raised_as is MemoryError:
                raise
            raise raised_as("no room") from None

    def log(*_: object, **__: object) -> None:
        gone.extend(hoard() is None for hoard in hoards)

    monkeypatch.setattr(LOGGER, "warning", log)
    assert isinstance(Deliveries(process).attempt(entry()), Park)
    assert gone == [True, True]


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
    assert result_of(outcome) == {
        "message_id": ID,
        "status": "dead",
        "text": "hello",
        "reason": "failed 3 times",
        "error_type": "ValueError",
        "error": "bad day",
        "attempts": "4",
        "shared_sync.types": '{"json": ["attempts"]}',
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
    outcome = deliveries.overdue(entry(failures=1, deliveries=2), 30.0)
    assert isinstance(outcome, Park)
    failure = json.loads(outcome.failure)
    assert failure["error_type"] == "deadline"
    assert failure["error"] == "still running after 30 s (job_deadline_seconds)"
    assert deliveries.figures.counters["jobs_overdue"] == 1
    assert deliveries.figures.counters["jobs_failed"] == 1


def test_the_last_allowed_deadline_makes_a_dead_letter_with_the_stack() -> None:
    deliveries = Deliveries(lambda *_: None, retry=RetryPolicy(max_attempts=1))
    outcome = deliveries.overdue(entry(), 0.5)
    assert metadata(outcome)["dead.reason"] == "failed 1 times"
    assert metadata(outcome)["dead.traceback"] == "the stack"
    assert isinstance(outcome, Bury)
    assert "deadline" in outcome.failure


# --- what is recorded and said ----------------------------------------------------------------


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


def test_a_directive_is_logged_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    Deliveries(raising(Retry(1))).attempt(entry())
    Deliveries(raising(Reject("no"))).attempt(entry())
    assert [record.exc_info for record in caplog.records] == [None, None]
