"""Every metric that alerts, the Grafana dashboard and the scaler use is exported."""

from __future__ import annotations

import json
import logging
import re
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from helpers import eventually
from nvml import FakeNvml
from prometheus_client.parser import text_string_to_metric_families

from shared_sync import CircuitBreaker, HealthServer, RedisStreamConsumer, WorkerMetrics
from shared_sync.cli.monitor import Monitor
from shared_sync.metrics import catalogue
from shared_sync.protocol.keys import Keys

LOGGER = logging.getLogger("deploy")
DEPLOY = Path(__file__).parents[2] / "deploy"
RARE = {
    "children_crashed_total": "children_crashed",
    "groups_recreated_total": "groups_recreated",
    "jobs_lost_total": "jobs_lost",
    "messages_deleted_unread_total": "messages_deleted_unread",
}
"""Counters of what the worker of this test does not go through, and their names in the library."""

IN_CONTAINERS = {"memory_used_ratio"}
FROM_REDIS_7 = {"entries_added_total", "entries_finished_total"}
FROM_PROMETHEUS = {"up"}
WORDS_OF_PROMQL = {
    *("and", "or", "unless", "by", "on", "ignoring", "offset", "bool", "le"),
    *("sum", "max", "min", "rate", "increase", "delta", "absent", "histogram_quantile"),
    "min_over_time",
}


def metrics_of(expression: str) -> set[str]:
    """The names of metrics in a PromQL expression."""
    text = re.sub(r"\{[^}]*\}|\[[^]]*\]", " ", expression)
    text = re.sub(r"\b(by|on|ignoring)\s*\([^)]*\)", " ", text)
    words = set(re.findall(r"(?<![\w.])[a-zA-Z_:][\w:]*", text))
    return words - WORDS_OF_PROMQL


def used_by_rules() -> set[str]:
    rules = yaml.safe_load((DEPLOY / "prometheus/rules.yaml").read_text())
    return set().union(
        *(metrics_of(rule["expr"]) for group in rules["groups"] for rule in group["rules"])
    )


def used_by_the_dashboard() -> set[str]:
    board = json.loads((DEPLOY / "grafana/shared-sync.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    variables = [
        variable["query"]["query"]
        for variable in board["templating"]["list"]
        if variable["type"] == "query"
    ]
    labels = [re.fullmatch(r"label_values\((.*), (\w+)\)", query) for query in variables]
    assert all(labels)
    assert len(queries) > 30
    return set().union(
        *(metrics_of(query) for query in queries),
        *(metrics_of(match[1]) for match in labels if match),
    )


def fail_or_wait(_: str, job: dict[str, Any]) -> None:
    if job["do"] == "fail":
        raise ValueError(job["do"])


@pytest.fixture
def scraped(
    client: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[set[str]]:
    """The names that a worker with a GPU, and the monitor of its queue, export."""
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(1))
    for what in ("succeed", "fail"):
        client.xadd("jobs", {"do": what})
    metrics = WorkerMetrics("stt-1", service="stt")
    consumer = RedisStreamConsumer(
        *(redis_url, "jobs", "workers", None, None, fail_or_wait),
        metrics=metrics,
        circuit_breakers=[CircuitBreaker(name="translator")],
    )
    monitor = Monitor(redis_url, Keys.of("jobs", "workers"), WorkerMetrics("health"), LOGGER)
    server = HealthServer("stt-1", 0, consumer=consumer, metrics=metrics, host="127.0.0.1")

    def names() -> set[str]:
        with urllib.request.urlopen(f"{server.url}/metrics/prometheus") as answer:
            text = answer.read().decode() + monitor.render_prometheus().decode()
        families = text_string_to_metric_families(text)
        return {sample.name for family in families for sample in family.samples}

    with server, consumer:
        monitor.start()
        wanted = {"circuit_breaker_state", "jobs_failed_total", "gpu_memory_used_bytes"}
        eventually(lambda: wanted <= names())
        yield names()
        monitor.stop()


def test_every_metric_of_alerts_and_dashboard_is_exported(
    scraped: set[str], client: redis.Redis
) -> None:
    used = used_by_rules() | used_by_the_dashboard()
    missing = used - scraped - RARE.keys() - IN_CONTAINERS - FROM_PROMETHEUS
    is_old = str(client.info("server")["redis_version"]).startswith("6.")
    assert missing == (FROM_REDIS_7 if is_old else set())
    assert {name for name in RARE.values() if name not in catalogue.KNOWN} == set()


def test_the_scaler_reads_values_that_the_monitor_shows(redis_url: str) -> None:
    monitor = Monitor(redis_url, Keys.of("jobs", "workers"), WorkerMetrics("health"), LOGGER)
    monitor.inspect()
    shown = monitor.get_metrics_data()
    for document in yaml.safe_load_all((DEPLOY / "kubernetes/autoscaling.yaml").read_text()):
        if document["kind"] == "ScaledObject":
            for trigger in document["spec"]["triggers"]:
                assert shown[trigger["metadata"]["valueLocation"]] == 0
