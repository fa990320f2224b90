"""Errors are counted by type and category, never by their text."""

from __future__ import annotations

import json

import pytest

from shared_sync.errors import ConfigurationError
from shared_sync.metrics import MAX_ERROR_TYPES, WorkerMetrics


def test_errors_are_counted_by_type(metrics: WorkerMetrics) -> None:
    metrics.record_error(ValueError("one"))
    metrics.record_error(ValueError)
    metrics.increment_counter("errors.ValueError")
    metrics.increment_counter("errors.RedisUnavailable", 2)
    metrics.increment_counter("errors")
    data = metrics.get_metrics_data()
    assert data["errors"] == {"ValueError": 3, "RedisUnavailable": 2, "other": 1}
    assert data["errors_by_category"] == {"bad_input": 3, "dependency": 2, "internal": 1}
    assert data["total_errors"] == 6
    assert not [key for key in data if key.startswith("errors.")]


def test_what_an_error_says_is_never_kept(metrics: WorkerMetrics) -> None:
    metrics.record_error(ValueError("password hunter2"))
    assert "hunter2" not in json.dumps(metrics.get_metrics_data())
    assert b"hunter2" not in metrics.render_prometheus()


def test_a_type_of_ones_own_can_be_given_a_category(metrics: WorkerMetrics) -> None:
    class CodecBroken(RuntimeError):
        pass

    class Mp3Broken(CodecBroken):
        pass

    metrics.record_error(Mp3Broken())
    metrics.register_error(CodecBroken, "bad_input")
    metrics.record_error(Mp3Broken())
    metrics.increment_counter("errors.CodecBroken")
    data = metrics.get_metrics_data()
    assert data["errors_by_category"] == {"internal": 1, "bad_input": 2}
    assert data["errors"] == {"Mp3Broken": 2, "CodecBroken": 1}
    with pytest.raises(ConfigurationError, match="category must be one of bad_input, timeout"):
        metrics.register_error(CodecBroken, "codec")
    with pytest.raises(ConfigurationError, match="error_type must be an exception type"):
        metrics.register_error("CodecBroken", "bad_input")  # type: ignore[arg-type]


def test_a_type_with_an_odd_name_is_counted_under_a_cleaned_one(metrics: WorkerMetrics) -> None:
    metrics.record_error(type('Größe "x"\n', (Exception,), {}))
    metrics.record_error(type("E" * 500, (Exception,), {}))
    metrics.increment_counter("errors.")
    assert metrics.get_metrics_data()["errors"] == {"Gr__e__x__": 1, "E" * 100: 1, "other": 1}


def test_endless_error_types_end_up_in_other_of_their_category(metrics: WorkerMetrics) -> None:
    for number in range(3 * MAX_ERROR_TYPES):
        metrics.record_error(type(f"Type{number}", (OSError,), {}))
        metrics.increment_counter("errors.KeyError")
    data = metrics.get_metrics_data()
    assert len(data["errors"]) == MAX_ERROR_TYPES + 1
    assert data["errors"]["KeyError"] == 3 * MAX_ERROR_TYPES
    folded = 2 * MAX_ERROR_TYPES + 1
    assert data["errors"]["other"] == data["metrics_dropped_label_sets"] == folded
    assert data["errors_by_category"] == {
        "dependency": 3 * MAX_ERROR_TYPES,
        "internal": 3 * MAX_ERROR_TYPES,
    }
    assert data["total_errors"] == 6 * MAX_ERROR_TYPES


def test_errors_take_no_labels_but_their_own(metrics: WorkerMetrics) -> None:
    for name in ("errors", "errors.ValueError"):
        with pytest.raises(ConfigurationError, match="labels of its own, category and type"):
            metrics.increment_counter(name, labels={"language": "en"})


@pytest.mark.parametrize(
    ("counted", "rate"),
    [
        ({}, 0.0),
        ({"jobs_processed": 0}, 0.0),
        ({"jobs_processed": 8}, 0.0),
        ({"jobs_processed": 3, "jobs_failed": 1}, 0.25),
        ({"jobs_failed": 2}, 1.0),
        ({"jobs_processed": 3, "jobs_failed": 1, "errors.ValueError": 9}, 0.25),
        ({"jobs_processed": 3, "errors.ValueError": 1}, 0.25),
        ({"jobs_sent": 3, "errors.ValueError": 1}, 0.25),
        ({"jobs_sent": 99, "jobs_processed": 3, "errors.ValueError": 1}, 0.25),
        ({"cache_hits": 100, "errors.ValueError": 1}, None),
    ],
)
def test_the_error_rate_is_the_share_of_finished_attempts_that_failed(
    metrics: WorkerMetrics, counted: dict[str, int], rate: float | None
) -> None:
    for name, number in counted.items():
        metrics.increment_counter(name, number)
    assert metrics.get_metrics_data()["error_rate"] == rate
    assert metrics.get_basic_health_data()["error_rate"] == rate
