"""Draining what still runs when the interpreter exits, so that its messages count as no crash."""

from __future__ import annotations

import atexit
import weakref
from typing import Final, Protocol

EXIT_SECONDS: Final = 25.0
"""Most of the time that running messages have to finish when the interpreter exits."""


class Drainable(Protocol):
    """A consumer that was started."""

    @property
    def is_at_work(self) -> bool:
        """Whether it runs or drains, in this process."""

    def end_with_process(self, longest_seconds: float) -> None:
        """Begin to drain, as the process ends. May block until it has drained."""

    def stop(self, timeout: float) -> bool:
        """Drain and wait for it."""


_started: weakref.WeakSet[Drainable] = weakref.WeakSet()


def drain_at_exit(consumer: Drainable) -> None:
    """Drain a consumer when the interpreter exits, if it is at work then. Any thread may call."""
    _started.add(consumer)


def _drain_all() -> None:
    consumers = [one for one in list(_started) if one.is_at_work]
    try:
        for consumer in consumers:
            consumer.end_with_process(EXIT_SECONDS)
        for consumer in consumers:
            consumer.stop(EXIT_SECONDS)
    except KeyboardInterrupt:  # somebody has no patience
        for consumer in consumers:
            consumer.stop(0.0)


atexit.register(_drain_all)
