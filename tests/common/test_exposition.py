"""Plain numbers in Prometheus's text formats."""

from __future__ import annotations

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from shared_sync.common.exposition import render_plain

VALUES = {"jobs": 3, "share": 0.5, "busy": True, "state": "running", "none": None, "rows": [1]}


def samples(values: dict[str, object], *, open_metrics: bool) -> dict[str, float]:
    rendered = render_plain(values, "w", open_metrics=open_metrics).decode()
    families = parse_openmetrics(rendered) if open_metrics else parse_text(rendered)
    found = [sample for family in families for sample in family.samples]
    assert all(sample.labels == {"instance_id": "w"} for sample in found)
    return {sample.name: sample.value for sample in found}


@pytest.mark.parametrize("open_metrics", [False, True])
def test_numbers_are_shown_and_everything_else_is_left_out(open_metrics: bool) -> None:
    shown = samples(VALUES, open_metrics=open_metrics)
    assert shown == {"jobs": 3.0, "share": 0.5, "busy": 1.0}


@pytest.mark.parametrize("open_metrics", [False, True])
def test_names_are_put_into_letters_that_prometheus_allows(open_metrics: bool) -> None:
    values: dict[str, object] = {"2nd.try": 1, "": 2, "größe{a=b}": 3}
    shown = samples(values, open_metrics=open_metrics)
    assert shown == {"_2nd_try": 1.0, "_": 2.0, "gr__e_a_b_": 3.0}


def test_of_names_that_become_equal_the_first_is_shown() -> None:
    assert samples({"a.b": 1, "a-b": 2}, open_metrics=False) == {"a_b": 1.0}
