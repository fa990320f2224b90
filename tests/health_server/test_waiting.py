"""Several scrapers at once: they share calls, and a function that hangs keeps nobody else out."""

from __future__ import annotations

import http.client
from contextlib import closing

import pytest
from health_servers import LIMIT, Rendered, Task, ask
from helpers import Gate, eventually

from shared_sync.health_server import HealthServer, state, waiting
from shared_sync.health_server.waiting import WAITING_REQUESTS

PATH = "/metrics/prometheus"


class Counted(Rendered):
    """Metrics for Prometheus; the first rendering waits at the gate."""

    def __init__(self) -> None:
        super().__init__()
        self.renderings = 0

    def render_prometheus(self) -> bytes:
        self.renderings += 1
        if self.renderings == 1:
            super().render_prometheus()
        return b"rendering %d\n" % self.renderings


@pytest.fixture
def metrics() -> Counted:
    return Counted()


@pytest.fixture(autouse=True)
def long_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting requests wait until the test lets them go, however busy the machine is."""
    monkeypatch.setattr(state, "CALLBACK_TIMEOUT_SECONDS", 60.0)


def waiting_requests(server: HealthServer) -> int:
    """How many requests wait for a call."""
    return WAITING_REQUESTS - server._state._waiting._places._value


def test_scrapers_that_come_at_once_share_renderings_and_none_is_refused(serve, metrics):
    server = serve(get_metrics_data=metrics.get_metrics_data)
    first = Task(lambda: ask(server, PATH))
    assert metrics.gate.entered.wait(LIMIT)
    others = [Task(lambda: ask(server, PATH)) for _ in range(WAITING_REQUESTS - 1)]
    eventually(lambda: waiting_requests(server) == WAITING_REQUESTS)
    metrics.gate.opened.set()

    assert first.result().code == 200
    answers = [other.result() for other in others]
    assert [answer.code for answer in answers] == [200] * len(others)
    # They came while the first rendering ran, and share the next one, which began after them.
    assert metrics.renderings == 2
    assert all(answer.text.startswith("rendering 2\n") for answer in answers)


def test_many_scrapers_that_keep_coming_are_all_answered(serve, metrics):
    metrics.gate.opened.set()
    server = serve(get_metrics_data=metrics.get_metrics_data)
    assert ask(server, PATH).code == 200

    scrapers = [Task(lambda: [ask(server, PATH).code for _ in range(25)]) for _ in range(12)]
    assert [scraper.result() for scraper in scrapers] == [[200] * 25] * 12


class Hanging(Rendered):
    """Metrics that are rendered once, and then hang."""

    def __init__(self) -> None:
        super().__init__()
        self.hang = Gate(b"late\n")
        self.renderings = 0

    def render_prometheus(self) -> bytes:
        self.renderings += 1
        return b"early\n" if self.renderings == 1 else self.hang()


@pytest.mark.parametrize(("recent_seconds", "code"), [(3600.0, 200), (-1.0, 503)])
def test_a_scraper_too_many_gets_the_last_rendering_if_it_is_recent(
    serve, monkeypatch, recent_seconds, code
):
    monkeypatch.setattr(waiting, "RECENT_SECONDS", recent_seconds)
    metrics = Hanging()
    server = serve(get_metrics_data=metrics.get_metrics_data)
    assert ask(server, PATH).text.startswith("early\n")
    scrapers = [Task(lambda: ask(server, PATH)) for _ in range(WAITING_REQUESTS)]
    eventually(lambda: waiting_requests(server) == WAITING_REQUESTS)

    one_too_many = ask(server, PATH)
    assert one_too_many.code == code
    if code == 200:
        assert one_too_many.text.startswith("early\n")
    else:
        assert one_too_many.headers["Retry-After"] == "1"
        assert one_too_many.json["error"] == "other requests wait for the same; ask again"
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT)) as probe:
        probe.request("GET", "/health/live")
        assert probe.getresponse().status == 200
    metrics.hang.opened.set()
    for scraper in scrapers:
        scraper.result()
