"""The runner of one reader around a processor that a test supplies."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from helpers import Figures

from shared_sync.processors import MessageProcessor, ProcessorContext, ProcessorSource
from shared_sync.redis_consumer.runner import AttemptHook, ThreadRunner


def context(reader: int = 1, device: str | None = None) -> ProcessorContext:
    """What a factory is told, in a test that looks at no metrics."""
    return ProcessorContext(reader, device, Figures(), logging.getLogger("tests.runner"))


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
