"""Catching the signals that ask a program to end, so that a consumer drains."""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from shared_sync.common.fork import renew_in_forks


@contextmanager
def caught() -> Iterator[queue.SimpleQueue[int]]:
    """Catch SIGTERM, SIGINT and SIGHUP into a queue while the block runs.

    Only in the main thread. SIGHUP, which closing a terminal sends, is only caught where it would
    end the program: other programs ignore it (nohup) or handle it themselves. A signal handler may
    interrupt itself: putting into a SimpleQueue is safe then.
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
            signal.signal(number, previous.by_signal.get(number, signal.SIG_DFL))
            signal.raise_signal(number)

    previous = _Handlers()
    for number in _to_catch():
        handler = signal.signal(number, note)
        if handler is not None:
            previous.by_signal[number] = handler
    # At once, since CPython may lose a signal that a handler in a forked process is to have.
    renew_in_forks(previous, _Handlers.restore)
    try:
        yield received
    except BaseException:
        # What asked the program to end while it was failing to start must not be forgotten.
        previous.restore()
        if not received.empty():
            signal.raise_signal(received.get())
        raise
    finally:
        previous.restore()


def _to_catch() -> list[signal.Signals]:
    hangups = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []  # not on Windows
    ending = [number for number in hangups if signal.getsignal(number) is signal.SIG_DFL]
    return [signal.SIGTERM, signal.SIGINT, *ending]


class _Handlers:
    """Signal handlers, to be installed again."""

    def __init__(self) -> None:
        self.by_signal: dict[int, Any] = {}

    def restore(self) -> None:
        """Install the handlers."""
        for number, handler in self.by_signal.items():
            signal.signal(number, handler)
