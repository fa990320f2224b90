"""What tests of a HealthServer over real sockets share: requests, tasks, and callbacks."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, NamedTuple

import pytest
from helpers import Gate

from shared_sync.health_server import HealthServer

LIMIT = 10.0  # seconds any wait of these tests may last
LARGE = 15_000_000  # bytes, more than the system's socket buffers hold
LOGGER = "shared_sync.health_server"
HEALTHY = {"redis_connected": True, "model_loaded": True}


class Answer(NamedTuple):
    code: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text, parse_constant=pytest.fail)


def ask(server: HealthServer, path: str = "/health", method: str = "GET") -> Answer:
    with closing(connect(server)) as client:
        return ask_over(client, path, method)


def connect(server: HealthServer) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT)


def ask_over(
    client: http.client.HTTPConnection, path: str = "/health", method: str = "GET"
) -> Answer:
    client.request(method, path)
    response = client.getresponse()
    return Answer(response.status, response.headers, response.read().decode())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def threads_of_servers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("health-")]


class Task(threading.Thread):
    """A call in another thread; `result()` is what it returned."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._result: Any = None
        self.start()

    def run(self) -> None:
        self._result = self._call()

    def result(self) -> Any:
        self.join(LIMIT)
        assert not self.is_alive(), "the other thread is stuck"
        return self._result


class Failing:
    """A callback that raises `error` while it has one."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    def __call__(self) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        return {}


class Rendered:
    """Figures for Prometheus that come out of a gate, which only a request for them enters."""

    def __init__(self) -> None:
        self.gate = Gate(b"finished 1\n")

    def get_metrics_data(self) -> dict[str, Any]:
        return {}

    def render_prometheus(self) -> Any:
        return self.gate()


class Counted:
    """A callback that tells which call it is, and knows how many ran at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.calls = 0
        self.running = 0
        self.most_at_once = 0

    def __call__(self) -> dict[str, Any]:
        with self._lock:
            self.calls += 1
            call = self.calls
            self.running += 1
            self.most_at_once = max(self.most_at_once, self.running)
        threading.Event().wait(0.001)
        with self._lock:
            self.running -= 1
        return {"call": call}
