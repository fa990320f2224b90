"""A processor is a function, a factory or an import path; what would not run is refused."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from runners import context

from shared_sync.errors import ConfigurationError
from shared_sync.message import Message
from shared_sync.processors import ProcessorContext, ProcessorSource

# --- which one is given -----------------------------------------------------------------------


def takes_two(_: str, __: object) -> str:
    return "two"


def takes_one(_: object) -> object:
    return takes_two


def test_one_of_the_three_must_be_given() -> None:
    with pytest.raises(ConfigurationError, match=r"exactly one of message_processor.*none of th"):
        ProcessorSource.choose()
    with pytest.raises(ConfigurationError, match="message_processor and processor_factory"):
        ProcessorSource.choose(message_processor=takes_two, processor_factory=takes_one)


@pytest.mark.parametrize(
    ("given", "takes_time"),
    [
        ({"message_processor": takes_two}, False),
        ({"batch_processor": takes_one}, False),
        ({"message_processor": "worker:run"}, True),
        ({"processor_factory": takes_one}, True),
        ({"processor_factory": "package.worker:Model.load"}, True),
    ],
)
def test_only_imports_and_factories_take_time_to_load(
    given: dict[str, Any], takes_time: bool
) -> None:
    assert ProcessorSource.choose(**given).takes_time == takes_time


async def _asynchronous(_: str, __: object) -> None: ...


def _generating(_: str, __: object) -> Iterator[None]:
    yield


async def _generating_asynchronously(_: str, __: object) -> AsyncIterator[None]:
    yield


class Asynchronous:
    """An object whose call is an async method."""

    async def __call__(self, _: str, __: object) -> None: ...


class Plain:
    """A class of which each message would make an object."""

    def __init__(self, _: str, __: object) -> None: ...


WOULD_NOT_RUN = [
    _asynchronous,
    _generating,
    _generating_asynchronously,
    Asynchronous(),
    partial(_asynchronous),
    partial(partial(Asynchronous()), "1-0"),
]


@pytest.mark.parametrize("processor", [*WOULD_NOT_RUN, "text", 7])
def test_what_would_not_run_is_no_processor(processor: Any) -> None:
    with pytest.raises(ConfigurationError, match="message_processor must be a"):
        ProcessorSource.choose(message_processor=processor)


@pytest.mark.parametrize("processor", [print, partial(print, 1), Plain])
def test_whatever_can_be_called_is_a_processor(processor: Any) -> None:
    ProcessorSource.choose(message_processor=processor)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"message_processor": takes_one}, "message_processor is called with two arguments"),
        ({"batch_processor": takes_two}, "batch_processor is called with one argument"),
        ({"processor_factory": takes_two}, "processor_factory is called with one argument, a Pro"),
        ({"processor_factory": lambda: takes_two}, "processor_factory is called with one"),
    ],
)
def test_a_function_that_takes_other_arguments_is_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        ProcessorSource.choose(**given)


@pytest.mark.parametrize(
    "path", ["", "worker", "worker:", ":run", "worker.py", "a/b:run", "a b:run", "worker:run()"]
)
def test_a_text_that_is_no_import_path_is_refused_at_once(path: str) -> None:
    with pytest.raises(ConfigurationError, match=r'an import path such as "package\.module:name"'):
        ProcessorSource.choose(processor_factory=path)


# --- import paths -----------------------------------------------------------------------------

WORKER = """
class Model:
    def __init__(self, context):
        self.reader = context.reader

    def process(self, message_id, message_data):
        return f"{message_id} by {self.reader}"

    @classmethod
    def make(cls, context):
        return cls(context)

def run(message_id, message_data):
    return message_id

def run_batch(messages):
    return [message.id for message in messages]

async def run_later(message_id, message_data): ...

