"""What a batch costs: how its duration grows with the number of its messages, learned from runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple

RUNS: Final = 256
"""So many of the newest runs count."""


class Cost(NamedTuple):
    """A run of n messages takes about `base_seconds + n * seconds_per_message`."""

    base_seconds: float
    seconds_per_message: float


class CostModel:
    """Learns the cost of one reader's batches. One thread adds runs; any thread may ask.

    The cost is a straight line through the median durations of all sizes that have run, by least
    squares, each size weighted by its runs. A median is not moved by a run that took far longer
    than others of its size, such as the first one on a GPU.
    """

    def __init__(self) -> None:
        self._runs: deque[tuple[int, float]] = deque(maxlen=RUNS)

    def add(self, messages: int, seconds: float) -> None:
        """Note that a run of so many messages took so long."""
        self._runs.append((messages, seconds))

    def cost(self) -> Cost | None:
        """Return the cost; None until runs of two sizes are known, which a line needs."""
        by_size: dict[int, list[float]] = {}
        for messages, seconds in self._runs.copy():
            by_size.setdefault(messages, []).append(seconds)
        if len(by_size) < 2:
            return None
        points = [(size, median(seconds), len(seconds)) for size, seconds in by_size.items()]
        return _line_through(points)


def _line_through(points: Sequence[tuple[int, float, int]]) -> Cost:
    """Return the line through points, each of a size, seconds and a weight; never negative."""
    weight = sum(w for _, _, w in points)
    mean_size = sum(w * size for size, _, w in points) / weight
    mean_seconds = sum(w * seconds for _, seconds, w in points) / weight
    spread = sum(w * (size - mean_size) ** 2 for size, _, w in points)
    together = sum(w * (size - mean_size) * (seconds - mean_seconds) for size, seconds, w in points)
    slope = max(0.0, together / spread)
    base = mean_seconds - slope * mean_size
    if base < 0.0:  # then the line through zero
        base = 0.0
        slope = sum(w * size * seconds for size, seconds, w in points) / sum(
            w * size * size for size, _, w in points
        )
    return Cost(base, slope)
