"""Prometheus gets the health of the process: the status, the probes, key values and every check."""

from __future__ import annotations

import logging

import pytest
from health_servers import LOGGER, ask
from helpers import eventually
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from shared_sync.metrics import WorkerMetrics

FORMS = {"prometheus": parse_text, "openmetrics": parse_openmetrics}


def gauges(server, form="prometheus"):
    """The values of the gauges by name and labels other than that of the instance."""
    families = FORMS[form](ask(server, f"/metrics?format={form}").text)
    shown = {}
    for family in families:
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("instance_id") == "worker-1"
            key = (sample.name, *labels.values())
            assert key not in shown
            shown[key] = sample.value
            if sample.name.startswith("health_"):
                assert family.type == "gauge"
    return shown


def chosen(shown, *owner):
    """The status that is 1, of the three that are shown."""
    statuses = {key[-1]: value for key, value in shown.items() if key[:-1] == owner}
    assert sorted(statuses) == ["degraded", "healthy", "unhealthy"]
    assert sorted(statuses.values()) == [0, 0, 1]
    return max(statuses, key=statuses.get)


@pytest.fixture
def metrics():
    made = WorkerMetrics("worker-1")
    made.increment_counter("jobs_processed", 3)
    return made


@pytest.mark.parametrize("form", FORMS)
def test_the_health_of_the_process_is_shown_beside_its_metrics(serve, metrics, form):
    data = {"redis_connected": True, "model_loaded": False, "ready": False}
    server = serve(lambda: data, metrics=metrics, critical=("redis_connected", "model_loaded"))
    server.add_check("model", lambda: {"status": "degraded"})
    server.add_check("disk", lambda: False, critical=False)
    server.add_check("fine one", lambda: True)
    eventually(lambda: chosen(gauges(server, form), "health_check_status", "disk") == "unhealthy")
    eventually(lambda: chosen(gauges(server, form), "health_check_status", "fine one") == "healthy")
    shown = gauges(server, form)
    assert chosen(shown, "health_check_status", "model") == "degraded"
    assert chosen(shown, "health_status") == "unhealthy"
    assert shown["health_live",] == shown["redis_connected",] == 1
    assert shown["health_ready",] == shown["health_started",] == shown["model_loaded",] == 0
    assert shown["jobs_processed_total",] == 3


def test_gauges_follow_the_health(serve, metrics):
    data = {"redis_connected": True}
    server = serve(lambda: data, metrics=metrics)
    eventually(lambda: gauges(server).get(("health_ready",)) == 1)
    assert chosen(gauges(server), "health_status") == "healthy"
    data = {"redis_connected": False, "ready": False}
    eventually(lambda: gauges(server)["redis_connected",] == 0)
    eventually(lambda: gauges(server)["health_ready",] == 0)
    assert chosen(gauges(server), "health_status") == "unhealthy"
    server.drain()
    assert gauges(server)["health_live",] == 1


def test_what_is_not_known_is_left_out(serve):
    def fail():
        raise OSError("no data")

    server = serve(fail)
    eventually(lambda: chosen(gauges(server), "health_status") == "unhealthy")
    shown = gauges(server)
    assert ("redis_connected",) not in shown
    assert not [key for key in shown if key[0] == "health_check_status"]


@pytest.mark.parametrize("form", FORMS)
def test_a_metric_of_the_program_wins_over_a_gauge_of_the_same_name(serve, metrics, form):
    metrics.set_gauge("redis_connected", 7)
    metrics.set_gauge("health_status", 8)
    server = serve(lambda: {"redis_connected": True}, metrics=metrics)
    shown = gauges(server, form)
    assert (shown["redis_connected",], shown["health_status",]) == (7, 8)
    assert ("health_ready",) in shown


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rendered", ["", "own 1", "own 1\n", "# TYPE own gauge\nown 1\n# EOF\n"])
def test_the_text_of_a_renderer_of_ones_own_is_completed(serve, form, rendered):
    class Own:
        def get_metrics_data(self):
            return {}

        def render_prometheus(self):
            return rendered

        render_openmetrics = render_prometheus

    own = rendered.replace("own 1", 'own{instance_id="worker-1"} 1')
    rendered = own.replace("# EOF\n", "") if form == "prometheus" else own
    shown = gauges(serve(lambda: {}, metrics=Own()), form)
    assert shown.get(("own",)) == (1 if own else None)
    assert chosen(shown, "health_status")


def test_names_that_cannot_be_written_break_no_page(serve):
    server = serve(lambda: {"größe\ud800": True}, critical=("größe\ud800",))
    server.add_check('a "quoted"\\\ncheck', lambda: True)
    shown = gauges(server)
    assert shown["gr__e_",] == 1
    assert ("health_check_status", 'a "quoted"\\\ncheck', "healthy") in shown


class Wrapper:
    """Hides from a health server what it gets its metrics from."""

    def __init__(self, metrics):
        self.metrics = metrics

    def get(self):
        return self.metrics.get_metrics_data()


def test_metrics_without_types_are_said_once_and_how_to_get_them(serve, metrics, caplog):
    caplog.set_level(logging.WARNING, LOGGER)
    server = serve(dict, Wrapper(metrics).get)
    for _ in range(3):
        assert "# TYPE jobs_processed untyped" in ask(server, "/metrics/prometheus").text
    (said,) = [record.message for record in caplog.records]
    assert "without their types" in said
    assert "give the health server metrics=" in said


def test_nothing_is_said_of_types_where_none_are_lost(serve, metrics, caplog):
    caplog.set_level(logging.WARNING, LOGGER)
    for server in (
        serve(dict),
        serve(dict, metrics.get_metrics_data),
        serve(dict, Wrapper(metrics).get, metrics=metrics),
    ):
        assert "health_status" in ask(server, "/metrics/prometheus").text
    assert caplog.records == []


def test_a_key_is_zero_if_one_of_several_says_so(serve, metrics):
    server = serve(lambda: {"redis_connected": True}, metrics=metrics)
    server.add_check("second consumer", lambda: {"redis_connected": False})
    eventually(lambda: gauges(server).get(("redis_connected",)) == 0)
