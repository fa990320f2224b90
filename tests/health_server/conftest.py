"""A health server that ends with the test, and a worker for the tests of the dashboard."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from health_servers import HEALTHY, LIMIT, threads_of_servers
from helpers import Gate

from shared_sync.health_server import HealthServer
from shared_sync.health_server import state as health_server_state

if TYPE_CHECKING:
    from dashboards import Worker


@pytest.fixture
def serve() -> Iterator[Callable[..., HealthServer]]:
    """Starts servers that are stopped at the end of the test."""
    with ExitStack() as servers:

        def start(
            get_health_data: Callable[[], Any] = lambda: HEALTHY,
            get_metrics_data: Callable[[], Any] | None = None,
            **options: Any,
        ) -> HealthServer:
            options = {"host": "127.0.0.1", **options}
            server = HealthServer("worker-1", 0, None, get_health_data, get_metrics_data, **options)
            return servers.enter_context(server)

        yield start
    for thread in threads_of_servers():
        thread.join(LIMIT)
        assert not thread.is_alive(), "a server has left a thread"


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """A worker that is not started yet, and calls its views whenever the page asks."""
    from dashboards import Worker  # noqa: PLC0415 - loads selenium

    monkeypatch.setattr(health_server_state, "VIEW_PERIOD_SECONDS", 0.0)
    made = Worker()
    yield made
    made.stop()


@pytest.fixture
def hold(worker: Worker) -> Iterator[Gate]:
    """A check or view that hangs until it is opened, or until the end of the test."""
    made = Gate()
    yield made
    made.opened.set()


class ForeignPage(BaseHTTPRequestHandler):
    """A page of another web site, which has no policy of its own."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<title>foreign</title>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[int]:
    """The port of another web site."""
    with ThreadingHTTPServer(("127.0.0.1", 0), ForeignPage) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()
