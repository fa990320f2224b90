"""The processor of one reader: loaded before anything is read, replaced, closed in the end."""

from __future__ import annotations

import gc
import math
import threading
import time
import traceback
from collections.abc import Callable

from shared_sync.common.guarded import ErrorRecorder, Logger
from shared_sync.errors import LoadingFailed
from shared_sync.processors import ProcessorContext
from shared_sync.redis_consumer.failures import Failure
from shared_sync.redis_consumer.running.loading import Loading
from shared_sync.redis_consumer.running.runner import Runner
from shared_sync.redis_consumer.slot import Slot


class ReaderProcessor:
    """Loads, replaces and closes the processor of one reader. All methods belong to its thread.

    Args:
        runner: What loads the processor and runs it.
        context: The reader.
        slot: Its slot.
        loading: The loading of all processors of the pool.
        turn: Held by the reader of the pool whose processor is being replaced.
        recorder: Records how long loading takes.
        logger: Must not block for long: the start waits for the readers.
        max_jobs: After how many messages the processor is replaced; infinite for never.
        may_be_replaced: Whether the processor is replaced for any reason.
    """

    def __init__(
        self,
        runner: Runner,
        context: ProcessorContext,
        slot: Slot,
        *,
        loading: Loading,
        turn: threading.Lock,
        recorder: ErrorRecorder,
        logger: Logger,
        max_jobs: float = math.inf,
        may_be_replaced: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Fixed after construction.
        self.runner = runner
        self.may_be_replaced = may_be_replaced
        self._context = context
        self._slot = slot
        self._loading = loading
        self._turn = turn
        self._recorder = recorder
        self._logger = logger
        self._max_jobs = max_jobs
        self._clock = clock
        # Owned by the reader's thread.
        self._jobs = 0
        self._has_turn = False
        # Written by the reader's thread; any thread may read.
        self._failures = 0
        self._failed_with = ""

    @property
    def problem(self) -> str | None:
        """Why the reader has no processor, for the health. Any thread may ask."""
        if not self._failures:
            return None
        times = "once" if self._failures == 1 else f"{self._failures} times"
        return (
            f"{self._slot.name} has no processor: loading a new one has failed {times} "
            f"({self._failed_with}), and is tried again"
        )

    def begin(self) -> bool:
        """Load the processor, and wait until all readers have theirs.

        Returns whether the reader is to read anything.
        """
        self._slot.loads_since = self._clock()
        goes_on = self._loading.load(self._context.reader, self._load)
        self._slot.loads_since = None
        return goes_on

    def has_run(self, messages: int) -> None:
        """Note that the processor has run so many messages more."""
        self._jobs += messages

    def most_to_fetch(self, most: int) -> int:
        """Return how many of so many messages to fetch: no more than this processor is to run."""
        left = self._max_jobs - self._jobs
        return most if left >= most else max(1, int(left))

    def may_replace(self) -> bool:
        """Return whether to call `replace()` now.

        A processor that is gone is replaced at once; one that has run long enough when no other
        reader of the pool is replacing its own, and no batch is left half done.
        """
        if self._has_turn or not self.runner.is_loaded:
            return True
        if self._slot.holds_parts or (self._jobs < self._max_jobs and not self.runner.is_due):
            return False
        self._has_turn = self._turn.acquire(blocking=False)
        return self._has_turn

    def replace(self) -> None:
        """Close the processor and load a new one. Blocks as long as both take.

        The old one is gone before the new one is loaded: a device may have room for one only.
        Raises `LoadingFailed`; the reader has no processor then, and calls again after a pause.
        If the pool stops meanwhile, no new one is loaded.
        """
        slot = self._slot
        if slot.loads_since is None:
            slot.loads_since = self._clock()
        leaves_memory = self.runner.is_loaded or self._failures > 0
        self.runner.close()
        if leaves_memory:
            gc.collect()  # what a model leaves in reference cycles may fill a device
        if self._loading.is_cancelled:
            return
        try:
            self._load()
        except LoadingFailed as failure:
            self._failures += 1
            cause = failure.__cause__
            if cause is not None:
                self._failed_with = Failure.of(cause).error_type
                # Its frames refer to half of a model, and the next attempt needs the memory.
                traceback.clear_frames(cause.__traceback__)
            raise
        if self._failures:
            self._logger.info(
                "%s has a processor again, after %.0f s",
                slot.name,
                self._clock() - slot.loads_since,
            )
        self._failures = self._jobs = 0
        slot.loads_since = None
        self._recorder.increment_counter("processors_replaced")
        if self._has_turn:
            self._has_turn = False
            self._turn.release()

    def close(self) -> None:
        """Close the processor, if there is one."""
        self.runner.close()

    def _load(self) -> None:
        context = self._context
        if not self._loading.takes_time:
            self.runner.start()
            return
        began = self._clock()
        try:
            self._start()
        except BaseException as error:  # even SystemExit is this reader's alone
            raise self._failed(error) from error
        seconds = self._clock() - began
        self._recorder.record_duration("processor_load", seconds)
        self._logger.info(
            "%s has loaded its processor%s in %.1f s",
            self._slot.name,
            f" on {context.device}" if context.device is not None else "",
            seconds,
        )

    def _failed(self, error: BaseException) -> LoadingFailed:
        """Note an error that loading has raised; return it as the failure of this reader."""
        context, why = self._context, Failure.of(error)
        failure = LoadingFailed(context.reader, context.device, f"{why.error_type}: {why.error}")
        if self._loading.is_cancelled:  # a child process was ended for that
            self._logger.info("the consumer stops: %s", failure)
            return failure
        trace, raised = why.for_log()
        self._recorder.record_error(why.error_type if raised is None else raised)
        self._logger.error("%s%s", failure, trace, exc_info=raised)
        return failure

    def _start(self) -> None:
        self._slot.is_loading = True
        try:
            self.runner.start()
        finally:
            self._slot.is_loading = False
