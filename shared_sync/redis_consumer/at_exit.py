"""Drains consumers that still run when the interpreter exits: their messages count as no crash."""

from __future__ import annotations

import atexit
import faulthandler
import os
import sys
import weakref
from typing import Final, Protocol

from shared_sync.common import detached_logger

EXIT_SECONDS: Final = 25.0
"""The longest time that running messages have to finish when the interpreter exits."""

STUCK_SECONDS: Final = 5.0
"""How long the interpreter may take to exit if logging blocks."""


class Drainable(Protocol):
    """A consumer that was started."""

    @property
    def is_at_work(self) -> bool:
        """Whether it runs or drains, in this process."""

    def end_with_process(self, longest_seconds: float) -> None:
        """Begin to drain because the process ends. May block until it has drained."""

    def stop(self, timeout: float) -> bool:
        """Drain and wait for it."""


_started: weakref.WeakSet[Drainable] = weakref.WeakSet()


def drain_at_exit(consumer: Drainable) -> None:
    """Drain a consumer when this process ends, if it is at work then. Any thread may call."""
    _started.add(consumer)
    util, process = map(sys.modules.get, ("multiprocessing.util", "multiprocessing.process"))
    if util is not None and process is not None and process.parent_process() is not None:
        # A process that multiprocessing has forked calls only what was registered there.
        util.Finalize(None, _end, exitpriority=0)


def _end() -> None:
    """Drain, and make sure that the process ends.

    If a handler of the logging module blocks for ever, so does the interpreter when it exits.
    """
    _drain_all()
    if not detached_logger.flush_all():
        nowhere = os.open(os.devnull, os.O_WRONLY)
        faulthandler.dump_traceback_later(STUCK_SECONDS, exit=True, file=nowhere)


def _drain_all() -> None:
    consumers = [one for one in list(_started) if one.is_at_work]
    try:
        for consumer in consumers:
            consumer.end_with_process(EXIT_SECONDS)
        for consumer in consumers:
            consumer.stop(EXIT_SECONDS)
    except KeyboardInterrupt:  # hand running messages back at once
        for consumer in consumers:
            consumer.stop(0.0)


atexit.register(_end)
