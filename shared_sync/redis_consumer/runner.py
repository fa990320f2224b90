"""Running the processor, and what happens before and after each attempt."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from shared_sync.errors import ConfigurationError
from shared_sync.message import Fields, Running, running_in_this_thread
from shared_sync.redis_consumer.slot import Attempt

MessageProcessor = Callable[[str, dict[str, Any]], object]
"""The user's function: message id and fields in, a result or None out; raising is a failure."""


class AttemptHook(Protocol):
    """Takes part in every attempt of one reader, in the reader's thread. Must not raise.

    A method that a hook inherits from here does nothing, and is not even called.
    """

    def before_attempt(self, attempt: Attempt) -> None:
        """The processor is about to run."""
        return

    def after_attempt(self, attempt: Attempt, error: BaseException | None) -> None:
        """The processor has returned, or has raised this error; `attempt.ended_at` is set."""
        return


class Runner(Protocol):
    """Runs the attempts of one reader. All methods belong to the reader's thread."""

    def start(self) -> None:
        """Get ready, before the first attempt."""

    def run(self, attempt: Attempt, fields: Sequence[Fields]) -> Sequence[object]:
        """Run an attempt with the fields of its entries; return a result for each of them.

        Blocks as long as the processor does, and sets `attempt.ended_at`. What the processor raises
        comes through.
        """

    def close(self) -> None:
        """Release what `start()` has taken, after the last attempt."""


class ThreadRunner:
    """Calls the processor in the reader's own thread, for one message at a time."""

    def __init__(
        self,
        processor: MessageProcessor,
        hooks: Sequence[AttemptHook] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._processor = processor
        self._before = [
            hook.before_attempt for hook in hooks if _takes_part(hook, AttemptHook.before_attempt)
        ]
        self._after = [
            hook.after_attempt for hook in hooks if _takes_part(hook, AttemptHook.after_attempt)
        ]
        self._clock = clock
        # Owned by the reader's thread.
        self._running = Running()

    def start(self) -> None:
        """Let `current_message()` know what runs in this thread."""
        self._running = running_in_this_thread()

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def run(self, attempt: Attempt, fields: Sequence[Fields]) -> Sequence[object]:
        """Call the processor; return its result as the only one."""
        (entry,) = attempt.entries
        (own,) = fields
        for before_attempt in self._before:
            before_attempt(attempt)
        raised: BaseException | None = None
        self._running.parts = (entry.id, own, entry.deliveries)
        try:
            result = self._processor(entry.id, own)
        except BaseException as error:
            raised = error
            raise
        finally:
            self._running.parts = None
            attempt.ended_at = self._clock()
            for after_attempt in self._after:
                after_attempt(attempt, raised)
            del raised  # it refers to this frame
        return (result,)


def _takes_part(hook: AttemptHook, inherited: Callable[..., None]) -> bool:
    """Return whether a hook has a method of its own in place of the inherited one."""
    return getattr(type(hook), inherited.__name__) is not inherited


def check_processor(processor: object) -> None:
    """Raise `ConfigurationError` for what is no function that does its work when it is called.

    Async functions and generators only promise to: their messages would count as done without
    having been run.
    """
    if not callable(processor):
        raise ConfigurationError(f"message_processor must be a function, not {processor!r}")
    called: Any = processor
    while isinstance(called, partial):
        called = called.func
    if _only_promises(called) or _only_promises(type(called).__call__):
        raise ConfigurationError(
            "message_processor must be a plain function that blocks until it is done, "
            "not an async function or a generator"
        )
    _check_parameters(processor)


def _check_parameters(processor: Callable[..., object]) -> None:
    try:
        signature = inspect.signature(processor)
    except (ValueError, TypeError):
        return  # a function that is written in C need not say what it takes
    try:
        signature.bind("", {})
    except TypeError as error:
        raise ConfigurationError(
            "message_processor is called with two arguments, message_id and message_data; "
            f"{processor!r} takes {signature}: {error}"
        ) from None


def _only_promises(function: object) -> bool:
    return (
        inspect.iscoroutinefunction(function)
        or inspect.isgeneratorfunction(function)
        or inspect.isasyncgenfunction(function)
    )
