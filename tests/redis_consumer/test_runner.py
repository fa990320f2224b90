"""The processor is called once for each attempt, between the hooks, and nothing is left behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest
from helpers import Clock
from readers import entries

from shared_sync.errors import ConfigurationError, ConsumerStateError
from shared_sync.message import Fields, Message, current_message
from shared_sync.redis_consumer.runner import AttemptHook, ThreadRunner, check_processor
from shared_sync.redis_consumer.slot import Attempt

FIELDS: Fields = {"text": "hello"}


class Hook:
    """Writes down what it is told, and when."""

    def __init__(self, name: str, log: list[object]) -> None:
        self.name = name
        self.log = log

    def before_attempt(self, attempt: Attempt) -> None:
        self.log.append(("before", self.name, attempt.number))

    def after_attempt(self, attempt: Attempt, error: BaseException | None) -> None:
        self.log.append(("after", self.name, attempt.number, attempt.ended_at, error))


def attempt(number: int = 1) -> Attempt:
    return Attempt(entries("1-0"), number, 100.0)


def test_the_processor_gets_the_id_and_the_fields_and_its_result_is_returned() -> None:
    runner = ThreadRunner(lambda message_id, fields: (message_id, fields["text"]))
    runner.start()
    assert runner.run(attempt(), [FIELDS]) == (("1-0", "hello"),)
    runner.close()


@pytest.mark.parametrize("result", [None, 0, "", False, {}, b"raw"])
def test_any_result_is_one_also_an_empty_one(result: object) -> None:
    assert ThreadRunner(lambda *_: result).run(attempt(), [FIELDS]) == (result,)


def test_hooks_are_called_in_their_order_before_and_after_with_the_attempts_end(
    clock: Clock,
) -> None:
    log: list[object] = []

    def processor(*_: object) -> None:
        log.append("processor")
        clock.now += 2.5

    ThreadRunner(processor, [Hook("a", log), Hook("b", log)], clock=clock).run(attempt(7), [FIELDS])
    assert log == [
        ("before", "a", 7),
        ("before", "b", 7),
        "processor",
        ("after", "a", 7, 102.5, None),
        ("after", "b", 7, 102.5, None),
    ]


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1), KeyboardInterrupt()])
def test_hooks_learn_what_the_processor_raised_and_it_comes_through(
    error: BaseException, clock: Clock
) -> None:
    log: list[object] = []

    def fail(*_: object) -> None:
        clock.now += 1
        raise error

    failing = attempt()
    with pytest.raises(type(error)):
        ThreadRunner(fail, [Hook("a", log)], clock=clock).run(failing, [FIELDS])
    assert log == [("before", "a", 1), ("after", "a", 1, 101.0, error)]
    assert failing.ended_at == 101.0


def test_a_method_that_a_hook_inherits_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[object] = []

    def before_attempt(*_: object) -> None:
        log.append("inherited")

    monkeypatch.setattr(AttemptHook, "before_attempt", before_attempt)

    class Ending(AttemptHook):
        def after_attempt(self, attempt: Attempt, error: BaseException | None) -> None:
            log.append(("after", attempt.number, error))

    runner = ThreadRunner(lambda *_: log.append("processor"), [Ending()])
    runner.run(attempt(3), [FIELDS])
    assert log == ["processor", ("after", 3, None)]


def test_the_current_message_is_there_for_the_processor_and_not_for_the_hooks() -> None:
    seen: list[object] = []

    class Asking(Hook):
        def before_attempt(self, attempt: Attempt) -> None:
            with pytest.raises(ConsumerStateError):
                current_message()

        def after_attempt(self, attempt: Attempt, error: BaseException | None) -> None:
            with pytest.raises(ConsumerStateError):
                current_message()

    runner = ThreadRunner(lambda *_: seen.append(current_message()), [Asking("a", [])])
    runner.start()
    runner.run(attempt(), [FIELDS])
    assert seen == [Message("1-0", FIELDS, 1)]


# --- processors -------------------------------------------------------------------------------


async def _asynchronous(_: str, __: object) -> None: ...


def _generating(_: str, __: object) -> Iterator[None]:
    yield


async def _generating_asynchronously(_: str, __: object) -> AsyncIterator[None]:
    yield


class Asynchronous:
    """An object whose call is an async method."""

    async def __call__(self, _: str, __: object) -> None: ...


@pytest.mark.parametrize(
    "processor",
    [
        _asynchronous,
        _generating,
        _generating_asynchronously,
        Asynchronous(),
        partial(_asynchronous),
        partial(partial(Asynchronous()), "1-0"),
        "text",
        None,
    ],
)
def test_what_would_not_run_is_no_processor(processor: Any) -> None:
    with pytest.raises(ConfigurationError, match="message_processor"):
        check_processor(processor)


@pytest.mark.parametrize("processor", [print, partial(print, 1), Hook])
def test_whatever_can_be_called_is_a_processor(processor: Any) -> None:
    check_processor(processor)
