"""What HealthServer answers, from good callbacks and from callbacks that fail."""

from __future__ import annotations

import json
import logging
import urllib.request
from datetime import datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any

import pytest
from health_servers import LIMIT, LOGGER, Failing, ask
from helpers import eventually

from shared_sync.health_server import HealthServer

# --- what it answers --------------------------------------------------------------------------


def test_health_begins_with_status_identity_and_time_and_goes_on_with_the_data(serve):
    answer = ask(serve(lambda: {"zebra": 1, "apple": {"nested": [1, 2]}}))

    assert answer.code == 200
    assert list(answer.json) == ["status", "instance_id", "timestamp", "zebra", "apple"]
    assert answer.json["status"] == "healthy"
    assert answer.json["instance_id"] == "worker-1"
    assert answer.json["apple"] == {"nested": [1, 2]}


def test_the_timestamp_is_the_time_of_the_answer_in_utc(serve):
    answered = datetime.fromisoformat(ask(serve()).json["timestamp"])

    assert answered.utcoffset() == timedelta(0)
    assert abs(datetime.now(timezone.utc) - answered) < timedelta(minutes=1)


def test_metrics_answer_identity_time_and_the_data(serve):
    answer = ask(serve(get_metrics_data=lambda: {"jobs": 3, "status": "busy"}), "/metrics")

    assert answer.code == 200
    assert list(answer.json) == ["instance_id", "timestamp", "jobs", "status"]
    assert answer.json["status"] == "busy"


def test_metrics_without_a_callback_answer_identity_and_time(serve):
    assert list(ask(serve(), "/metrics").json) == ["instance_id", "timestamp"]


def test_data_cannot_replace_the_identity(serve):
    answer = ask(serve(lambda: {"instance_id": "liar", "timestamp": "never", "jobs": 1})).json

    assert answer["instance_id"] == "worker-1"
    assert answer["timestamp"] != "never"
    assert answer["jobs"] == 1


def test_any_mapping_will_do(serve):
    assert ask(serve(lambda: MappingProxyType({"jobs": 1}))).json["jobs"] == 1


def test_the_five_arguments_are_positional_in_the_usual_order():
    logger = logging.getLogger("mine")
    with HealthServer("worker-1", 0, logger, lambda: {"a": 1}, lambda: {"b": 2}) as server:
        with urllib.request.urlopen(server.url + "/health", timeout=LIMIT) as response:
            assert json.load(response)["a"] == 1
        with urllib.request.urlopen(server.url + "/metrics", timeout=LIMIT) as response:
            assert json.load(response)["b"] == 2


@pytest.mark.parametrize(
    ("status", "code"), [("healthy", 200), ("degraded", 200), ("unhealthy", 500)]
)
def test_a_status_in_the_data_counts(serve, status, code):
    answer = ask(serve(lambda: {"jobs": 1, "status": status}))

    assert (answer.code, answer.json["status"]) == (code, status)
    assert next(iter(answer.json)) == "status"
    assert "reasons" not in answer.json


@pytest.mark.parametrize("status", ["ok", "", None, True, ["healthy"], "Healthy"])
def test_an_unknown_status_counts_as_degraded_and_says_so(serve, status):
    answer = ask(serve(lambda: {"status": status}))

    assert (answer.code, answer.json["status"]) == (200, "degraded")
    assert answer.json["reasons"] == [f"unknown status {status!r}"]


@pytest.mark.parametrize("status", ["healthy", "degraded", "unhealthy", "ok"])
def test_a_critical_key_that_is_false_is_unhealthy_whatever_the_data_says(serve, status):
    data = {"status": status, "redis_connected": False, "model_loaded": False}
    answer = ask(serve(lambda: data))

    assert (answer.code, answer.json["status"]) == (500, "unhealthy")
    assert answer.json["reasons"] == ["redis_connected is false", "model_loaded is false"]
    assert answer.json["redis_connected"] is False


@pytest.mark.parametrize("value", [True, None, 0, "", "no"])
def test_only_false_itself_is_unhealthy(serve, value):
    assert ask(serve(lambda: {"redis_connected": value})).code == 200


def test_reasons_of_the_data_follow_the_critical_keys(serve):
    data = {"redis_connected": False, "reasons": ["the queue is full"]}

    assert ask(serve(lambda: data)).json["reasons"] == [
        "redis_connected is false",
        "the queue is full",
    ]


def test_critical_keys_can_be_chosen(serve):
    data = {"redis_connected": False, "gpu": False}
    server = serve(lambda: data, critical=["gpu"])

    assert ask(server).json["reasons"] == ["gpu is false"]
    assert ask(serve(lambda: data, critical=())).code == 200


