"""What batches look like: their figures in the metrics, and each reader's row on the page."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, Final

from shared_sync.common.guarded import ThreadRecorder
from shared_sync.redis_consumer.batches.cost import Cost, CostModel

COST_SECONDS: Final = 1.0
"""How often the cost is computed anew."""


class BatchFigures:
    """The figures of one reader's batches. Its thread writes; any thread may read the row.

    Gauges are those of the whole process: the lowest ceiling and the mean cost of its readers.
    """

    def __init__(
        self,
        name: str,
        max_size: int,
        recorder: ThreadRecorder,
        everyone: Sequence[BatchFigures],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Fixed after construction.
        self._name = name
        self._recorder = recorder
        self._everyone = everyone
        """The figures of all readers, these included."""
        self._clock = clock
        # Written by the reader's thread.
        self.ceiling = max_size
        """The most messages of a batch just now."""
        self._runs = 0
        self._extra_runs = 0
        self._messages = 0
        self._cost: Cost | None = None
        # Owned by the reader's thread.
        self._model = CostModel()
        self._next_cost_at = 0.0

    def begins(self) -> None:
        """Show what is shown from the start on."""
        self._recorder.increment_counter("batch_extra_runs", 0)
        self._show_ceiling()

    def waited(self, seconds: float) -> None:
        """Note how long the first message of a batch has waited for others."""
        self._recorder.record_duration("batch_wait", seconds)

    def runs(self, messages: int, *, again: bool) -> None:
        """Note that so many messages run together; `again` if they have run before."""
        self._recorder.record_size("batch_size", messages)
        self._runs += 1
        self._messages += messages
        if again:
            self._extra_runs += 1
            self._recorder.increment_counter("batch_extra_runs")

    def succeeded(self, messages: int, seconds: float) -> None:
        """Note how long a run of so many messages took."""
        self._model.add(messages, seconds)
        now = self._clock()
        if now >= self._next_cost_at:
            self._next_cost_at = now + COST_SECONDS
            self._cost = self._model.cost()
            self._show_cost()

    def ceiling_is(self, size: int) -> None:
        """Note that a batch has at most so many messages from now on."""
        self.ceiling = size
        self._show_ceiling()

    def row(self) -> dict[str, Any]:
        """Return what a dashboard shows of this reader's batches."""
        cost, runs = self._cost, self._runs
        return {
            "reader": self._name,
            "runs": runs,
            "extra_runs": self._extra_runs,
            "mean_size": round(self._messages / runs, 1) if runs else None,
            "ceiling": self.ceiling,
            "base_ms": None if cost is None else round(cost.base_seconds * 1000, 1),
            "message_ms": None if cost is None else round(cost.seconds_per_message * 1000, 2),
        }

    def _show_ceiling(self) -> None:
        self._recorder.set_gauge("batch_ceiling", min(one.ceiling for one in self._everyone))

    def _show_cost(self) -> None:
        costs = [cost for one in self._everyone if (cost := one._cost) is not None]
        if costs:
            set_gauge = self._recorder.set_gauge
            base = fmean(cost.base_seconds for cost in costs)
            each = fmean(cost.seconds_per_message for cost in costs)
            set_gauge("batch_cost_base_seconds", base)
            set_gauge("batch_cost_seconds_per_message", each)
