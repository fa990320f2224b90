"""Log records of a child become records of the parent, handled by the loggers of the same name."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from shared_sync.common import log_attributes
from shared_sync.isolation.child_logs import (
    MAX_CHARS,
    SendingHandler,
    current_levels,
    handle,
    set_levels,
)

NAME = "tests.child.logs"


@pytest.fixture
def sent() -> Iterator[list[dict[str, Any]]]:
    """What a logger of the child sends."""
    sent: list[dict[str, Any]] = []
    handler = SendingHandler(sent.append)
    logger = logging.getLogger(NAME)
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    yield sent
    logger.removeHandler(handler)
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


def over_the_wire(described: dict[str, Any]) -> dict[str, Any]:
    received = json.loads(json.dumps(described))
    assert isinstance(received, dict)
    return received


def test_a_record_is_sent_with_its_text_and_what_stands_beside_it(
    sent: list[dict[str, Any]],
) -> None:
    with log_attributes.about(message_id="17-0"):
        logging.getLogger(NAME).info("%d words", 5, extra={"language": "de", "model": object()})
    (record,) = sent
    assert (record["msg"], record["name"], record["levelno"]) == ("5 words", NAME, logging.INFO)
    assert (record["message_id"], record["language"]) == ("17-0", "de")
    assert "model" not in record, "JSON does not know it"
    assert record["funcName"] == "test_a_record_is_sent_with_its_text_and_what_stands_beside_it"


def test_a_record_that_cannot_be_sent_costs_no_message(capfd: pytest.CaptureFixture[str]) -> None:
    handler = SendingHandler(lambda described: over_the_wire(described) and None)
    record = logging.makeLogRecord({"msg": "words", "count": 10**5000})
    handler.handle(record)
    assert "Logging error" in capfd.readouterr().err


def test_a_traceback_is_sent_as_text(sent: list[dict[str, Any]]) -> None:
    try:
        int("bad")
    except ValueError:
        logging.getLogger(NAME).exception("it failed")
    assert "ValueError: invalid literal" in sent[0]["exc_text"]
    assert "exc_info" not in sent[0]


def test_a_text_without_end_is_cut_off(sent: list[dict[str, Any]]) -> None:
    logging.getLogger(NAME).info("x" * (MAX_CHARS + 1))
    assert len(sent[0]["msg"]) == MAX_CHARS


def test_a_record_that_cannot_be_formatted_costs_nothing_else(
    sent: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logging.getLogger(NAME).info("%d words", "five")
    assert sent == []


def test_the_parent_handles_it_by_the_logger_of_that_name(
    sent: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger(NAME).warning("100 %% of %s", "it")
    there = {**over_the_wire(sent[0]), "name": "tests.parent.logs"}
    handle(there, logging.getLogger("tests.own"))
    (record,) = [one for one in caplog.records if one.name == "tests.parent.logs"]
    assert record.getMessage() == "100 % of it"


def test_a_logger_that_is_not_known_by_its_name_handles_its_own_records() -> None:
    handled: list[logging.LogRecord] = []
    own = logging.Logger("worker")
    own.addHandler(logging.Handler())
    own.handle = handled.append  # type: ignore[method-assign, assignment]
    handle({"name": "worker", "levelno": logging.INFO, "msg": "hello"}, own)
    assert [record.getMessage() for record in handled] == ["hello"]


def test_the_parent_s_levels_are_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger(NAME)
    logger.setLevel(logging.ERROR)
    try:
        handle({"name": NAME, "levelno": logging.INFO, "msg": "x"}, logging.getLogger("own"))
    finally:
        logger.setLevel(logging.NOTSET)
    assert caplog.records == []


def test_dropped_records_are_counted_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    handle({"name": NAME, "levelno": 40, "msg": "x", "dropped": 7}, logging.getLogger("tests.own"))
    assert "7 log records of a child process were dropped" in caplog.text


def test_levels_of_the_parent_are_those_of_the_child() -> None:
    own, other = logging.getLogger("tests.own"), logging.getLogger(NAME)
    other.setLevel(logging.CRITICAL)
    try:
        levels = current_levels(own)
        other.setLevel(logging.DEBUG)
        set_levels(json.loads(json.dumps(levels)))
        assert other.level == logging.CRITICAL
        assert levels[""] == logging.root.level
        assert levels["tests.own"] == own.getEffectiveLevel()
    finally:
        for logger in (own, other):
            logger.setLevel(logging.NOTSET)
