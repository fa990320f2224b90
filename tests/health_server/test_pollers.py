"""What a server logs about the functions it calls: the first failure, each change, the recovery."""

from __future__ import annotations

import logging

import pytest

from shared_sync.health_server.pollers import CallbackLog


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> CallbackLog:
    caplog.set_level(logging.INFO)
    return CallbackLog("weather", logging.getLogger("weather"))


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_a_failure_is_logged_with_its_traceback_once_until_it_changes(
    log: CallbackLog, caplog: pytest.LogCaptureFixture
) -> None:
    for error in (ValueError("no rain 1"), ValueError("no rain 2"), OSError("no rain 2")):
        log.failed(error)
    log.succeeded()
    log.succeeded()
    logged = [(record.levelname, bool(record.exc_info)) for record in caplog.records]
    assert logged == [("ERROR", True), ("ERROR", True), ("INFO", False)]


def test_a_hang_is_logged_once_and_its_end_with_its_length(
    log: CallbackLog, caplog: pytest.LogCaptureFixture
) -> None:
    write = log.hung(2.0)
    assert lines(caplog) == []
    assert write is not None
    write()
    assert log.hung(2.0) is None
    log.succeeded()
    hang, recovery = lines(caplog)
    assert hang == (
        "weather has not returned within 2 s; what depends on it is answered as unhealthy until "
        "it does"
    )
    assert recovery.startswith("weather recovered after ")


def test_a_hang_that_ends_in_an_error_logs_both(
    log: CallbackLog, caplog: pytest.LogCaptureFixture
) -> None:
    write = log.hung(2.0)
    assert write is not None
    write()
    log.failed(OSError())
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
