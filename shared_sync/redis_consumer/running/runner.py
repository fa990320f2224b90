"""Running the processor, and what happens before and after each attempt."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from shared_sync.errors import ConsumerStateError
from shared_sync.message import Fields, Message, Running, running_in_this_thread
from shared_sync.processors import (
    BatchProcessor,
    LoadedProcessor,
    MessageProcessor,
    ProcessorContext,
    ProcessorSource,
)
from shared_sync.protocol.live_job import JobContext
from shared_sync.protocol.messages import Entry
from shared_sync.redis_consumer.running.attempt_jobs import AttemptJobs
from shared_sync.redis_consumer.slot import Attempt


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

    def after_repeat(self, attempt: Attempt, error: BaseException | None) -> None:
        """The same, in place of `after_attempt()`, if its messages have run before in the batch
        that it is a part of."""
        return


class Runner(Protocol):
    """Runs the attempts of one reader. Its thread calls the methods, but for `interrupt()` and
    `cancel()`."""

    @property
    def is_loaded(self) -> bool:
        """Whether `run()` may be called.

        False before `start()`, after `close()`, and if what runs the attempts is gone, as a child
        process that has died.
        """

    @property
    def is_due(self) -> bool:
        """Whether the processor has run long enough, and a new one is to replace it.

        It still runs attempts while another reader replaces its processor.
        """

    @property
    def takes_batches(self) -> bool:
        """Whether the processor takes several messages at once, as loading it has shown."""

    def start(self) -> None:
        """Load the processor. Blocks as long as that takes, and raises what it raises.

        Called before anything is read, and again after `close()`, which replaces the processor by
        a new one. After an error it may be called again.
        """

    def run(self, attempt: Attempt, fields: Sequence[Fields]) -> Sequence[object]:
        """Run an attempt of one message with its fields; return its result as the only one.

        Blocks as long as the processor does, and sets `attempt.ended_at`. What the processor raises
        comes through.
        """

    def run_batch(self, attempt: Attempt, fields: Sequence[Fields]) -> Sequence[object]:
        """Run an attempt of any number of messages; return a result for each of them.

        Only if `takes_batches`. Blocks and raises as `run()` does. A result that is an exception
        stands for one that the processor has raised about this message alone.
        """

    def close(self) -> None:
        """Close what `start()` has loaded; does nothing if there is nothing. Must not raise."""

    def cancel(self, attempt: Attempt, entry: Entry) -> None:
        """Tell the processor that a message of the attempt that runs is cancelled.

        Any thread may call it, and again for the same message; never blocks.
        """

    def interrupt(self) -> bool:
        """End what runs or loads, for good: the consumer stops. Any thread may call it.

        `run()` and `start()` then raise `ChildCrashed` at once. Returns whether that is possible: a
        thread cannot be ended.
        """


class ThreadRunner:
    """Calls the processor in the reader's own thread."""

    def __init__(
        self,
        source: ProcessorSource,
        context: ProcessorContext,
        hooks: Sequence[AttemptHook] = (),
        *,
        jobs: JobContext | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Fixed after construction.
        self._source = source
        self._context = context
        self._jobs = jobs
        self._before = [
            hook.before_attempt for hook in hooks if _takes_part(hook, AttemptHook.before_attempt)
        ]
        self._after = [
            hook.after_attempt for hook in hooks if _takes_part(hook, AttemptHook.after_attempt)
        ]
        self._after_repeat = [
            hook.after_repeat for hook in hooks if _takes_part(hook, AttemptHook.after_repeat)
        ]
        self._clock = clock
        # Owned by the reader's thread.
        self._running = Running()
        self._batch: Attempt | None = None
        """The attempt of several messages that runs."""
        self._loaded: LoadedProcessor | None = None
        self._process: MessageProcessor = _not_loaded
        self._process_batch: BatchProcessor | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether there is a processor."""
        return self._loaded is not None

    @property
    def is_due(self) -> bool:
        """False: the processor serves until the end."""
        return False

    @property
    def takes_batches(self) -> bool:
        """Whether the processor takes several messages at once."""
        return self._process_batch is not None

    def start(self) -> None:
        """Load the processor in this thread, and let `current_message()` know what runs here."""
        self._running = running_in_this_thread()
        self._running.control_of = partial(AttemptJobs, self._is_running, self._jobs)
        loaded = self._source.load(self._context)
        if loaded.process is not None:
            self._process = loaded.process
        self._process_batch = loaded.process_batch
        self._loaded = loaded

    def close(self) -> None:
        """Close the processor, and keep nothing of it."""
        loaded, self._loaded = self._loaded, None
        self._process = _not_loaded
        self._process_batch = None
        if loaded is None:
            return
        try:
            loaded.close()
        except BaseException:
            self._context.logger.error(
                "the processor of reader %d could not be closed",
                self._context.reader,
                exc_info=True,
            )

    def cancel(self, attempt: Attempt, entry: Entry) -> None:
        """Set the event of the message: a thread cannot be ended."""
        attempt.job(entry).cancelled.set()

    def interrupt(self) -> bool:
        """Return False: nothing can end what runs in a thread."""
        return False

    def run(self, attempt: Attempt, fields: Sequence[Fields]) -> Sequence[object]:
        """Call the processor; return its result as the only one."""
        (entry,) = attempt.entries
        (own,) = fields
        for before_attempt in self._before:
            before_attempt(attempt)
        raised: BaseException | None = None
        self._running.parts = (entry.id, own, entry.deliveries, attempt)
        try:
            result = self._process(entry.id, own)
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

    def run_batch(self, attempt: Attempt, fields: Sequence[Fields]) -> Sequence[object]:
        """Call the batch processor; return its results."""
        process_batch = self._process_batch
        if process_batch is None:
            raise ConsumerStateError("call start() before run_batch()")
        jobs = AttemptJobs(self._is_running, self._jobs, attempt)
        messages = [
            Message(entry.id, own, entry.deliveries, jobs)
            for entry, own in zip(attempt.entries, fields, strict=True)
        ]
        for before_attempt in self._before:
            before_attempt(attempt)
        raised: BaseException | None = None
        self._running.is_batch = True
        self._batch = attempt
        try:
            return process_batch(messages)
        except BaseException as error:
            raised = error
            raise
        finally:
            self._running.is_batch = False
            self._batch = None
            attempt.ended_at = self._clock()
            attempt.end_jobs()
            for after in self._after_repeat if attempt.is_repeat else self._after:
                after(attempt, raised)
            del raised  # it refers to this frame

    def _is_running(self, attempt: Attempt) -> bool:
        parts = self._running.parts
        return attempt is self._batch or (parts is not None and parts[3] is attempt)


def _takes_part(hook: AttemptHook, inherited: Callable[..., None]) -> bool:
    """Return whether a hook has a method of its own in place of the inherited one."""
    return getattr(type(hook), inherited.__name__) is not inherited


def _not_loaded(*_: object) -> object:
    raise ConsumerStateError("call start() before run()")
