"""A HealthServer that is given a consumer and metrics, alone or beside functions of the user."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from health_servers import Failing, ask
from helpers import Clock, eventually
from registries import StillResources, registry

from shared_sync import HealthServer, RedisStreamConsumer, WorkerMetrics, checks
from shared_sync.errors import ConfigurationError

NOTICE = "/health knows nothing of a consumer"


class Consumer:
    """Has the health data and the tables of a consumer."""

    def __init__(self, **data: Any) -> None:
        self.data: dict[str, Any] = {"jobs_in_flight": 2, **data}

    def get_health_data(self) -> dict[str, Any]:
        return self.data

    def get_views(self) -> dict[str, Any]:
        return {"readers": lambda: {"readers": []}, "group": lambda: {"consumers": []}}


ILL = {"status": "unhealthy", "reasons": ["20 of the last 20 jobs failed"], "ready": False}


@pytest.fixture
def metrics() -> WorkerMetrics:
    made = registry("worker-1", Clock(), StillResources())
    made.increment_counter("jobs_processed", 3)
    return made


@pytest.fixture
def serve(serve):
    def start(get_health_data=None, get_metrics_data=None, **options):
        return serve(get_health_data, get_metrics_data, **options)

    return start


def codes(server: HealthServer) -> dict[str, int]:
    paths = ("/health", "/health/live", "/health/ready", "/health/startup")
    return {path.rpartition("/")[2]: ask(server, path).code for path in paths}


WELL = {"health": 200, "live": 200, "ready": 200, "startup": 200}


def test_a_consumer_and_metrics_are_all_that_a_worker_needs(serve, metrics):
    server = serve(consumer=Consumer(), metrics=metrics)

    eventually(lambda: codes(server) == WELL)
    health = ask(server).json
    assert (health["status"], health["jobs_in_flight"]) == ("healthy", 2)
    assert ask(server, "/metrics").json["jobs_processed"] == 3
    assert "# TYPE jobs_processed_total counter" in ask(server, "/metrics/prometheus").text
    assert set(ask(server, "/api/state").json["views"]) == {"readers", "group"}


def test_the_health_of_a_consumer_decides_beside_a_function_of_the_user(serve):
    consumer = Consumer()
    server = serve(lambda: {"model_loaded": True}, consumer=consumer)
    eventually(lambda: codes(server) == WELL)

    consumer.data.update(ILL)
    eventually(lambda: codes(server) == {**WELL, "health": 500, "ready": 503})
    health = ask(server).json
    assert health["model_loaded"] is True
    assert health["reasons"] == ["consumer: 20 of the last 20 jobs failed"]
    assert health["checks"]["consumer"]["jobs_in_flight"] == 2

    consumer.data["live"] = False
    eventually(lambda: ask(server, "/health/live").code == 503)


def test_the_tables_of_the_consumer_are_shown_beside_a_function_of_the_user(serve):
    server = serve(lambda: {}, consumer=Consumer())

    assert set(ask(server, "/api/state").json["views"]) == {"readers", "group"}


def test_a_consumer_that_has_not_started_holds_the_startup_probe(serve):
    consumer = RedisStreamConsumer(
        "redis://127.0.0.1:1/0", "jobs", "workers", "c1", None, lambda *_: None
    )
    server = serve(lambda: {"model_loaded": True}, consumer=consumer)
    eventually(lambda: "consumer" in ask(server).json["checks"])

    assert codes(server)["startup"] == 503
    assert codes(server)["ready"] == 503


def test_the_same_consumer_given_twice_is_asked_once(serve):
    consumer = Consumer()
    server = serve(consumer.get_health_data, consumer=consumer)

    assert "checks" not in ask(server).json
    assert ask(server).json["jobs_in_flight"] == 2


@pytest.mark.parametrize(("status", "code"), [("degraded", 200), ("unhealthy", 500)])
def test_the_alerts_of_the_metrics_count_for_health_and_for_no_probe(serve, metrics, status, code):
    metrics.alert("queue_depth", above=10, status=status)
    metrics.set_gauge("queue_depth", 11)
    server = serve(lambda: {}, metrics=metrics)

    eventually(lambda: ask(server).json["status"] == status)
    answer = ask(server)
    assert answer.code == code
    assert answer.json["reasons"][0].startswith("metrics: queue_depth")
    eventually(lambda: ask(server, "/health/ready").code == 200)
    assert ask(server, "/health/live").code == 200


def test_metrics_alone_give_the_basic_health_data(serve, metrics):
    health = ask(serve(metrics=metrics)).json

    assert health["jobs_processed"] == 3
    assert "checks" not in health


def test_a_function_of_the_user_decides_the_json_and_the_metrics_what_prometheus_gets(
    serve, metrics
):
    server = serve(dict, lambda: {"jobs": 41}, metrics=metrics)

    figures = ask(server, "/metrics").json
    assert (figures["jobs"], "jobs_processed" in figures) == (41, False)
    assert "# TYPE jobs_processed_total counter" in ask(server, "/metrics/prometheus").text


def test_the_values_of_a_plain_function_are_what_prometheus_gets(serve):
    server = serve(lambda: {}, lambda: {"jobs": 41}, consumer=Consumer())

    assert 'jobs{instance_id="worker-1"} 41.0' in ask(server, "/metrics/prometheus").text


def test_a_consumer_that_raises_makes_the_process_unhealthy(serve):
    consumer = Consumer()
    consumer.get_health_data = Failing(RuntimeError("boom"))
    server = serve(lambda: {}, consumer=consumer)

    eventually(lambda: ask(server).code == 500)
    assert ask(server).json["reasons"] == ["consumer failed"]


def test_a_check_may_not_take_the_name_of_the_consumers(serve, metrics):
    server = serve(lambda: {}, consumer=Consumer(), metrics=metrics)

    for name in ("consumer", "metrics"):
        with pytest.raises(ConfigurationError, match="choose another name"):
            server.add_check(name, lambda: True)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"consumer": object()}, r"consumer must be an object that has get_health_data\(\)"),
        ({"metrics": object()}, r"metrics must be an object that has get_metrics_data\(\)"),
        ({}, "give consumer= or metrics="),
        ({"get_metrics_data": WorkerMetrics("worker-1")}, "is given as metrics="),
    ],
)
def test_what_has_no_data_is_refused(options, text):
    with pytest.raises(ConfigurationError, match=text):
        HealthServer("worker-1", 0, **options)


# --- the notice -------------------------------------------------------------------------------


def notices(caplog: pytest.LogCaptureFixture) -> int:
    return sum(NOTICE in record.getMessage() for record in caplog.records)


class Worker:
    """A program's own class, whose method has the same name as the consumer's."""

    def get_health_data(self) -> dict[str, Any]:
        return {"model_loaded": True}


def test_a_server_without_a_consumer_says_so_at_its_first_start(serve, caplog):
    caplog.set_level(logging.INFO)
    server = serve(Worker().get_health_data)
    server.stop_server()
    server.start_server()

    assert notices(caplog) == 1


@pytest.mark.parametrize("way", ["argument", "function", "check"])
def test_a_server_that_knows_the_consumer_says_nothing(serve, caplog, way):
    caplog.set_level(logging.INFO)
    consumer = Consumer()
    if way == "argument":
        serve(lambda: {}, consumer=consumer)
    elif way == "function":
        serve(consumer.get_health_data)
    else:
        server = HealthServer("worker-1", 0, None, dict, host="127.0.0.1")
        server.add_check("second", checks.consumer(consumer), liveness=True)
        with server:
            pass

    assert notices(caplog) == 0
