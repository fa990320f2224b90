"""Cancelled and expired messages: which do not start, and what they end in."""

from __future__ import annotations

from typing import Any

import pytest
from deliveries import ID, POLICY, Deliveries, entry, metadata, raising, result_of

from shared_sync.errors import JobCancelled, Retry
from shared_sync.message import current_message
from shared_sync.protocol.job_options import OPTIONS, JobOptions
from shared_sync.protocol.messages import Bury, Entry, Finish, Outcome, Park
from shared_sync.redis_consumer.slot import Attempt

AGE_SECONDS = 4.5
"""How old the message of these tests is."""
CANCELLED = {"message_id": ID, "status": "cancelled", "reason": "cancelled"}


def nothing(_id: str, _fields: dict[str, Any]) -> None:
    return None


def expiring(seconds: float) -> Entry:
    return entry(options=JobOptions(expires_seconds=seconds))


def end_of(outcome: Outcome | None) -> dict[str, str]:
    """The result of a message that has ended."""
    assert isinstance(outcome, Finish)
    return result_of(outcome)


def test_a_message_that_is_cancelled_by_either_id_or_was_published_so_does_not_start() -> None:
    deliveries = Deliveries(nothing)
    for marked, options in ((ID, None), ("job-1", JobOptions(id="job-1"))):
        deliveries.marks.ids = {marked}
        outcome = deliveries.attempt(entry(options=options))
        assert end_of(outcome)["status"] == "cancelled"
    deliveries.marks.ids = {"another"}
    outcome = deliveries.attempt(entry(options=JobOptions(cancelled=True)))
    assert end_of(outcome)["status"] == "cancelled"
    assert not deliveries.calls
    deliveries.attempt(entry())
    assert len(deliveries.calls) == 1


@pytest.mark.parametrize(
    ("message", "max_age", "reason"),
    [
        (expiring(4.0), None, "expired after 4 s"),
        (expiring(4.0), 3.0, "expired after 3 s"),
        (expiring(4.0), 100.0, "expired after 4 s"),
        (entry(), 2.5, "expired after 2.5 s"),
        (entry(), AGE_SECONDS + 0.01, None),
        (expiring(AGE_SECONDS + 0.01), None, None),
        (expiring(1e300), None, None),
    ],
)
def test_a_message_that_is_too_old_does_not_start(
    message: Entry, max_age: float | None, reason: str | None
) -> None:
    deliveries = Deliveries(nothing, max_age_seconds=max_age)
    outcome = deliveries.attempt(message)
    if reason is None:
        assert len(deliveries.calls) == 1
    else:
        assert not deliveries.calls
        assert end_of(outcome) == {"message_id": ID, "status": "expired", "reason": reason}


def test_an_id_that_is_no_time_never_expires() -> None:
    deliveries = Deliveries(nothing, max_age_seconds=1.0)
    assert deliveries.attempt(Entry("5-1", [b"text", b"hello"])) is None
    assert len(deliveries.calls) == 1


def test_the_end_of_a_message_carries_fields_of_the_message_and_goes_to_its_caller() -> None:
    deliveries = Deliveries(nothing, carry=("text",))
    options = JobOptions(reply_to="{jobs}:replies:ab12", id="job-1", expires_seconds=1.0)
    outcome = deliveries.attempt(entry(options=options))
    assert end_of(outcome)["message_id"] == "job-1"
    assert end_of(outcome)["text"] == "hello"
    assert isinstance(outcome, Finish)
    assert outcome.address is not None
    assert (outcome.address.stream, outcome.address.may_create) == (options.reply_to, False)


def test_an_expired_message_becomes_a_dead_letter_if_that_is_asked_for() -> None:
    deliveries = Deliveries(nothing, dead_letter_expired=True)
    outcome = deliveries.attempt(expiring(4.0))
    assert isinstance(outcome, Bury)
    assert metadata(outcome)["dead.reason"] == "expired after 4 s"
    assert result_of(outcome)["status"] == "expired"
    assert deliveries.figures.counters["jobs_expired"] == 1


