"""How a processor is run: here, in the reader's own thread."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from shared_sync.errors import ConfigurationError
from shared_sync.message import Message, current

MessageProcessor = Callable[[str, dict[str, Any]], object]
"""The user's function: message id and fields in, a result or None out; raising is a failure."""


class ThreadProcessor:
    """Calls the processor in the calling thread. Whatever it raises comes through.

    Functions that only promise to work, `async` ones and generators, are refused: their messages
    would count as done without having been run.
    """

    def __init__(self, processor: MessageProcessor) -> None:
        if not callable(processor):
            raise ConfigurationError(f"message_processor must be a function, not {processor!r}")
        if inspect.iscoroutinefunction(processor) or inspect.isgeneratorfunction(processor):
            raise ConfigurationError(
                "message_processor must be a plain function that blocks until it is done, "
                "not an async function or a generator"
            )
        self._processor = processor

    def run(self, message: Message) -> object:
        token = current.set(message)
        try:
            result = self._processor(message.id, message.fields)
        finally:
            current.reset(token)
        if isinstance(result, (Coroutine, Generator)):
            result.close()
            raise TypeError(
                f"the processor returned a {type(result).__name__}, which has not run; "
                "return the result itself"
            )
        return result
