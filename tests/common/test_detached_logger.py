"""A line is written before its thread goes on, unless a handler blocks."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest
from helpers import eventually, returns

from shared_sync.common import detached_logger
from shared_sync.common.detached_logger import MOST_LINES, DetachedLogger
from shared_sync.common.guarded import GuardedLogger


class Handler(logging.Handler):
    """Keeps records, and blocks while it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = threading.Event()
        self.passes.set()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        assert self.passes.wait(60)
        self.records.append(record)

    @property
    def lines(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def handler() -> Iterator[Handler]:
    made = Handler()
    yield made
    made.passes.set()


@pytest.fixture
def logger(handler: Handler) -> DetachedLogger:
    made = logging.Logger("test", logging.INFO)
    made.addHandler(handler)
    return DetachedLogger(GuardedLogger(made))


def test_a_line_is_written_when_the_call_returns(logger: DetachedLogger, handler: Handler) -> None:
    for number in range(20):
        logger.info("line %d", number)
        assert handler.lines[-1] == f"line {number}"
    assert handler.records[0].threadName == threading.current_thread().name
    logger.debug("not at this level")
    assert len(handler.records) == 20


def test_the_error_that_is_handled_is_written_with_its_traceback(
    logger: DetachedLogger, handler: Handler
) -> None:
    handled = None
    try:
        int("no number")
    except ValueError as error:
        handled = error
        logger.exception("a handler failed")
    assert handled
    assert handler.records[0].exc_info == (ValueError, handled, handled.__traceback__)


def test_a_handler_that_blocks_is_waited_for_once_and_then_gets_what_there_is_room_for(
    logger: DetachedLogger, handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(threading.Thread, "join", lambda _, seconds: waited.append(seconds))
    handler.passes.clear()
    for number in range(MOST_LINES + 7):
        logger.info("line %d", number)
    assert waited == [detached_logger.WAIT_SECONDS]
    assert logger.flush() is False
    handler.passes.set()
    eventually(lambda: len(handler.lines) == MOST_LINES)
    monkeypatch.undo()
    assert logger.flush() is True
    logger.info("after")
    assert handler.lines[MOST_LINES:] == ["logging was blocked, and 7 lines were dropped", "after"]


def test_without_further_threads_a_line_is_written_by_the_caller(
    logger: DetachedLogger, handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    logger.info("a line")
    assert handler.lines == ["a line"]


def test_a_handler_that_raises_costs_nothing(logger: DetachedLogger, handler: Handler) -> None:
    handler.addFilter(lambda _: 1 / 0 > 0)
    logger.info("a line")
    assert logger.flush() is True
    assert handler.lines == []


def test_a_line_may_be_logged_while_another_thread_is_stuck_in_the_handler(
    logger: DetachedLogger, handler: Handler
) -> None:
    """Then the handler's lock is held, and whoever logs waits for that."""
    handler.passes.clear()
    stuck = threading.Thread(target=logger.direct.info, args=("direct",))
    stuck.start()
    assert returns(lambda: logger.info("detached"))
    handler.passes.set()
    stuck.join(20)
    eventually(lambda: sorted(handler.lines) == ["detached", "direct"])
