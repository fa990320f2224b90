"""Errors of metrics and loggers cost no message, and a whole read takes one lock."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from helpers import Figures

from shared_sync.common.guarded import (
    MOST_WARNINGS,
    GuardedLogger,
    GuardedRecorder,
    ThreadRecorder,
)
from shared_sync.metrics import WorkerMetrics
from shared_sync.redis_consumer.failures import DEADLINE

LOGGER = logging.getLogger("test_guarded")


class Batches(Figures):
    """A recorder that keeps the batches that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[tuple[dict[str, float], dict[str, list[float]]]] = []

    def record_batch(
        self, *, counters: Mapping[str, float], durations: Mapping[str, Sequence[float]]
    ) -> None:
        self.batches.append((dict(counters), {name: list(d) for name, d in durations.items()}))


class Refusing(Figures):
    """A recorder that refuses one name."""

    def increment_counter(self, name: str, value: float = 1) -> None:
        if name == "jobs_processed":
            raise KeyboardInterrupt("a gauge here")
        super().increment_counter(name, value)


def kept(recorder: Any) -> ThreadRecorder:
    own = ThreadRecorder(GuardedRecorder(recorder, LOGGER))
    own.increment_counter("jobs_processed")
    own.increment_counter("jobs_processed", 2)
    own.increment_counter("redis_operations", 4)
    own.record_duration("processing_latency", 0.5)
    own.record_duration("processing_latency", 0.25)
    return own


def test_what_a_thread_records_is_passed_on_as_one_batch() -> None:
    batches = Batches()
    own = kept(batches)
    assert batches.batches == []
    own.flush()
    own.flush()
    assert batches.batches == [
        (
            {"jobs_processed": 3, "redis_operations": 4},
            {"processing_latency": [0.5, 0.25]},
        )
    ]
    assert not batches.counters
    assert not batches.durations


def test_a_recorder_without_batches_gets_the_values_one_by_one() -> None:
    figures = Figures()
    kept(figures).flush()
    assert figures.counters == {"jobs_processed": 3, "redis_operations": 4}
    assert figures.durations == {"processing_latency": 2}


def test_of_a_batch_that_is_refused_only_the_refused_value_is_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = WorkerMetrics("w", strict=True)
    metrics.set_gauge("jobs_processed", 7)
    own = kept(metrics)
    own.flush()
    own.increment_counter("jobs_processed")
    own.flush()
    data = metrics.get_metrics_data()
    assert (data["jobs_processed"], data["redis_operations"]) == (7, 4)
    assert data["processing_latency_count"] == 2
    assert [record.message for record in caplog.records] == [
        "metrics refuse jobs_processed ('jobs_processed' is a gauge already and cannot be a "
        "counter too; choose another name); this is logged once for each metric, and costs no "
        "message"
    ]


def test_the_first_error_of_each_metric_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    metrics = WorkerMetrics("w", strict=True)
    guarded = GuardedRecorder(metrics, LOGGER)
    for _ in range(3):
        guarded.set_gauge("level", float("nan"))
        guarded.record_duration("work", -1.0)
    for number in range(2 * MOST_WARNINGS):
        guarded.increment_counter(f"errors.Odd{number}", -1)
    logged = [record.message.split()[2] for record in caplog.records]
    assert logged[:2] == ["level", "work"]
    assert len(logged) == len(set(logged)) == MOST_WARNINGS


def test_whatever_a_recorder_raises_goes_no_further() -> None:
    refusing = Refusing()
    kept(refusing).flush()
    assert refusing.counters == {"redis_operations": 4}


def test_errors_are_passed_on_as_such_or_by_the_name_of_their_type() -> None:
    metrics, figures = WorkerMetrics("w"), Figures()
    for recorder in (metrics, figures):
        own = ThreadRecorder(GuardedRecorder(recorder, LOGGER))
        own.record_error(ConnectionResetError("10.0.0.1"))
        own.record_error(DEADLINE)
        own.flush()
    data = metrics.get_metrics_data()
    assert data["errors"] == {"ConnectionResetError": 1, DEADLINE: 1}
    assert data["errors_by_category"] == {"dependency": 1, "timeout": 1}
    assert figures.counters == {"errors.ConnectionResetError": 1, f"errors.{DEADLINE}": 1}


def test_a_logger_that_raises_wants_no_line_and_raises_nothing() -> None:
    class Broken(logging.Logger):
        def isEnabledFor(self, level: int) -> bool:  # noqa: N802
            raise RuntimeError("broken")

    logger = GuardedLogger(Broken("broken"))
    assert not logger.isEnabledFor(logging.ERROR)
    logger.error("this line is lost")


def test_an_error_is_counted_after_the_failure_that_it_belongs_to() -> None:
    order: list[str] = []

    class Recorder(Figures):
        def increment_counter(self, name: str, value: float = 1) -> None:
            order.append(name)

    own = ThreadRecorder(GuardedRecorder(Recorder(), LOGGER))
    own.increment_counter("jobs_failed")
    own.record_error(DEADLINE)
    own.flush()
    own.flush()
    assert order == ["jobs_failed", f"errors.{DEADLINE}"]


def test_without_a_recorder_nothing_happens() -> None:
    own = kept(None)
    own.record_error(ValueError())
    own.set_gauge("jobs_unsettled", 1)
    own.flush()


def test_the_sizes_of_a_queue_reach_any_recorder_as_far_as_they_are_known() -> None:
    metrics, figures = WorkerMetrics("w"), Figures()
    sizes = {"queue_depth": 3, "jobs_parked": None}
    for recorder in (metrics, figures):
        GuardedRecorder(recorder, LOGGER).record_queue(sizes, stream="jobs", group="stt")
    assert figures.gauges == {"queue_depth": 3}
    labels = (("group", "stt"), ("stream", "jobs"))
    assert metrics.snapshot().gauges == {"queue_depth": {labels: 3}}
