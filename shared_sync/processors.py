"""Processors: what the program gave becomes what a reader runs, and is closed in the end.

A program gives a function, a factory, or the import path of one of them. It is loaded once for each
reader, in the thread or the child process that will run it.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from shared_sync.batching import run_batch
from shared_sync.common import arguments
from shared_sync.errors import ConfigurationError
from shared_sync.message import Message

if TYPE_CHECKING:
    from shared_sync.common.guarded import Logger, Recorder

MessageProcessor = Callable[[str, dict[str, Any]], object]
"""The user's function: message id and fields in, a result or None out; raising is a failure."""

BatchProcessor = Callable[[Sequence[Message]], Sequence[object]]
"""The user's function for several messages: one result for each of them, in their order."""

ProcessorFactory = Callable[["ProcessorContext"], object]
"""Makes the processor of one reader."""

Argument = Literal["message_processor", "batch_processor", "processor_factory"]

_PATH: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_EXAMPLE: Final = '"package.module:name"'
_PARAMETERS: Final = {
    "message_processor": "two arguments, message_id and message_data",
    "batch_processor": "one argument, the messages",
    "processor_factory": "one argument, a ProcessorContext",
}
_SAMPLES: Final[dict[str, tuple[object, ...]]] = {
    "message_processor": ("", {}),
    "batch_processor": ([],),
    "processor_factory": (None,),
}


@dataclass(frozen=True, slots=True)
class ProcessorContext:
    """What a processor factory is told about the reader that it makes a processor for."""

    reader: int
    """The number of the reader, from 1 to `threads`."""

    device: str | None
    """The one of `devices` that this reader is to use; None if the consumer has no `devices`."""

    metrics: Recorder
    """The consumer's `metrics`, or a `WorkerMetrics` that nobody reads if it has none. In a child
    process it has the recording methods of a `WorkerMetrics`."""

    logger: Logger
    """The logger of the consumer."""


class LoadedProcessor:
    """A processor that is ready to run. It has one of `process` and `process_batch`.

    `process_batch` returns one result for each message, and raises `InvalidBatch` if the program's
    own returns anything else.

    All methods belong to the thread that has loaded it.
    """

    __slots__ = ("_close", "process", "process_batch")

    def __init__(
        self,
        process: MessageProcessor | None = None,
        *,
        process_batch: BatchProcessor | None = None,
        close: Callable[[], object] | None = None,
    ) -> None:
        # Fixed after construction.
        self.process = process
        self.process_batch = None if process_batch is None else partial(run_batch, process_batch)
        self._close = close

    def close(self) -> None:
        """Call the `close()` of what the factory has returned, if it has one; raise what that
        raises."""
        if self._close is not None:
            self._close()


@dataclass(frozen=True, slots=True)
class ProcessorSource:
    """What the program gave, and as which argument: a function, a factory, or an import path."""

    argument: Argument
    given: Callable[..., object] | str

    @classmethod
    def choose(
        cls,
        *,
        message_processor: object = None,
        batch_processor: object = None,
        processor_factory: object = None,
    ) -> ProcessorSource:
        """Return the one that is given.

        Raises `ConfigurationError` if none or several are, or for what cannot be one.
        """
        by_name: dict[Argument, object] = {
            "message_processor": message_processor,
            "batch_processor": batch_processor,
            "processor_factory": processor_factory,
        }
        given = [name for name, value in by_name.items() if value is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ConfigurationError(
                "give exactly one of message_processor, batch_processor and processor_factory, "
                f"not {found}"
            )
        (name,) = given
        value = by_name[name]
        if isinstance(value, str):
            if not _PATH.fullmatch(value):
                raise ConfigurationError(
                    f"{name} must be a function or an import path such as {_EXAMPLE}, not {value!r}"
                )
            return cls(name, value)
        return cls(name, check_function(value, name, kind=name))

    @property
    def takes_time(self) -> bool:
        """Whether loading runs code of the program: a factory, or an import."""
        return self.argument == "processor_factory" or isinstance(self.given, str)

    def load(self, context: ProcessorContext) -> LoadedProcessor:
        """Return a processor for this reader. Blocks as long as its imports and its factory do.

        An import path of a class is one of a factory, whichever argument it was given as. Raises
        what these raise, and `ConfigurationError` if an import path leads nowhere or a factory
        returns what is no processor.
        """
        name = f"{self.argument} {self.given!r}" if isinstance(self.given, str) else self.argument
        function, argument = self.given, self.argument
        if isinstance(function, str):
            found = import_object(function, name)
            argument = "processor_factory" if isinstance(found, type) else argument
            function = check_function(found, name, kind=argument)
        if argument == "message_processor":
            return LoadedProcessor(function)
        if argument == "batch_processor":
            return LoadedProcessor(process_batch=function)  # type: ignore[arg-type]
        return _check_returned(function(context), name)


def import_object(path: str, name: str) -> object:
    """Return what an import path names; `name` stands for it in errors.

    Raises what the module raises, and `ConfigurationError` if there is no such module or name.
    """
    module_name, _, attribute = path.partition(":")
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # an import within the module
        raise ConfigurationError(
            f"{name}: there is no module {error.name!r}; install its package, or start the program "
            "in the folder that has it, or name that in PYTHONPATH"
        ) from error
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise ConfigurationError(f"{name}: {error}") from error
    return found


def check_function(function: object, name: str, *, kind: Argument) -> Callable[..., object]:
    """Return a function; raise `ConfigurationError` unless it does its work when it is called.

    Async functions and generators only promise to: their messages would count as done without
    having been run. `name` stands for the function in errors; `kind` says how it is called.
    """
    if not callable(function):
        raise ConfigurationError(f"{name} must be a function, not {function!r}")
    if arguments.only_promises(function):
        raise ConfigurationError(
            f"{name} must be a plain function that blocks until it is done, not an async function "
            "or a generator"
        )
    _check_parameters(function, name, kind)
    return function


def _check_parameters(function: Callable[..., object], name: str, kind: Argument) -> None:
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        return  # a function that is written in C need not say what it takes
    try:
        signature.bind(*_SAMPLES[kind])
    except TypeError as error:
        raise ConfigurationError(
            f"{name} is called with {_PARAMETERS[kind]}; {function!r} takes {signature}: {error}"
        ) from None


def _check_returned(returned: object, factory: str) -> LoadedProcessor:
    """Return what a factory has returned as a loaded processor, if it is one."""
    if isinstance(returned, type):
        raise ConfigurationError(
            f"{factory} returned the class {returned.__qualname__}; return an object of it"
        )
    process_batch = getattr(returned, "process_batch", None)
    process = getattr(returned, "process", returned if callable(returned) else None)
    close = getattr(returned, "close", None)
    if process_batch is None and process is None:
        raise ConfigurationError(
            f"{factory} must return a function, or an object with process(message_id, "
            f"message_data) or process_batch(messages), not {returned!r}"
        )
    if close is not None and (not callable(close) or arguments.only_promises(close)):
        raise ConfigurationError(
            f"the close of what {factory} returned must be a plain method, not {close!r}"
        )
    if process_batch is not None:
        name = f"the process_batch of what {factory} returned"
        check_function(process_batch, name, kind="batch_processor")
        return LoadedProcessor(process_batch=process_batch, close=close)
    what = "what" if process is returned else "the process of what"
    check_function(process, f"{what} {factory} returned", kind="message_processor")
    return LoadedProcessor(process, close=close)
