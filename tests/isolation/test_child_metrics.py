"""What a child records is taken out of its recorder once, and recorded again in the parent."""

from __future__ import annotations

import inspect
import json
import math
import uuid
from enum import Enum
from typing import Any

import pytest

from shared_sync import WorkerMetrics
from shared_sync.isolation.child_metrics import ChildRecorder, record_in
from shared_sync.metrics.batches import BatchRecorder
from shared_sync.metrics.recording import SeriesRecorder


@pytest.fixture
def child() -> ChildRecorder:
    return ChildRecorder()


def taken_from(child: ChildRecorder) -> dict[str, Any]:
    """What goes over the wire."""
    taken = json.loads(json.dumps(child.take()))
    assert isinstance(taken, dict)
    return taken


OF_THE_CONSUMER = {"record_queue", "record_circuit_breaker", "record_for_consumer"}
"""What the consumer alone calls, in the parent."""


def test_it_has_every_method_that_records_with_the_same_arguments() -> None:
    verbs = ("record_", "increment_", "set_", "update_", "adjust_", "timer")
    recording = {
        name
        for kind in (SeriesRecorder, BatchRecorder)
        for name in vars(kind)
        if name.startswith(verbs)
    }
    assert {"record_size", "timer", "adjust_gauge"} < recording
    for name in recording - OF_THE_CONSUMER:
        here, there = (parameters_of(kind, name) for kind in (ChildRecorder, WorkerMetrics))
        assert here == there, name


def parameters_of(kind: type, name: str) -> list[tuple[str, object, object]]:
    found = inspect.signature(getattr(kind, name)).parameters.values()
    return [(one.name, one.kind, one.default) for one in found]


def test_each_value_arrives_once(child: ChildRecorder) -> None:
    parent = WorkerMetrics("parent")
    child.increment_counter("words")
    child.increment_counter("words", 4)
    child.record_duration("inference", 0.25)
    with child.timer("inference"):
        pass
    child.set_gauge("beams", 3)
    child.update_gauge("beams", 5)
    child.record_error(ValueError("bad"))
    child.record_error(ValueError)
    record_in(parent, taken_from(child))
    assert child.take() is None
    data = parent.get_metrics_data()
    assert (data["words"], data["inference_count"], data["beams"]) == (5, 2, 5)
    assert data["max_inference_ms"] == 250
    assert data["errors"] == {"ValueError": 2}


def test_many_values_may_be_recorded_at_once(child: ChildRecorder) -> None:
    parent = WorkerMetrics("parent")
    child.record_batch(
        counters={"words": 2}, durations={"inference": [0.1, 0.2]}, gauges={"beams": 5}
    )
    record_in(parent, taken_from(child))
    data = parent.get_metrics_data()
    assert (data["words"], data["inference_count"], data["beams"]) == (2, 2, 5)


def test_labels_arrive(child: ChildRecorder) -> None:
    parent = WorkerMetrics("parent")
    child.increment_counter("words", 2, {"language": "de", "model": "tiny"})
    child.increment_counter("words", 3, {"model": "tiny", "language": "de"})
    record_in(parent, taken_from(child))
    shown = parent.render_prometheus().decode()
    assert 'words_total{instance_id="parent",language="de",model="tiny"} 5' in shown


def test_a_gauge_that_is_adjusted_starts_from_that_of_the_parent(child: ChildRecorder) -> None:
    parent = WorkerMetrics("parent")
    parent.set_gauge("sessions", 10)
    child.adjust_gauge("sessions", 2)
    child.adjust_gauge("sessions", -1)
    record_in(parent, taken_from(child))
    assert parent.get_metrics_data()["sessions"] == 11
    child.adjust_gauge("sessions", 5)
    child.set_gauge("sessions", 3)
    child.adjust_gauge("sessions", 1)
    record_in(parent, taken_from(child))
    assert parent.get_metrics_data()["sessions"] == 4


class Unprintable:
    def __float__(self) -> float:
        raise RuntimeError("only one element can be converted")

    def __repr__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "value", ["many", None, True, math.nan, math.inf, 10**5000, object(), Unprintable()], ids=type
)
def test_the_parent_refuses_what_is_no_number_and_records_the_rest(
    child: ChildRecorder, value: Any
) -> None:
    parent = WorkerMetrics("parent")
    for _ in range(2):
        child.increment_counter("words", value)
        child.record_duration("inference", value)
        child.record_size("audio", value)
        child.set_gauge("beams", value)
        child.adjust_gauge("sessions", value)
        child.record_batch(durations={"inference": value})
    child.increment_counter("words", -5)
    child.increment_counter("words", 2)
    child.set_gauge("loss", -0.5)
    record_in(parent, taken_from(child))
    data = parent.get_metrics_data()
    assert (data["words"], data["loss"]) == (2, -0.5)
    assert not {"inference_count", "audio", "beams", "sessions"} & data.keys()
    assert data["metrics_rejected"] >= 9


def test_large_integers_are_counted(child: ChildRecorder) -> None:
    parent = WorkerMetrics("parent")
    child.increment_counter("bytes", 10**30)
    record_in(parent, taken_from(child))
    assert parent.get_metrics_data()["bytes"] == 1e30


def test_sizes_arrive(child: ChildRecorder) -> None:
    parent = WorkerMetrics("parent")
    child.record_size("audio", 3)
    child.record_size("audio", 5)
    record_in(parent, taken_from(child))
    assert parent.get_metrics_data()["audio_count"] == 2


class Language(Enum):
    DE = "de"


@pytest.mark.parametrize(
    "labels",
    [
        {"code": 200},
        {"language": Language.DE},
        {"id": uuid.UUID(int=1)},
        {"list": [1]},
        {"no": None},
    ],
    ids=str,
)
def test_labels_that_are_no_text_become_what_they_are_without_a_child(
    child: ChildRecorder, labels: Any
) -> None:
    parent, alone = WorkerMetrics("one"), WorkerMetrics("one")
    child.increment_counter("words", 1, labels)
    record_in(parent, taken_from(child))
    alone.increment_counter("words", 1, labels)
    assert words_of(parent) == words_of(alone)


@pytest.mark.parametrize("labels", [{2: "x", "a": "y"}, {"": "x"}, "text", {"a": Unprintable()}])
def test_labels_and_names_that_cannot_be_are_refused_by_the_parent(
    child: ChildRecorder, labels: Any
) -> None:
    parent = WorkerMetrics("parent")
    child.increment_counter("words", 1, labels)
    child.increment_counter(b"words")  # type: ignore[arg-type]
    child.increment_counter("others")
    record_in(parent, taken_from(child))
    data = parent.get_metrics_data()
    assert (data["metrics_rejected"], data["others"]) == (2, 1)


def words_of(metrics: WorkerMetrics) -> list[str]:
    lines = metrics.render_prometheus().decode().splitlines()
    return [line for line in lines if line.startswith("words_total{")]


def test_a_registry_with_few_methods_gets_what_it_can_take(child: ChildRecorder) -> None:
    class Few:
        def __init__(self) -> None:
            self.counted: list[tuple[str, float]] = []

        def increment_counter(self, name: str, value: float = 1) -> None:
            self.counted.append((name, value))

    few = Few()
    child.increment_counter("words", 2)
    child.increment_counter("words", 2, {"language": "de"})
    child.adjust_gauge("sessions", 1)
    child.record_error(ValueError)
    record_in(few, taken_from(child))
    assert few.counted == [("words", 2)]
