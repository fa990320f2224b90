"""An outage is logged once when it begins and once, with its length, when it ends."""

from __future__ import annotations

import logging
import threading

import pytest
from helpers import Clock, Interrupted, returns

from shared_sync.connection.availability import REPEAT_SECONDS, Availability
from shared_sync.errors import RedisAccessDenied, RedisRefused, RedisUnavailable, SharedSyncError

LOGGER = logging.getLogger("tests.availability")
REFUSED = RedisUnavailable("connection refused")


@pytest.fixture
def availability(clock: Clock) -> Availability:
    return Availability("redis://somewhere:6379/0", LOGGER, clock)


@pytest.fixture(autouse=True)
def _listen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger=LOGGER.name)


def test_before_the_first_exchange_there_is_no_connection_and_no_alarm(
    availability: Availability, caplog: pytest.LogCaptureFixture
) -> None:
    assert not availability.connected
    assert caplog.messages == []


def test_a_first_success_is_silent(
    availability: Availability, caplog: pytest.LogCaptureFixture
) -> None:
    availability.succeeded("reader-1")
    assert availability.connected
    assert caplog.messages == []


def test_only_the_first_failure_of_an_outage_is_logged(
    availability: Availability, caplog: pytest.LogCaptureFixture
) -> None:
    availability.succeeded("reader-1")
    for _ in range(5):
        availability.failed("reader-1", REFUSED)
    assert not availability.connected
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "redis://somewhere:6379/0" in record.getMessage()
    assert "connection refused" in record.getMessage()


def failure(cause: str) -> RedisUnavailable:
    made = RedisUnavailable(f"it fails with {cause}")
    made.cause = cause
    return made


def test_another_cause_of_an_outage_is_logged_when_it_comes(
    availability: Availability, caplog: pytest.LogCaptureFixture
) -> None:
    for cause in ("no connection", "no connection", "LOADING", "WRONGPASS", "WRONGPASS"):
        availability.failed("reader-1", failure(cause))
    assert [text.partition(": ")[2].split("; ")[0] for text in caplog.messages] == [
        "it fails with no connection",
        "it fails with LOADING",
        "it fails with WRONGPASS",
    ]
    assert "now fails for another cause" in caplog.messages[-1]


def test_causes_that_several_users_meet_by_turns_are_logged_once_each(
    availability: Availability, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        availability.failed("reader-1", failure("NOPERM"))
        availability.failed("heartbeat", RedisRefused("wrong type", code="WRONGTYPE"))
        clock.now += REPEAT_SECONDS
    assert len(caplog.messages) == 2


def test_causes_that_come_and_go_are_logged_once_a_minute(
    availability: Availability, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(60):
        for cause in ("no connection", "LOADING"):
            availability.failed("reader-1", failure(cause))
        clock.now += 2.0
    assert len(caplog.messages) == 4


def test_the_next_outage_is_logged_anew(
    availability: Availability, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        for cause in ("no connection", "LOADING"):
            availability.failed("reader-1", failure(cause))
        availability.succeeded("reader-1")
    assert len(caplog.messages) == 6


def test_the_recovery_is_logged_once_with_the_length_of_the_outage(
    availability: Availability, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    availability.failed("reader-1", REFUSED)
    clock.now += 5
    availability.failed("reader-1", REFUSED)
    clock.now += 7.5
    caplog.clear()
    availability.succeeded("reader-1")
    availability.succeeded("reader-1")
    assert availability.connected
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "12.5 s" in record.getMessage()


def test_a_second_outage_is_logged_again(
    availability: Availability, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        availability.failed("reader-1", REFUSED)
        availability.succeeded("reader-1")
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.INFO] * 2


def test_eight_threads_that_fail_together_log_it_once(
    availability: Availability, caplog: pytest.LogCaptureFixture
) -> None:
    together = threading.Barrier(8)

    def fail() -> None:
        together.wait(10)
        availability.failed("reader-1", REFUSED)

    threads = [threading.Thread(target=fail) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(caplog.records) == 1


def test_the_moment_of_the_last_answer_is_kept(availability: Availability, clock: Clock) -> None:
    clock.now += 5
    availability.succeeded("reader-1")
    assert availability.answered_at == clock.now
    clock.now += 5
    availability.failed("reader-1", REFUSED)
    availability.succeeded("heartbeat")
    assert availability.answered_at == clock.now


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (REFUSED, None),
        (RedisAccessDenied("NOAUTH"), "no access"),
        (RedisRefused("WRONGTYPE", code="WRONGTYPE"), "WRONGTYPE"),
    ],
)
def test_a_user_that_fails_is_remembered_with_its_error_until_it_succeeds(
    availability: Availability, error: SharedSyncError, code: str | None
) -> None:
    availability.failed("reader-1", error)
    availability.succeeded("heartbeat")
    (failure,) = availability.failures()
    assert (failure.code, failure.text) == (code, str(error))
    availability.succeeded("reader-1")
    assert availability.failures() == []


def test_a_group_is_missing_until_every_user_that_missed_it_succeeds(
    availability: Availability,
) -> None:
    availability.succeeded("reader-1")
    availability.found_no_group("reader-1")
    availability.found_no_group("heartbeat")
    assert availability.group_missing
    assert availability.connected, "Redis did answer"
    availability.succeeded("heartbeat")
    assert availability.group_missing
    availability.succeeded("reader-1")
    assert not availability.group_missing


def test_a_signal_handler_may_ask_while_its_thread_reports_a_failure() -> None:
    clock = Interrupted()
    availability = Availability("redis://somewhere:6379/0", LOGGER, clock)
    seen: list[int] = []
    clock.handler = lambda: seen.append(len(availability.failures()))
    assert returns(lambda: availability.failed("reader-1", REFUSED))
    assert seen == [1]
