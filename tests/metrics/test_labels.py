"""Labels tell the series of a metric from each other, and cannot fill the memory."""

from __future__ import annotations

import re
from typing import Any

import pytest

from shared_sync.errors import ConfigurationError
from shared_sync.metrics import MAX_LABEL_SETS, WorkerMetrics


def test_labels_tell_the_parts_of_a_metric_from_each_other(metrics: WorkerMetrics) -> None:
    metrics.increment_counter("transcripts", 2, labels={"language": "en"})
    metrics.increment_counter("transcripts", labels={"language": "de"})
    metrics.increment_counter("transcripts", labels={"language": "en"})
    metrics.increment_counter("transcripts", 5)
    metrics.set_gauge("replicas", 3, {"model": "small", "device": "cpu"})
    metrics.adjust_gauge("replicas", 1, {"device": "cpu", "model": "small"})
    data = metrics.get_metrics_data()
    assert {key: at for key, at in data.items() if key.startswith(("transcripts", "replicas"))} == {
        "transcripts": 9,
        "transcripts{language=en}": 3,
        "transcripts{language=de}": 1,
        "transcripts_per_second": 0.0,
        "replicas{device=cpu,model=small}": 4,
    }


def test_a_duration_has_values_for_each_label_set_and_for_all(metrics: WorkerMetrics) -> None:
    for _ in range(3):
        metrics.record_duration("work", 1.0, {"language": "en"})
    metrics.record_duration("work_ms", 3.0, {"language": "de"})
    with metrics.timer("work_seconds", {"language": "fr"}):
        pass
    data = metrics.get_metrics_data()
    assert data["work_ms"] == 0.0
    assert (data["work_count"], data["max_work_ms"]) == (5, 3000.0)
    assert data["p50_work_ms"] == pytest.approx(1000.0, rel=0.01)
    assert data["avg_work_ms{language=en}"] == 1000.0
    assert data["work_window_count{language=en}"] == data["work_count{language=en}"] == 3
    assert data["p99_work_ms{language=de}"] == 3000.0
    assert data["work_count{language=fr}"] == 1


def test_endless_label_sets_end_up_in_other(metrics: WorkerMetrics) -> None:
    more = 50
    for number in range(MAX_LABEL_SETS + more):
        labels = {"client": f"c{number}"}
        metrics.increment_counter("sent", 2, labels)
        metrics.set_gauge("level", number, labels)
        with metrics.timer("work", labels):
            pass
    metrics.increment_counter("sent", labels={"client": "c0"})
    snapshot = metrics.snapshot()
    other = (("client", "other"),)
    for parts in (snapshot.counters["sent"], snapshot.gauges["level"], snapshot.durations["work"]):
        assert len(parts) == MAX_LABEL_SETS + 1
    assert snapshot.counters["sent"][other].total == 2 * more
    assert snapshot.counters["sent"][("client", "c0"),].total == 3
    assert snapshot.gauges["level"][other] == MAX_LABEL_SETS + more - 1
    assert snapshot.durations["work"][other].lifetime.count == more
    assert snapshot.total("metrics_dropped_label_sets") == 3 * more


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        ({"le": "1"}, "'le' of 'sent' is set by the library itself"),
        ({"instance_id": "x"}, "'instance_id' of 'sent' is set by the library itself"),
        ({"__name__": "x"}, "a label's name is"),
        ({"1st": "x"}, "a label's name is"),
        ({3: "x"}, "a label's name is"),
        ({"region": "eu"}, "'sent' has the labels language, not region; use the same"),
        ({"language": "en", "region": "eu"}, "has the labels language, not language, region"),
        ("language", "labels of 'sent' are a dict such as"),
        ([("language", "en")], "labels of 'sent' are a dict such as"),
    ],
)
def test_labels_that_cannot_be_are_refused(
    metrics: WorkerMetrics, labels: Any, complaint: str
) -> None:
    metrics.increment_counter("sent", labels={"language": "en"})
    before = metrics.get_metrics_data()
    with pytest.raises(ConfigurationError, match=re.escape(complaint)):
        metrics.increment_counter("sent", labels=labels)
    assert metrics.get_metrics_data() == before


def test_odd_values_of_labels_are_put_right(metrics: WorkerMetrics) -> None:
    odd = ["", "\ud800", "x" * 500, 'a"b\\c\n', "{language=en}"]
    for value in (*odd, *odd):
        metrics.increment_counter("sent", labels={"language": value})
    parts = metrics.snapshot().counters["sent"]
    assert {dict(labels)["language"]: part.total for labels, part in parts.items()} == {
        "unknown": 2,
        "?": 2,
        "x" * 200: 2,
        'a"b\\c\n': 2,
        "{language=en}": 2,
    }
    assert metrics.render_prometheus().decode().count("sent_total{") == 5


def test_no_two_label_sets_have_the_same_name_in_json(metrics: WorkerMetrics) -> None:
    metrics.increment_counter("x", 1, {"a": "1,b=2", "b": "3"})
    metrics.increment_counter("x", 2, {"a": "1", "b": "2,b=3"})
    metrics.increment_counter("x", 3, {"a": '"1"', "b": "en-GB"})
    data = metrics.get_metrics_data()
    assert data['x{a="1,b=2",b=3}'] == 1
    assert data['x{a=1,b="2,b=3"}'] == 2
    assert data['x{a="\\"1\\"",b=en-GB}'] == 3


def test_no_labels_at_all_are_the_same_as_none(metrics: WorkerMetrics) -> None:
    metrics.increment_counter("sent", labels={})
    metrics.increment_counter("sent")
    metrics.set_gauge("level", 1, {})
    metrics.record_duration("work", 1.0, {})
    data = metrics.get_metrics_data()
    assert (data["sent"], data["level"], data["work_count"]) == (2, 1, 1)
    assert not [key for key in data if "{" in key]


class Broken:
    def __str__(self) -> str:
        raise OSError("no text")


@pytest.mark.parametrize(
    ("value", "text"),
    [(200, "200"), (None, "unknown"), (True, "True"), (1.5, "1.5"), (b"en", "b'en'")],
    ids=repr,
)
def test_a_label_value_that_is_no_text_becomes_one(
    metrics: WorkerMetrics, value: Any, text: str
) -> None:
    for _ in range(2):
        metrics.increment_counter("answers", labels={"code": value})
        metrics.record_duration("work", 1.0, labels={"code": value})
        metrics.set_gauge("level", 1.0, labels={"code": value})
    metrics.record_batch(counters={"answers": 1}, labels={"code": value})
    data = metrics.get_metrics_data()
    assert data[f"answers{{code={text}}}"] == 3
    assert (data[f"work_count{{code={text}}}"], data[f"level{{code={text}}}"]) == (2, 1.0)


def test_a_label_value_that_has_no_text_is_refused(metrics: WorkerMetrics) -> None:
    with pytest.raises(ConfigurationError, match="labels of 'sent' are a dict such as"):
        metrics.increment_counter("sent", labels={"code": Broken()})  # type: ignore[dict-item]
