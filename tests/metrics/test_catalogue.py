"""The table of metrics says what the code does, and has all that the library records."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from helpers import Clock
from registries import StillResources, registry

from shared_sync.metrics.catalogue import (
    CONSUMER,
    KNOWN,
    OWN,
    PRODUCER,
    SERVICES,
    MetricDescription,
    Ratio,
)
from shared_sync.metrics.error_categories import CATEGORIES
from shared_sync.redis_consumer.lifecycle import COUNTERS

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "metrics.md").read_text()


def test_the_table_of_names_is_that_of_the_code() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (counter|gauge|duration|distribution|ratio) \| (\w*) ?"
        r"\| ([\w, ]+) \| (.+) \|$",
        DOCUMENT,
        re.MULTILINE,
    )
    documented = {
        (name, kind, unit, owner, meaning)
        for name, kind, unit, owners, meaning in rows
        for owner in owners.split(", ")
    }
    owned = {**SERVICES, "consumer": CONSUMER, "producer": PRODUCER, "all": OWN}
    built = {
        (metric.name, metric.kind, metric.unit, owner, metric.help)
        if isinstance(metric, MetricDescription)
        else (metric.name, "ratio", "", owner, metric.help)
        for owner, metrics in owned.items()
        for metric in metrics
    }
    assert documented == built


def test_every_value_of_an_empty_registry_is_documented() -> None:
    data = registry("w", Clock(), StillResources()).get_metrics_data()
    assert [name for name in data if f"`{name}" not in DOCUMENT] == [
        "metrics_dropped_label_sets_per_second",  # as every counter has
        "metrics_rejected_per_second",
    ]
    for category in CATEGORIES:
        assert f"`{category}`" in DOCUMENT


def test_every_name_that_the_library_records_is_in_the_table() -> None:
    recorders = {
        "increment_counter": "counter",
        "set_gauge": "gauge",
        "record_duration": "duration",
        "record_size": "distribution",
    }
    recorded = set()
    files = set((ROOT / "shared_sync").rglob("*.py"))
    files.remove(ROOT / "shared_sync" / "cli" / "monitor.py")  # the health command's own metrics
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in recorders
                and isinstance(node.args[0], ast.Constant)
            ):
                recorded.add((node.args[0].value, recorders[node.func.attr]))
    assert len(recorded) > 10
    assert recorded <= {(about.name, about.kind) for about in KNOWN.values()}
    assert {(name, "counter") for name in COUNTERS} <= {(at.name, at.kind) for at in CONSUMER}


def test_a_name_means_the_same_everywhere() -> None:
    for metrics in (*SERVICES.values(), CONSUMER, PRODUCER, OWN):
        for metric in metrics:
            if isinstance(metric, MetricDescription):
                assert KNOWN[metric.name] == metric


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_declares_its_metrics_with_their_help(service: str) -> None:
    snapshot = registry("w", Clock(), StillResources(), service=service).snapshot()
    kinds = {
        "counter": snapshot.counters,
        "gauge": snapshot.gauges,
        "duration": snapshot.durations,
    }
    for metric in SERVICES[service]:
        if isinstance(metric, Ratio):
            assert snapshot.ratios[metric.name] == metric
        else:
            assert metric.name in kinds[metric.kind]
            assert snapshot.about[metric.name] == metric
