"""What the demo prints: whole lines, and a progress bar below them on a terminal."""

from __future__ import annotations

import logging
import shutil
import threading
from typing import TextIO

BAR_WIDTH = 30


class Screen:
    """Writes lines and a progress bar. Safe from any thread."""

    def __init__(self, out: TextIO) -> None:
        # Fixed after construction.
        self._out = out
        self._terminal = out.isatty()
        # Guarded by the lock.
        self._lock = threading.Lock()
        self._bar = ""

    def line(self, text: str = "") -> None:
        """Write a line."""
        with self._lock:
            self._write(f"{text}\n")

    def progress(self, done: int, total: int) -> None:
        """Draw the bar anew, if this is a terminal."""
        filled = BAR_WIDTH * done // total
        bar = "#" * filled + "." * (BAR_WIDTH - filled)
        with self._lock:
            self._bar = f"[{bar}] {done} of {total}\r" if self._terminal and done < total else ""
            self._write("")

    def _write(self, text: str) -> None:
        blank = " " * (shutil.get_terminal_size().columns - 1) + "\r" if self._terminal else ""
        self._out.write(blank + text + self._bar)
        self._out.flush()

    def logger(self) -> logging.Logger:
        """A logger of warnings and errors, one line each: no tracebacks, as errors are staged."""
        logger = logging.Logger("shared_sync.demo", logging.WARNING)
        logger.addHandler(_Brief(self))
        return logger


class _Brief(logging.Handler):
    """Writes the text of a record to the screen, without its traceback."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        self._screen.line(f"      {record.getMessage()}")
