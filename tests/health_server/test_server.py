"""How HealthServer starts and stops, and that it leaves nothing behind."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import closing
from time import monotonic
from typing import Any

import pytest
from health_servers import (
    LARGE,
    LIMIT,
    Rendered,
    Task,
    ask,
    ask_over,
    connect,
    descriptors,
    threads_of_servers,
)
from helpers import BlockedHandler, Gate, eventually

from shared_sync.errors import ConfigurationError
from shared_sync.health_server import HealthServer, listening, wsgi

# --- arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize("port", [-1, 65536, 70000, True, "", "80.0", "-1", None, 80.0])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(ConfigurationError, match="port must be an int from 0 to 65535, not "):
        HealthServer("worker-1", port, None, dict)


def test_a_port_may_be_the_text_of_an_environment_variable():
    assert HealthServer("worker-1", "8080", None, dict).port == 8080


def test_a_port_that_kubernetes_has_overwritten_is_explained(monkeypatch):
    monkeypatch.setenv("HEALTH_PORT", "tcp://10.0.0.1:80")
    with pytest.raises(ConfigurationError, match=r"port must be .* Kubernetes sets HEALTH_PORT to"):
        HealthServer("worker-1", os.environ["HEALTH_PORT"], None, dict)


@pytest.mark.parametrize("logger", ["stt", 5, logging.Logger])
def test_what_is_no_logger_is_refused(logger):
    with pytest.raises(ConfigurationError, match=r"logger must be a logging\.Logger"):
        HealthServer("worker-1", 0, logger, dict)


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


# --- start and stop ---------------------------------------------------------------------------


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
    listen = listening.listen

    def interrupted(host: str | None, port: int) -> socket.socket:
        assert server.stop_server() is True
        return listen(host, port)

    with monkeypatch.context() as handled:
        handled.setattr(listening, "listen", interrupted)
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

    assert running.result().text.startswith("finished 1\n")
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
        eventually(lambda: "text" in ask_over(idle, "/metrics").json)
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
@pytest.mark.parametrize("part", [(threading.Thread, "start"), (wsgi, "_Server")])
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


def test_a_logger_that_blocks_keeps_no_check_from_being_called():
    """As where nobody reads the pipe that the log goes to, and a check fails."""
    handler = BlockedHandler()
    logger = logging.Logger("blocked", logging.ERROR)
    logger.addHandler(handler)
    calls: list[int] = []

    def fail() -> bool:
        calls.append(1)
        raise ValueError

    server = HealthServer("worker-1", 0, logger, dict, host="127.0.0.1")
    server.add_check("broken", fail, period_seconds=0.05)
    with server:
        try:
            assert handler.entered.wait(10)
            before = len(calls)
            eventually(lambda: len(calls) > before + 2)
        finally:
            handler.opened.set()
