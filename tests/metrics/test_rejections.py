"""A wrong value costs no work: it is dropped, counted by its metric, and logged once."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from helpers import Clock
from registries import StillResources, registry

from shared_sync.errors import ConfigurationError
from shared_sync.metrics import MAX_LABEL_SETS, WorkerMetrics

NAN = float("nan")

WRONG: dict[str, tuple[str, Any]] = {
    "a gauge that is not a number": ("wer", lambda m: m.set_gauge("wer", NAN)),
    "a gauge without a value": ("wer", lambda m: m.update_gauge("wer", None)),
    "a gauge moved by infinity": ("wer", lambda m: m.adjust_gauge("wer", float("inf"))),
    "a length of time after the clock was set back": (
        "work",
        lambda m: m.record_duration("work", -0.2),
    ),
    "a counter that goes back": ("sent", lambda m: m.increment_counter("sent", -1)),
    "a counter of text": ("sent", lambda m: m.increment_counter("sent", "3")),
    "a name of another kind": ("sent", lambda m: m.set_gauge("sent", 1.0)),
    "a name that is in use": ("timestamp", lambda m: m.set_gauge("timestamp", 1.0)),
    "other labels than before": (
        "words",
        lambda m: m.increment_counter("words", labels={"tongue": "en"}),
    ),
    "more labels than before": (
        "words",
        lambda m: m.increment_counter("words", labels={"language": "en", "accent": "scots"}),
    ),
    "labels that are no dict": ("words", lambda m: m.increment_counter("words", labels="en")),
    "a label that is no name": ("words", lambda m: m.increment_counter("words", labels={3: "en"})),
    "labels of errors": (
        "errors.KeyError",
        lambda m: m.increment_counter("errors.KeyError", labels={"language": "en"}),
    ),
    "a name with a space": ("word_count", lambda m: m.increment_counter("word count")),
    "a name that is no text": ("other", lambda m: m.increment_counter(None)),
    "a name that cannot be looked up": ("other", lambda m: m.set_gauge(["wer"], 1.0)),
}


@pytest.fixture
def lenient(clock: Clock, resources: StillResources) -> WorkerMetrics:
    """A registry as programs have it, with some metrics."""
    metrics = registry("stt-1", clock, resources, strict=False)
    metrics.increment_counter("sent", 2)
    metrics.increment_counter("words", labels={"language": "en"})
    metrics.record_duration("work", 1.0)
    return metrics


def without_rejections(metrics: WorkerMetrics) -> dict[str, Any]:
    data = metrics.get_metrics_data()
    return {name: data[name] for name in data if not name.startswith("metrics_rejected")}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_value_is_dropped_and_counted_and_logged_once(
    lenient: WorkerMetrics, caplog: pytest.LogCaptureFixture, wrong: str
) -> None:
    name, record = WRONG[wrong]
    before = without_rejections(lenient)
    for _ in range(3):
        record(lenient)
    assert without_rejections(lenient) == before
    data = lenient.get_metrics_data()
    assert data["metrics_rejected"] == data[f"metrics_rejected{{name={name}}}"] == 3
    (logged,) = caplog.records
    assert (logged.name, logged.levelname) == ("shared_sync.metrics", "WARNING")
    assert "cannot be recorded: " in logged.message
    assert __file__ in (logged.stack_info or "")  # where the call is


@pytest.mark.parametrize("wrong", WRONG)
def test_a_strict_registry_raises_instead(metrics: WorkerMetrics, wrong: str) -> None:
    metrics.increment_counter("sent")
    metrics.increment_counter("words", labels={"language": "en"})
    with pytest.raises(ConfigurationError):
        WRONG[wrong][1](metrics)
    assert metrics.get_metrics_data()["metrics_rejected"] == 0


@pytest.mark.parametrize("strict", [False, True])
def test_mistakes_in_declarations_are_always_errors(
    clock: Clock, resources: StillResources, *, strict: bool
) -> None:
    metrics = registry("stt-1", clock, resources, strict=strict)
    metrics.declare("level", "gauge", "Level.")
    for declare in (
        lambda: metrics.declare("level", "counter", "Level."),
        lambda: metrics.declare("no good", "gauge", "Level."),
        lambda: metrics.declare_ratio("share", "level", "rest"),
        lambda: metrics.alert("level", above=NAN),
        lambda: metrics.register_error(ValueError, "odd"),
    ):
        with pytest.raises(ConfigurationError):
            declare()
    assert metrics.get_metrics_data()["metrics_rejected"] == 0


def test_the_block_of_a_timer_runs_whatever_its_name(lenient: WorkerMetrics) -> None:
    ran = []
    with lenient.timer("no good"):
        ran.append(1)
    with pytest.raises(KeyError), lenient.timer("work", {"a": "b"}), lenient.timer("work", "c"):  # type: ignore[arg-type]
        raise KeyError
    data = lenient.get_metrics_data()
    assert (ran, data["work_count"]) == ([1], 2)
    assert data["metrics_rejected{name=no_good}"] == data["metrics_rejected{name=work}"] == 1


def test_of_a_batch_only_what_is_wrong_is_dropped(lenient: WorkerMetrics) -> None:
    lenient.record_batch(
        counters={"sent": 1, "back": -1, "work": 1},
        durations={"work": iter([0.5, -0.5, 2.0]), "wait": 3.0, "idle": []},  # type: ignore[dict-item]
        gauges={"level": NAN, "load": 0.5},
    )
    lenient.record_batch(counters=[("sent", 1)], gauges={"load": 0.25})  # type: ignore[arg-type]
    data = lenient.get_metrics_data()
    assert (data["sent"], data["work_count"], data["work_ms"], data["load"]) == (3, 3, 2000.0, 0.25)
    assert not {"back", "level", "wait_count"} & data.keys()
    assert {name: data[name] for name in data if name.startswith("metrics_rejected{")} == {
        "metrics_rejected{name=back}": 1,
        "metrics_rejected{name=work}": 2,
        "metrics_rejected{name=wait}": 1,
        "metrics_rejected{name=level}": 1,
        "metrics_rejected{name=counters}": 1,
    }


def test_names_without_end_fill_neither_the_memory_nor_the_log(
    lenient: WorkerMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(2 * MAX_LABEL_SETS):
        lenient.increment_counter(f"client {number}")
    snapshot = lenient.snapshot()
    assert len(snapshot.counters["metrics_rejected"]) == MAX_LABEL_SETS + 1
    assert snapshot.counters["metrics_rejected"][(("name", "other"),)].total == MAX_LABEL_SETS
    assert len(caplog.records) == MAX_LABEL_SETS + 1


def test_a_logger_that_raises_or_counts_hurts_nobody(
    clock: Clock, resources: StillResources
) -> None:
    class Counting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            metrics.increment_counter("sent", -1)
            metrics.increment_counter("lines logged")
            metrics.increment_counter("lines_logged")
            raise OSError("disk is full")

    logger = logging.Logger("own")
    logger.addHandler(Counting())
    metrics = registry("stt-1", clock, resources, strict=False, logger=logger)
    metrics.increment_counter("sent", -1)
    data = metrics.get_metrics_data()
    assert (data["metrics_rejected{name=sent}"], data["lines_logged"]) == (3, 2)


def test_prometheus_shows_what_was_rejected(lenient: WorkerMetrics) -> None:
    lenient.set_gauge("wer", NAN)
    text = lenient.render_prometheus().decode()
    assert 'metrics_rejected_total{instance_id="stt-1",name="wer"} 1.0' in text