def test_nan_and_infinity_become_null(serve):
    data = {"a": float("nan"), "b": [float("inf"), (1.5, float("-inf"))], "c": {"d": float("nan")}}
    server = serve(lambda: data, lambda: data)

    for path in ("/health", "/metrics"):
        answer = ask(server, path)
        assert answer.code == 200
        assert answer.json["a"] is None
        assert answer.json["b"] == [None, [1.5, None]]
        assert answer.json["c"] == {"d": None}


def test_the_index_names_the_endpoints(serve):
    assert ask(serve(), "/").json == {
        "instance_id": "worker-1",
        "endpoints": [
            "/health",
            "/health/live",
            "/health/ready",
            "/health/startup",
            "/metrics",
            "/metrics/prometheus",
            "/api/state",
            "/api/history",
        ],
    }


# --- when a callback fails --------------------------------------------------------------------


def endless() -> dict[str, Any]:
    data: dict[str, Any] = {}
    data["self"] = data
    return data


@pytest.mark.parametrize(
    "callback",
    [
        Failing(RuntimeError("secret")),
        Failing(SystemExit("secret")),
        lambda: None,
        lambda: ["secret"],
        lambda: {"secret": b"secret"},
        lambda: {("secret", 1): 1},
        endless,
    ],
    ids=["raises", "exits", "none", "list", "bytes", "tuple key", "endless"],
)
@pytest.mark.parametrize("path", ["/health", "/metrics"])
def test_a_callback_that_fails_is_answered_with_500_without_details(serve, caplog, path, callback):
    name = "get_health_data" if path == "/health" else "get_metrics_data"
    answer = ask(serve(callback, callback), path)

    assert answer.code == 500
    assert list(answer.json)[:4] == ["status", "instance_id", "timestamp", "error"]
    assert answer.json["status"] == "unhealthy"
    assert answer.json["error"] == f"{name} failed"
    assert answer.json.get("reasons", [f"{name} failed"]) == [f"{name} failed"]
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text

    def logged():
        return [record for record in caplog.records if record.getMessage().startswith(name)]

    eventually(logged)  # /health waits for a callback and its log line only a short time
    assert [bool(record.exc_info) for record in logged()] == [True]


def test_a_failing_metrics_callback_leaves_health_alone(serve):
    server = serve(get_metrics_data=Failing(RuntimeError()))

    assert ask(server, "/metrics").code == 500
    assert ask(server, "/health").code == 200


def test_a_failure_is_logged_first_then_silently_repeated_then_its_end_is_logged(serve, caplog):
    caplog.set_level(logging.INFO, LOGGER)
    callback = Failing()
    server = serve(callback)
    caplog.clear()

    callback.error = RuntimeError("boom")
    assert [ask(server).code for _ in range(5)] == [500] * 5
    callback.error = None
    assert [ask(server).code for _ in range(5)] == [200] * 5

    first, last = caplog.records
    assert first.levelno == logging.ERROR
    assert caplog.text.count("Traceback (most recent call last)") == 1
    assert "RuntimeError: boom" in caplog.text
    assert last.levelno == logging.INFO
    assert last.getMessage().startswith("get_health_data recovered after ")


def test_a_failure_is_logged_again_when_it_changes_but_not_for_other_numbers(serve, caplog):
    callback = Failing()
    server = serve(callback)
    for error in (
        OSError("no answer from <Redis at 0x7f01> after 1.5 s"),
        OSError("no answer from <Redis at 0x7f99> after 22.75 s"),
        OSError("refused"),
        ValueError("refused"),
        ValueError("refused"),
    ):
        callback.error = error
        ask(server)

    logged = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert logged == ["no answer from <Redis at 0x7f01> after 1.5 s", "refused", "refused"]


def test_the_log_goes_to_the_given_logger(caplog):
    logger = logging.LoggerAdapter(logging.getLogger("mine"), {})
    with HealthServer("worker-1", 0, logger, Failing(RuntimeError("boom"))) as server:
        ask(server)

    assert {record.name for record in caplog.records} == {"mine"}


def test_good_requests_log_nothing_and_the_start_says_where_the_server_listens(serve, caplog):
    caplog.set_level(logging.DEBUG)
    server = serve()
    for path in ("/", "/health", "/metrics", "/nowhere"):
        ask(server, path)
    server.stop_server()

    line, _ = [record.getMessage() for record in caplog.records]  # and that there is no consumer
    assert line == f"worker-1: health server listens on 127.0.0.1, port {server.port}"
