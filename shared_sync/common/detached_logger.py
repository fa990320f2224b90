"""A logger that blocks its caller for a second at most, for threads that others depend on."""

from __future__ import annotations

import logging
import sys
import threading
import time
import weakref
from functools import partial
from typing import Any, Final

from shared_sync.common.guarded import GuardedLogger
from shared_sync.common.log_attributes import carried

WAIT_SECONDS: Final = 1.0
"""How long a line may take until its thread goes on without it."""

MOST_LINES: Final = 20
"""How many lines of one logger may wait for a handler that blocks; further ones are dropped."""

_loggers: weakref.WeakSet[DetachedLogger] = weakref.WeakSet()


class DetachedLogger(logging.LoggerAdapter):  # type: ignore[type-arg]  # not before Python 3.11
    """Passes each record on in a thread of its own, and waits up to WAIT_SECONDS for that.

    A handler may block for ever, as one does that writes into a pipe nobody reads. While a line
    waits for such a handler, the caller of a further line does not wait. Any thread and any signal
    handler may call.
    """

    def __init__(self, logger: GuardedLogger) -> None:
        super().__init__(logger, {})
        self.direct = logger  # fixed after construction
        """For threads that may wait as long as a handler does."""
        # Replaced as a whole by any thread. If two do so at the same time, one line is forgotten,
        # and the next caller may wait although that line blocks the handler.
        self._unfinished: list[threading.Thread] = []
        # Written by any thread; about right is enough.
        self._dropped = 0
        _loggers.add(self)

    def flush(self) -> bool:
        """Wait up to WAIT_SECONDS for lines that are not written; return whether all are."""
        deadline = time.monotonic() + WAIT_SECONDS
        for thread in self._unfinished:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._unfinished)

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - as the base class has it
        """Return whether records of this level are passed on."""
        return self.direct.isEnabledFor(level)

    def log(self, level: int, msg: object, *args: object, **options: Any) -> None:
        if not self.isEnabledFor(level):
            return
        if options.get("exc_info") is True:  # only this thread knows which error it handles
            options["exc_info"] = sys.exc_info()
        unfinished = [thread for thread in self._unfinished if thread.is_alive()]
        if len(unfinished) >= MOST_LINES:
            self._dropped += 1
            return
        dropped, self._dropped = (self._dropped, 0) if not unfinished else (0, self._dropped)
        write = partial(self._write, dropped, level, msg, *args, **options)
        thread = threading.Thread(
            # In the caller's context, and by its name, so that filters and formats find them.
            target=carried(write),
            name=threading.current_thread().name,
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError:  # no more threads, as when the interpreter shuts down
            if not unfinished:
                write()
            return
        self._unfinished = [*unfinished, thread]
        if not unfinished:
            thread.join(WAIT_SECONDS)

    def _write(self, dropped: int, level: int, msg: object, *args: object, **options: Any) -> None:
        if dropped:
            self.direct.warning("logging was blocked, and %d lines were dropped", dropped)
        self.direct.log(level, msg, *args, **options)


def flush_all() -> bool:
    """Wait up to WAIT_SECONDS for the lines of each logger; return whether all are written."""
    return all(logger.flush() for logger in list(_loggers))
