"""HealthServer over real sockets: what it answers, what it refuses, and that it leaves nothing."""

from __future__ import annotations

import errno
import http.client
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from datetime import datetime, timedelta, timezone
from time import monotonic
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from helpers import Gate, eventually

from shared_sync.errors import ConfigurationError, PortUnavailable
from shared_sync.health_server import HealthServer, wsgi

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


@pytest.fixture
def serve() -> Iterator[Callable[..., HealthServer]]:
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


# What it answers


def test_health_begins_with_status_identity_and_time_and_goes_on_with_the_data(serve):
    answer = ask(serve(lambda: {"zebra": 1, "apple": {"nested": [1, 2]}}))

    assert answer.code == 200
    assert list(answer.json) == ["status", "instance_id", "timestamp", "zebra", "apple"]
    assert answer.json["status"] == "healthy"
    assert answer.json["instance_id"] == "worker-1"
    assert answer.json["apple"] == {"nested": [1, 2]}


def test_the_timestamp_is_the_time_of_the_answer_in_utc(serve):
    told = datetime.fromisoformat(ask(serve()).json["timestamp"])

    assert told.utcoffset() == timedelta(0)
    assert abs(datetime.now(timezone.utc) - told) < timedelta(minutes=1)


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
def test_a_status_in_the_data_is_honoured(serve, status, code):
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


# When a callback fails


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
    told = [record for record in caplog.records if record.getMessage().startswith(name)]
    assert [bool(record.exc_info) for record in told] == [True]


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

    told = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert told == ["no answer from <Redis at 0x7f01> after 1.5 s", "refused", "refused"]


def test_the_log_goes_to_the_given_logger(caplog):
    logger = logging.LoggerAdapter(logging.getLogger("mine"), {})
    with HealthServer("worker-1", 0, logger, Failing(RuntimeError("boom"))) as server:
        ask(server)

    assert {record.name for record in caplog.records} == {"mine"}


def test_good_requests_log_nothing_and_the_start_is_one_line(serve, caplog):
    caplog.set_level(logging.DEBUG)
    server = serve()
    for path in ("/", "/health", "/metrics", "/nowhere"):
        ask(server, path)
    server.stop_server()

    (line,) = [record.getMessage() for record in caplog.records]
    assert line == f"worker-1: health server listens on 127.0.0.1, port {server.port}"


# HTTP


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/", 200),
        ("GET", "/health", 200),
        ("GET", "/health/", 200),
        ("HEAD", "/health", 200),
        ("OPTIONS", "/health", 200),
        ("GET", "/metrics", 500),
        ("GET", "/nowhere", 404),
        ("GET", "/health//", 404),
        ("GET", "/static/x", 404),
        ("POST", "/health", 405),
        ("DELETE", "/metrics", 405),
    ],
)
def test_every_answer_may_be_read_by_any_page_and_is_not_stored(serve, method, path, code):
    answer = ask(serve(get_metrics_data=Failing(RuntimeError())), path, method)

    assert answer.code == code
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Server"] is None
    if method != "OPTIONS":
        assert answer.headers["Content-Type"] == "application/json"


def test_options_tell_the_methods(serve):
    answer = ask(serve(), "/metrics", "OPTIONS")

    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"
    assert answer.headers["Access-Control-Allow-Methods"] == "GET, HEAD, OPTIONS"
    assert answer.text == ""


def test_head_is_get_without_the_body(serve):
    server = serve(lambda: {"redis_connected": False})
    head, get = ask(server, method="HEAD"), ask(server)

    assert head.code == get.code == 500
    assert head.text == ""
    assert head.headers["Content-Length"] == get.headers["Content-Length"]


def test_an_unknown_path_is_a_json_404(serve):
    assert ask(serve(), "/nowhere").json == {"instance_id": "worker-1", "error": "Not Found"}


def test_another_method_is_a_json_405_that_tells_the_methods(serve):
    answer = ask(serve(), "/health", "POST")

    assert answer.json == {"instance_id": "worker-1", "error": "Method Not Allowed"}
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"


