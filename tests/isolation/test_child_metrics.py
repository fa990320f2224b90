"""What a child records is taken out of its recorder once, and recorded again in the parent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared_sync import WorkerMetrics
from shared_sync.isolation.child_metrics import ChildRecorder, record_in


@pytest.fixture
def child() -> ChildRecorder:
    return ChildRecorder()


def taken_from(child: ChildRecorder) -> dict[str, Any]:
    """What goes over the wire."""
    taken = json.loads(json.dumps(child.take()))
    assert isinstance(taken, dict)
    return taken


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


def test_the_parent_refuses_what_is_no_number_and_records_the_rest(child: ChildRecorder) -> None:
    parent = WorkerMetrics("parent")
    child.set_gauge("beams", "many")  # type: ignore[arg-type]
    child.increment_counter("words", 2)
    record_in(parent, taken_from(child))
    data = parent.get_metrics_data()
    assert data["words"] == 2
    assert "beams" not in data


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
