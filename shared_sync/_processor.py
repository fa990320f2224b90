"""How a processor is run: here, in the reader's own thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shared_sync.message import Message, current

MessageProcessor = Callable[[str, dict[str, Any]], object]
"""The user's function: message id and fields in, a result or None out; raising is a failure."""


class ThreadProcessor:
    """Calls the processor in the calling thread. Whatever it raises comes through."""

    def __init__(self, processor: MessageProcessor) -> None:
        self._processor = processor

    def run(self, message: Message) -> object:
        token = current.set(message)
        try:
            return self._processor(message.id, message.fields)
        finally:
            current.reset(token)
