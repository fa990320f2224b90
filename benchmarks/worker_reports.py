"""How a worker process of a benchmark reports to the program that started it.

It imports next to nothing, because the time that a worker takes to start is measured too.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable

STREAM, GROUP = "bench", "workers"


def write_report(**report: object) -> None:
    """Write a report to the standard output, as one line of JSON. One thread at a time."""
    sys.stdout.write(json.dumps(report) + "\n")
    sys.stdout.flush()


def wait_for_end_of_input() -> None:
    """Block until the program that started this process closes its standard input, or ends."""
    while os.read(0, 1024):
        pass


def at_end_of_input(act: Callable[[], object]) -> None:
    """Return at once, and call a function in a thread when the standard input is closed."""

    def wait() -> None:
        wait_for_end_of_input()
        act()

    threading.Thread(target=wait, daemon=True).start()
