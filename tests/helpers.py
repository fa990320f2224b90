"""What tests share: waiting with a deadline, and a recorder that only remembers."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable


def eventually(condition: Callable[[], object], *, within: float = 15.0) -> None:
    """Wait until the condition holds; fail when it does not within so many seconds."""
    deadline = time.monotonic() + within
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"did not come true within {within} s"
        pause.wait(0.01)


class Figures:
    """Stands in for WorkerMetrics and keeps what it was told."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counters: Counter[str] = Counter()
        self.durations: Counter[str] = Counter()
        self.gauges: dict[str, float] = {}

    def increment_counter(self, name: str, value: float = 1) -> None:
        with self._lock:
            self.counters[name] += value

    def record_duration(self, name: str, seconds: float) -> None:
        assert seconds >= 0
        with self._lock:
            self.durations[name] += 1

    def set_gauge(self, name: str, value: float) -> None:
        with self._lock:
            self.gauges[name] = value
