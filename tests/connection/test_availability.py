"""An outage is told once when it begins and once, with its length, when it is over."""

from __future__ import annotations

import logging
import threading

import pytest
from helpers import Clock, Interrupted, returns

from shared_sync.connection.availability import Connectivity
from shared_sync.errors import RedisAccessDenied, RedisRefused, RedisUnavailable, SharedSyncError

LOGGER = logging.getLogger("tests.connectivity")
REFUSED = RedisUnavailable("connection refused")


@pytest.fixture
def connectivity(clock: Clock) -> Connectivity:
    return Connectivity("redis://somewhere:6379/0", LOGGER, clock)


@pytest.fixture(autouse=True)
def _listen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger=LOGGER.name)


def test_before_the_first_exchange_there_is_no_connection_and_no_alarm(
    connectivity: Connectivity, caplog: pytest.LogCaptureFixture
) -> None:
    assert not connectivity.connected
    assert caplog.messages == []


def test_a_first_success_is_silent(
    connectivity: Connectivity, caplog: pytest.LogCaptureFixture
) -> None:
    connectivity.succeeded("reader-1")
    assert connectivity.connected
    assert caplog.messages == []


def test_only_the_first_failure_of_an_outage_is_told(
    connectivity: Connectivity, caplog: pytest.LogCaptureFixture
) -> None:
    connectivity.succeeded("reader-1")
    for _ in range(5):
        connectivity.failed("reader-1", REFUSED)
    assert not connectivity.connected
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "redis://somewhere:6379/0" in record.getMessage()
    assert "connection refused" in record.getMessage()


def test_the_recovery_is_told_once_with_the_length_of_the_outage(
    connectivity: Connectivity, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    connectivity.failed("reader-1", REFUSED)
    clock.now += 5
    connectivity.failed("reader-1", REFUSED)
    clock.now += 7.5
    caplog.clear()
    connectivity.succeeded("reader-1")
    connectivity.succeeded("reader-1")
    assert connectivity.connected
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "12.5 s" in record.getMessage()


def test_a_second_outage_is_told_again(
    connectivity: Connectivity, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        connectivity.failed("reader-1", REFUSED)
        connectivity.succeeded("reader-1")
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.INFO] * 2


def test_eight_threads_that_fail_together_tell_it_once(
    connectivity: Connectivity, caplog: pytest.LogCaptureFixture
) -> None:
    together = threading.Barrier(8)

    def fail() -> None:
        together.wait(10)
        connectivity.failed("reader-1", REFUSED)

    threads = [threading.Thread(target=fail) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(caplog.records) == 1


def test_the_moment_of_the_last_answer_is_kept(connectivity: Connectivity, clock: Clock) -> None:
    clock.now += 5
    connectivity.succeeded("reader-1")
    assert connectivity.answered_at == clock.now
    clock.now += 5
    connectivity.failed("reader-1", REFUSED)
    connectivity.succeeded("keeper")
    assert connectivity.answered_at == clock.now


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (REFUSED, None),
        (RedisAccessDenied("NOAUTH"), "no access"),
        (RedisRefused("WRONGTYPE", code="WRONGTYPE"), "WRONGTYPE"),
    ],
)
def test_who_fails_is_remembered_with_what_redis_says_until_it_succeeds(
    connectivity: Connectivity, error: SharedSyncError, code: str | None
) -> None:
    connectivity.failed("reader-1", error)
    connectivity.succeeded("keeper")
    (failure,) = connectivity.failures()
    assert (failure.code, failure.text) == (code, str(error))
    connectivity.succeeded("reader-1")
    assert connectivity.failures() == []


def test_a_group_is_missing_until_everyone_who_missed_it_has_it_again(
    connectivity: Connectivity,
) -> None:
    connectivity.succeeded("reader-1")
    connectivity.found_no_group("reader-1")
    connectivity.found_no_group("keeper")
    assert connectivity.group_missing
    assert connectivity.connected, "Redis did answer"
    connectivity.succeeded("keeper")
    assert connectivity.group_missing
    connectivity.succeeded("reader-1")
    assert not connectivity.group_missing


def test_a_signal_handler_may_ask_while_its_thread_tells_of_a_failure() -> None:
    clock = Interrupted()
    connectivity = Connectivity("redis://somewhere:6379/0", LOGGER, clock)
    seen: list[int] = []
    clock.handler = lambda: seen.append(len(connectivity.failures()))
    assert returns(lambda: connectivity.failed("reader-1", REFUSED))
    assert seen == [1]