@pytest.mark.parametrize("broken", [b"\xff", b"hello"])
def test_cancelled_comes_before_expired_and_both_before_crashes_and_bad_input(
    broken: bytes,
) -> None:
    deliveries = Deliveries(nothing, channel="results:{client}", max_age_seconds=1.0)
    message = entry(b"text", broken, deliveries=9)
    assert end_of(deliveries.attempt(message))["status"] == "expired"
    deliveries.marks.ids = {ID}
    assert end_of(deliveries.attempt(message))["status"] == "cancelled"
    deliveries = Deliveries(nothing, channel="results:{client}")
    assert isinstance(deliveries.attempt(message), Bury)


@pytest.mark.parametrize(
    "options", [b"garbage", b'{"reply_to": "elsewhere"}', b'{"expires_seconds": -1}', b"\xff"]
)
@pytest.mark.parametrize("where", [{"stream": "results:{gateway}"}, {"channel": "results:{x}"}])
def test_a_message_ends_early_although_its_options_or_fields_cannot_be_read(
    options: bytes, where: dict[str, Any]
) -> None:
    for items in ([b"text", b"hello"], [b"\xff", b"hello"]):
        deliveries = Deliveries(nothing, max_age_seconds=1.0, **where)
        message = entry(*items, OPTIONS.encode(), options)
        outcome = deliveries.attempt(message)
        assert isinstance(outcome, Finish)
        assert outcome.status == "expired"
        deliveries.marks.ids = {ID}
        outcome = deliveries.attempt(message)
        assert isinstance(outcome, Finish)
        assert outcome.status == "cancelled"
        assert not deliveries.calls


@pytest.mark.parametrize("error", [JobCancelled(), ValueError("late"), Retry(5), SystemExit(1)])
def test_a_message_that_was_cancelled_while_it_ran_is_not_tried_again_and_charged_nothing(
    error: BaseException,
) -> None:
    deliveries = Deliveries(nothing)

    def process(_id: str, _fields: dict[str, Any]) -> None:
        attempt = deliveries.slot.attempt
        assert isinstance(attempt, Attempt)
        deliveries.slot.cancel(attempt, attempt.entries[0])
        assert current_message().cancelled.is_set()
        raise error

    deliveries = Deliveries(process)
    assert end_of(deliveries.attempt(entry())) == CANCELLED
    assert not deliveries.retries
    assert deliveries.figures.counters["jobs_failed"] == 0


def test_a_processor_may_say_by_itself_that_its_message_is_cancelled() -> None:
    deliveries = Deliveries(raising(JobCancelled()))
    assert end_of(deliveries.attempt(entry())) == CANCELLED


def test_done_wins_over_cancelled() -> None:
    def process(_id: str, _fields: dict[str, Any]) -> str:
        attempt = deliveries.slot.attempt
        assert attempt is not None
        deliveries.slot.cancel(attempt, attempt.entries[0])
        return "ready"

    deliveries = Deliveries(process)
    assert end_of(deliveries.attempt(entry()))["status"] == "done"


def test_a_retry_is_parked_no_longer_than_until_its_message_expires() -> None:
    deliveries = Deliveries(raising(ValueError("no")), max_age_seconds=5.0)
    outcome = deliveries.attempt(entry())
    assert isinstance(outcome, Park)
    assert POLICY.delay_seconds(1) == 2.0
    assert 500 < outcome.delay_ms < 600
    assert deliveries.retries == [outcome.delay_ms / 1000]
    assert f'"delay_ms": {outcome.delay_ms}' in outcome.failure


def test_a_retry_says_by_which_other_id_its_message_may_be_cancelled() -> None:
    deliveries = Deliveries(raising(ValueError("no")))
    outcome = deliveries.attempt(entry(options=JobOptions(id="job-1")))
    assert isinstance(outcome, Park)
    assert outcome.known_as == "job-1"