def test_cors_can_be_narrowed_or_left_out(serve):
    one = ask(serve(cors="https://ops.example"), method="OPTIONS").headers
    none = ask(serve(cors=None), method="OPTIONS").headers

    assert one["Access-Control-Allow-Origin"] == "https://ops.example"
    assert none["Access-Control-Allow-Origin"] is None
    assert none["Access-Control-Allow-Methods"] is None
    assert none["Allow"] == "GET, HEAD, OPTIONS"


def test_a_body_beyond_the_limit_is_refused_unread(serve):
    with socket.create_connection(("127.0.0.1", serve().port), LIMIT) as client:
        client.sendall(b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 65537\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_one_connection_serves_many_requests(serve):
    with closing(connect(serve())) as client:
        assert [ask_over(client).code for _ in range(20)] == [200] * 20


def test_a_slow_callback_does_not_keep_another_request_waiting(serve):
    slow = Rendered()
    server = serve(get_metrics_data=slow.get_metrics_data)
    metrics = Task(lambda: ask(server, "/metrics/prometheus"))
    assert slow.gate.entered.wait(LIMIT)

    assert ask(server).code == 200
    slow.gate.opened.set()
    assert metrics.result().text == "finished 1\n"


def test_a_callback_is_never_called_twice_at_a_time_and_each_request_gets_a_call_of_its_own(serve):
    counted = Counted()
    server = serve(get_metrics_data=counted)
    askers = [Task(lambda: [ask(server, "/metrics") for _ in range(20)]) for _ in range(2)]

    for asker in askers:
        calls = [answer.json["call"] for answer in asker.result()]
        assert calls == sorted(set(calls)), "an answer was of a call before the request"
    assert counted.most_at_once == 1


def test_more_clients_than_threads_all_get_their_answer(serve, caplog):
    caplog.set_level(logging.DEBUG, "waitress")
    server = serve()
    clients = [Task(lambda: [ask(server).code for _ in range(20)]) for _ in range(8)]

    assert [client.result() for client in clients] == [[200] * 20] * 8
    assert not [record for record in caplog.records if record.name.startswith("waitress")]


# Where it listens


def test_port_0_finds_a_free_port_and_tells_it(serve):
    first, second = serve(), serve()

    assert 0 < first.port != second.port > 0
    assert first.url == f"http://127.0.0.1:{first.port}"


def test_before_the_start_the_port_is_the_one_asked_for():
    server = HealthServer("worker-1", 8080, None, dict)

    assert (server.port, server.url) == (8080, "http://127.0.0.1:8080")


def test_a_taken_port_raises_in_the_callers_thread_and_names_the_remedy(serve):
    port = serve().port
    server = HealthServer("worker-2", port, None, dict, host="127.0.0.1")

    with pytest.raises(PortUnavailable, match=rf"'127.0.0.1', port {port}: .* choose another port"):
        server.start_server()
    assert server.stop_server() is True


def test_a_port_that_is_free_again_can_be_used():
    first = HealthServer("worker-1", 0, None, dict, host="127.0.0.1")
    first.start_server()
    second = HealthServer("worker-2", first.port, None, dict, host="127.0.0.1")
    with pytest.raises(PortUnavailable):
        second.start_server()
    first.stop_server()
    with second:
        assert ask(second).json["instance_id"] == "worker-2"


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
def test_a_port_this_user_may_not_open_names_the_remedy(monkeypatch, code):
    def refuse(*args: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(PortUnavailable, match=r"'0\.0\.0\.0', port 80: .* from 1024 up"):
        HealthServer("worker-1", 80, None, dict).start_server()


@pytest.mark.parametrize("host", ["192.0.2.7", "no.such.host.invalid", "a" * 70])
def test_a_host_that_is_not_this_machine_names_the_remedy(host):
    with pytest.raises(PortUnavailable, match=r"port 8080: .* address of this machine"):
        HealthServer("worker-1", 8080, None, dict, host=host).start_server()


def ipv6_works() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not ipv6_works(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::1", "::"])
def test_it_listens_on_ipv6(serve, host):
    server = serve(host=host)

    assert server.url == f"http://[::1]:{server.port}"
    with urllib.request.urlopen(server.url + "/health", timeout=LIMIT) as response:
        assert response.status == 200


@pytest.mark.skipif(
    not (ipv6_works() and socket.has_dualstack_ipv6()), reason="this machine has no dual stack"
)
def test_the_ipv6_wildcard_takes_ipv4_too(serve):
    assert ask(serve(host="::")).code == 200


@pytest.mark.parametrize("port", [-1, 65536, 70000, True, "8080", None, 80.0])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(ConfigurationError, match="port must be an int from 0 to 65535, not "):
        HealthServer("worker-1", port, None, dict)


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        (("", 0, None, dict), {}, "instance_id must be"),
        ((b"worker", 0, None, dict), {}, "instance_id must be"),
        (("worker", 0), {}, "get_health_data must be a function"),
        (("worker", 0, None, {"jobs": 1}), {}, "get_health_data must be a function"),
        (("worker", 0, None, dict, {"jobs": 1}), {}, "get_metrics_data must be a function"),
        (("worker", 0, None, dict), {"host": ""}, "host must be"),
        (("worker", 0, None, dict), {"critical": "gpu"}, "critical must be several keys"),
        (("worker", 0, None, dict), {"cors": "a\r\nb: c"}, "cors must be"),
        (("worker", 0, None, dict), {"cors": ""}, "cors must be"),
    ],
)
def test_an_argument_that_cannot_work_is_refused_at_once(arguments, options, text):
    with pytest.raises(ConfigurationError, match=text):
        HealthServer(*arguments, **options)


# Start and stop


def test_making_a_server_starts_nothing():
    HealthServer("worker-1", 0, None, dict)

    assert threads_of_servers() == []


def test_stop_is_harmless_before_the_start_and_twice():
    server = HealthServer("worker-1", 0, None, dict)

    assert server.stop_server() is True
    server.start_server()
    assert server.stop_server() is True
    assert server.stop_server() is True


def test_a_stop_by_a_signal_handler_in_the_middle_of_the_start_is_not_forgotten(monkeypatch):
    server = HealthServer("worker-1", 0, None, dict, host="127.0.0.1")
    listen = wsgi.listen

    def interrupted(host: str, port: int) -> socket.socket:
        assert server.stop_server() is True
        return listen(host, port)

    with monkeypatch.context() as handled:
        handled.setattr(wsgi, "listen", interrupted)
        server.start_server()
    eventually(lambda: threads_of_servers() == [])
    with server:
        assert ask(server).code == 200


def test_start_is_harmless_while_it_runs(serve):
    server = serve()
    port, threads = server.port, threads_of_servers()
    server.start_server()

    assert (server.port, threads_of_servers()) == (port, threads)
    assert ask(server).code == 200


def test_after_the_stop_nobody_is_let_in(serve):
    server = serve()
    server.stop_server()

    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(server.url, timeout=LIMIT)


def test_it_can_be_started_again_on_a_new_socket(serve):
    server = serve()
    for _ in range(3):
        assert ask(server).code == 200
        assert server.stop_server() is True
        server.start_server()
    assert ask(server).code == 200


def test_many_threads_may_start_and_stop_it_at_once():
    server = HealthServer("worker-1", 0, None, dict, host="127.0.0.1")

    def churn() -> None:
        for _ in range(25):
            server.start_server()
            server.stop_server()

    for task in [Task(churn) for _ in range(4)]:
        task.result()
    assert server.stop_server() is True
    assert threads_of_servers() == []


def test_the_stop_closes_the_connection_of_a_keep_alive_client(serve):
    server = serve()
    with closing(connect(server)) as client:
        ask_over(client)
        assert server.stop_server() is True
        assert client.sock.recv(1) == b""


def test_a_request_that_is_being_served_is_finished_at_stop_and_no_other_is_let_in(serve, caplog):
    caplog.set_level(logging.DEBUG, "waitress")
    slow = Rendered()
    server = serve(get_metrics_data=slow.get_metrics_data)
    with closing(connect(server)) as idle:
        ask_over(idle, "/health")
        running = Task(lambda: ask(server, "/metrics/prometheus"))
        assert slow.gate.entered.wait(LIMIT)
        stopping = Task(server.stop_server)
        assert idle.sock.recv(1) == b"", "stopping has begun"
        with pytest.raises(ConnectionRefusedError):
            ask(server)
        slow.gate.opened.set()

    assert running.result().text == "finished 1\n"
    assert stopping.result() is True
    assert not [record for record in caplog.records if record.name.startswith("waitress")]


def test_a_callback_that_outlasts_the_stop_is_reported_and_ends_by_itself(serve, caplog):
    slow = Gate({"finished": True})
    server = serve(slow)
    assert slow.entered.wait(LIMIT)

    assert server.stop_server(timeout=0.05) is False
    assert "a callback still runs" in caplog.text
    slow.opened.set()
    assert server.stop_server() is True
    assert threads_of_servers() == []


def test_it_can_be_started_again_while_an_old_callback_still_runs(serve):
    slow = Gate({"finished": True})
    server = serve(slow, lambda: {"jobs": 1})
    assert slow.entered.wait(LIMIT)
    assert server.stop_server(timeout=0.05) is False

    server.start_server()
    assert ask(server, "/metrics").json["jobs"] == 1
    slow.opened.set()
    eventually(lambda: ask(server).json.get("finished"))


def test_a_callback_may_stop_the_server_it_serves(serve):
    results: list[bool] = []

    def last() -> dict[str, Any]:
        results.append(server.stop_server(timeout=LIMIT * 2))
        return {"finished": True}

    server = serve(last)

    eventually(lambda: results)
    assert results == [False]
    assert server.stop_server() is True
    assert threads_of_servers() == []


def test_an_answer_larger_than_the_sockets_buffers_is_sent_to_its_end_at_stop(serve):
    text = "x" * LARGE
    server = serve(get_metrics_data=lambda: {"text": text})
    with closing(connect(server)) as client, closing(connect(server)) as idle:
        ask_over(idle)
        client.request("GET", "/metrics")
        response = client.getresponse()
        stopping = Task(server.stop_server)
        assert idle.sock.recv(1) == b"", "stopping has begun"

        assert json.loads(response.read())["text"] == text
    assert stopping.result() is True


def test_a_client_that_does_not_read_cannot_hold_the_stop_up(serve, monkeypatch):
    monkeypatch.setattr(wsgi, "FLUSH_SECONDS", 0.05)
    server = serve(get_metrics_data=lambda: {"text": "x" * LARGE})
    with closing(connect(server)) as client:
        client.request("GET", "/metrics")
        client.getresponse()

        assert server.stop_server() is True


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc")
def test_fifty_starts_and_stops_leave_no_thread_and_no_descriptor():
    slow = Rendered()
    server = HealthServer("worker-1", 0, None, dict, slow.get_metrics_data, host="127.0.0.1")
    server.add_check("disk", lambda: True)
    server.add_view("readers", dict)
    threads, files, begin = threading.active_count(), descriptors(), monotonic()
    for _ in range(50):
        slow.gate.entered.clear()
        slow.gate.opened.clear()
        server.start_server()
        with closing(connect(server)) as idle:
            ask_over(idle, "/api/state")
            running = Task(lambda: ask(server, "/metrics/prometheus"))
            assert slow.gate.entered.wait(LIMIT)
            stopping = Task(server.stop_server)
            assert idle.sock.recv(1) == b""
            slow.gate.opened.set()
            assert running.result().code == 200
            assert stopping.result() is True
        assert (threading.active_count(), descriptors()) == (threads, files)
    assert monotonic() - begin < 25, "stopping waits for the loop instead of waking it"


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc")
@pytest.mark.parametrize("part", [(threading.Thread, "start"), (wsgi, "create_server")])
def test_a_start_that_fails_leaves_nothing(monkeypatch, part):
    server = HealthServer("worker-1", 0, None, dict, host="127.0.0.1")
    files = descriptors()

    def refuse(*args: object, **options: object) -> None:
        raise RuntimeError("out of threads")

    with monkeypatch.context() as broken:
        broken.setattr(*part, refuse)
        with pytest.raises(RuntimeError):
            server.start_server()

    assert descriptors() == files
    assert threads_of_servers() == []
    with server:
        assert ask(server).code == 200


def test_a_program_that_never_stops_it_still_ends():
    program = (
        "from shared_sync.health_server import HealthServer\n"
        "HealthServer('worker-1', 0, None, dict, host='127.0.0.1').start_server()\n"
        "print('done')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=LIMIT * 3,
        check=False,
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")
