"""A line that is logged the first time only."""

from __future__ import annotations

import threading

from shared_sync.common.guarded import Logger


class LogOnce:
    """Passes its first line to a logger and drops the others. Any thread may call it."""

    def __init__(self, logger: Logger, level: int) -> None:
        self._logger = logger
        self._level = level
        self._first = threading.Lock()  # acquired by whoever logs, and never released

    def __call__(self, message: str, *arguments: object) -> None:
        """Log the line, unless there was one before."""
        if self._first.acquire(blocking=False):
            self._logger.log(self._level, message, *arguments)