number = 7
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder from which a program imports its modules: `worker` and `broken`."""
    (tmp_path / "a_worker.py").write_text(WORKER)
    (tmp_path / "a_broken_worker.py").write_text("import nothing_like_this")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("a_worker", "a_broken_worker"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_an_import_path_leads_to_a_function_a_class_or_a_method() -> None:
    process = ProcessorSource.choose(message_processor="a_worker:run").load(context()).process
    assert process is not None
    assert process("1-0", {}) == "1-0"
    for path in ("a_worker:Model", "a_worker:Model.make"):
        loaded = ProcessorSource.choose(processor_factory=path).load(context(reader=4))
        assert loaded.process is not None
        assert loaded.process("1-0", {}) == "1-0 by 4"
    batch = ProcessorSource.choose(batch_processor="a_worker:run_batch").load(context())
    assert batch.process_batch is not None
    assert batch.process is None
    assert batch.process_batch([Message("1-0", {}, 1)]) == ["1-0"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("a_worke:run", "message_processor 'a_worke:run': there is no module 'a_worke'; install"),
        ("a_worker.run:run", "there is no module 'a_worker.run'"),
        ("a_worker:runn", "message_processor 'a_worker:runn': .*'a_worker' has no attribute"),
        ("a_worker:run.fast", "message_processor 'a_worker:run.fast': .* no attribute 'fast'"),
        ("a_worker:number", "message_processor 'a_worker:number' must be a function, not 7"),
        ("a_worker:run_later", "message_processor 'a_worker:run_later' must be a plain function"),
        ("a_worker:run_batch", "message_processor 'a_worker:run_batch' is called with two"),
    ],
)
def test_an_import_path_that_leads_to_no_processor_is_named_with_the_reason(
    path: str, text: str
) -> None:
    source = ProcessorSource.choose(message_processor=path)
    with pytest.raises(ConfigurationError, match=text):
        source.load(context())


@pytest.mark.usefixtures("folder")
def test_what_the_module_itself_cannot_import_is_not_mistaken_for_the_module() -> None:
    source = ProcessorSource.choose(message_processor="a_broken_worker:run")
    with pytest.raises(ModuleNotFoundError, match="nothing_like_this"):
        source.load(context())


# --- what a factory returns -------------------------------------------------------------------


class Model:
    """A processor with a method for one message, and one that closes it."""

    def __init__(self) -> None:
        self.closed = 0

    def process(self, message_id: str, _: object) -> str:
        return message_id

    def close(self) -> None:
        self.closed += 1


class BatchModel(Model):
    """One that takes several messages as well."""

    def process_batch(self, messages: Sequence[Message]) -> list[str]:
        return [message.id for message in messages]


def test_a_factory_is_called_with_its_context_and_may_return_a_function() -> None:
    seen: list[ProcessorContext] = []

    def make(given: ProcessorContext) -> object:
        seen.append(given)
        return takes_two

    given = context(reader=2, device="cuda:1")
    loaded = ProcessorSource.choose(processor_factory=make).load(given)
    assert seen == [given]
    assert loaded.process is takes_two
    assert loaded.process_batch is None
    loaded.close()


def test_an_object_is_run_by_its_method_and_closed_by_its_own() -> None:
    model = Model()
    loaded = ProcessorSource.choose(processor_factory=lambda _: model).load(context())
    assert loaded.process is not None
    assert loaded.process("1-0", {}) == "1-0"
    loaded.close()
    assert model.closed == 1


def test_an_object_that_takes_batches_and_single_messages_gets_batches() -> None:
    loaded = ProcessorSource.choose(processor_factory=lambda _: BatchModel()).load(context())
    assert loaded.process is None
    assert loaded.process_batch is not None
    assert loaded.process_batch([Message("1-0", {}, 1)]) == ["1-0"]


class Wrong(Model):
    """A processor with a method that would not run."""

    async def process(self, message_id: str, _: object) -> str:  # type: ignore[override]
        return message_id


class ClosesLater(Model):
    """A processor whose close only promises to close it."""

    async def close(self) -> None:  # type: ignore[override]
        ...


class TakesMore(Model):
    """A processor whose method for batches takes two arguments."""

    def process_batch(self, messages: Sequence[Message], size: int) -> list[str]:
        return [message.id for message in messages[:size]]


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        (None, "processor_factory must return a function, or an object with process.*not None"),
        (7, "must return a function, or an object with process.* not 7"),
        (Model, "processor_factory returned the class Model; return an object of it"),
        (takes_one, "what processor_factory returned is called with two arguments"),
        (Wrong(), "the process of what processor_factory returned must be a plain function"),
        (ClosesLater(), "the close of what processor_factory returned must be a plain method"),
        (TakesMore(), "the process_batch of what processor_factory returned is called with one"),
        *((one, "what processor_factory returned must be a plain") for one in WOULD_NOT_RUN),
    ],
)
def test_what_a_factory_returns_is_checked_as_a_processor_is(returned: object, text: str) -> None:
    source = ProcessorSource.choose(processor_factory=lambda _: returned)
    with pytest.raises(ConfigurationError, match=text):
        source.load(context())
