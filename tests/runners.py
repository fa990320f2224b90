"""The runner of one reader around a processor that a test supplies."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from helpers import Figures

from shared_sync.common.guarded import GuardedLogger, GuardedRecorder
from shared_sync.processors import MessageProcessor, ProcessorContext, ProcessorSource
from shared_sync.redis_consumer.running.loading import Loading
from shared_sync.redis_consumer.running.reader_processor import ReaderProcessor
from shared_sync.redis_consumer.running.runner import AttemptHook, Runner, ThreadRunner
from shared_sync.redis_consumer.slot import Slot

LOGGER = GuardedLogger(logging.getLogger("tests.runner"))


def context(reader: int = 1, device: str | None = None) -> ProcessorContext:
    """What a factory is told, in a test that looks at no metrics."""
    return ProcessorContext(reader, device, Figures(), LOGGER)


def reader_processor(runner: Runner, slot: Slot) -> ReaderProcessor:
    """What gives a reader this runner, which has loaded and is never replaced."""
    return ReaderProcessor(
        runner,
        context(),
        slot,
        loading=Loading(1, takes_time=False, one_by_one=True),
        turn=threading.Lock(),
        recorder=GuardedRecorder(None, LOGGER),
        logger=LOGGER,
    )


def new_runner(
    processor: MessageProcessor,
    hooks: Sequence[AttemptHook] = (),
    *,
    clock: Callable[[], float] = time.monotonic,
) -> ThreadRunner:
    """A runner that has loaded this processor, for the thread that calls."""
    source = ProcessorSource("message_processor", processor)
    runner = ThreadRunner(source, context(), hooks, clock=clock)
    runner.start()
    return runner


def raising(error: BaseException) -> Callable[[], object]:
    """A function that raises this error each time."""

    def fail() -> None:
        raise error

    return fail
