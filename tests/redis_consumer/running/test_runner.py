"""The processor is called once for each attempt, between the hooks, and nothing is left behind."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence

import pytest
from helpers import Clock
from readers import entries
from runners import context, new_runner

from shared_sync.errors import ConsumerStateError
from shared_sync.message import Fields, Message, current_message
from shared_sync.processors import ProcessorContext, ProcessorSource
from shared_sync.redis_consumer.running.runner import AttemptHook, ThreadRunner
from shared_sync.redis_consumer.slot import Attempt, PartialAttempt

FIELDS: Fields = {"text": "hello"}


class Hook(AttemptHook):
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
    runner = new_runner(lambda message_id, fields: (message_id, fields["text"]))
    assert runner.run(attempt(), [FIELDS]) == (("1-0", "hello"),)
    runner.close()


@pytest.mark.parametrize("result", [None, 0, "", False, {}, b"raw"])
def test_any_result_is_one_also_an_empty_one(result: object) -> None:
    assert new_runner(lambda *_: result).run(attempt(), [FIELDS]) == (result,)


def test_hooks_are_called_in_their_order_before_and_after_with_the_attempts_end(
    clock: Clock,
) -> None:
    log: list[object] = []

    def processor(*_: object) -> None:
        log.append("processor")
        clock.now += 2.5

    new_runner(processor, [Hook("a", log), Hook("b", log)], clock=clock).run(attempt(7), [FIELDS])
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
        new_runner(fail, [Hook("a", log)], clock=clock).run(failing, [FIELDS])
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

    runner = new_runner(lambda *_: log.append("processor"), [Ending()])
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

    runner = new_runner(lambda *_: seen.append(current_message()), [Asking("a", [])])
    runner.run(attempt(), [FIELDS])
    assert seen == [Message("1-0", FIELDS, 1)]


# --- loading and closing ----------------------------------------------------------------------


class Model:
    """What a factory returns: it writes down in which thread it is used."""

    def __init__(self, context: ProcessorContext) -> None:
        self.context = context
        self.threads = [threading.get_ident()]

    def process(self, message_id: str, message_data: Fields) -> str:
        self.threads.append(threading.get_ident())
        return f"{message_id} by {self.context.reader}"

    def close(self) -> None:
        self.threads.append(threading.get_ident())
        raise RuntimeError("the device is busy")


def test_what_the_factory_returns_runs_and_is_closed_once_and_its_error_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made: list[Model] = []

    def make(context: ProcessorContext) -> Model:
        made.append(Model(context))
        return made[-1]

    runner = ThreadRunner(ProcessorSource("processor_factory", make), context(reader=3))
    assert not runner.is_loaded
    runner.start()
    assert runner.is_loaded
    assert runner.run(attempt(), [FIELDS]) == ("1-0 by 3",)
    runner.close()
    assert not runner.is_loaded
    runner.close()
    assert made[0].threads == [threading.get_ident()] * 3
    (record,) = caplog.records
    assert record.getMessage() == "the processor of reader 3 could not be closed"
    assert record.exc_info
    assert str(record.exc_info[1]) == "the device is busy"


def test_a_batch_gets_its_messages_and_has_no_current_one() -> None:
    errors: list[str] = []

    def processor(messages: Sequence[Message]) -> list[str]:
        with pytest.raises(ConsumerStateError) as raised:
            current_message()
        errors.append(str(raised.value))
        return [f"{message.id} {message.attempt}" for message in messages]

    runner = ThreadRunner(ProcessorSource("batch_processor", processor), context())
    assert not runner.takes_batches
    runner.start()
    assert runner.takes_batches
    two = Attempt(entries("1-0", "2-0"), 1, 100.0)
    assert runner.run_batch(two, [FIELDS, FIELDS]) == ["1-0 1", "2-0 1"]
    assert "use those that it was called with" in errors[0]
    with pytest.raises(ConsumerStateError, match="from a running processor"):
        current_message()
    runner.close()
    assert not runner.takes_batches
    with pytest.raises(ConsumerStateError, match="call start"):
        runner.run_batch(two, [FIELDS, FIELDS])


def test_hooks_learn_that_messages_of_a_batch_run_again() -> None:
    class Repeats(AttemptHook):
        def after_attempt(self, attempt: Attempt, error: BaseException | None) -> None:
            log.append(f"first {attempt.number}")

        def after_repeat(self, attempt: Attempt, error: BaseException | None) -> None:
            log.append(f"again {attempt.number}")

    log: list[str] = []
    source = ProcessorSource("batch_processor", list)
    runner = ThreadRunner(source, context(), [Repeats()])
    runner.start()
    runner.run_batch(attempt(1), [FIELDS])
    runner.run_batch(PartialAttempt(entries("1-0"), 2, 100.0), [FIELDS])
    assert log == ["first 1", "again 2"]


def test_a_closed_runner_keeps_nothing_of_the_processor_and_can_be_started_again() -> None:
    class Quiet(Model):
        def close(self) -> None: ...

    alive: weakref.WeakSet[Model] = weakref.WeakSet()

    def make(context: ProcessorContext) -> Model:
        model = Quiet(context)
        alive.add(model)
        return model

    runner = ThreadRunner(ProcessorSource("processor_factory", make), context())
    runner.start()
    runner.close()
    assert not alive
    runner.start()
    assert runner.run(attempt(), [FIELDS]) == ("1-0 by 1",)


def test_a_factory_that_fails_leaves_nothing_to_close_and_may_be_called_again() -> None:
    calls: list[int] = []

    def make(_: ProcessorContext) -> object:
        calls.append(1)
        if len(calls) == 1:
            raise SystemExit(3)
        return lambda *_: "done"

    runner = ThreadRunner(ProcessorSource("processor_factory", make), context())
    with pytest.raises(SystemExit):
        runner.start()
    assert not runner.is_loaded
    runner.close()
    runner.start()
    assert runner.run(attempt(), [FIELDS]) == ("done",)


def test_a_runner_that_has_not_loaded_says_so() -> None:
    runner = ThreadRunner(ProcessorSource("message_processor", print), context())
    with pytest.raises(ConsumerStateError, match=r"start\(\)"):
        runner.run(attempt(), [FIELDS])


def test_the_processor_learns_that_its_message_is_cancelled() -> None:
    one = attempt()
    (entry,) = one.entries

    def processor(*_: object) -> tuple[bool, bool]:
        before = current_message().cancelled.is_set()
        runner.cancel(one, entry)
        runner.cancel(one, entry)
        return before, current_message().cancelled.is_set()

    runner = new_runner(processor)
    assert runner.run(one, [FIELDS]) == ((False, True),)
