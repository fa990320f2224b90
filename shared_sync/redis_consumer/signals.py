"""Catching SIGTERM and SIGINT, so that a consumer drains."""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def caught() -> Iterator[queue.SimpleQueue[int]]:
    """Catch SIGTERM and SIGINT into a queue while the block runs, if this is the main thread.

    A signal handler may interrupt itself: putting into a SimpleQueue is safe then.
    """
    received: queue.SimpleQueue[int] = queue.SimpleQueue()
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    installer = os.getpid()

    def note(number: int, _frame: FrameType | None) -> None:
        if os.getpid() == installer:
            received.put(number)
        else:
            # A process that was forked meanwhile ends as it would have without this handler.
            signal.signal(number, previous.get(signal.Signals(number), signal.SIG_DFL))
            signal.raise_signal(number)

    previous = {
        number: handler
        for number in (signal.SIGTERM, signal.SIGINT)
        if (handler := signal.signal(number, note)) is not None
    }
    try:
        yield received
    except BaseException:
        # What asked the program to end while it was failing to start must not be forgotten.
        _restore(previous)
        if not received.empty():
            signal.raise_signal(received.get())
        raise
    finally:
        _restore(previous)


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
