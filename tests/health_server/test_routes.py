"""HealthServer as a client of HTTP sees it: methods, headers, limits, many clients."""

from __future__ import annotations

import logging
import socket
from contextlib import closing

import pytest
from health_servers import LIMIT, Counted, Failing, Rendered, Task, ask, ask_over, connect

# --- HTTP -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/health", 200),
        ("GET", "/health/", 200),
        ("HEAD", "/health", 200),
        ("OPTIONS", "/health", 200),
        ("GET", "/metrics", 500),
        ("GET", "/metrics/prometheus", 500),
        ("GET", "/health/live", 200),
        ("GET", "/health//", 404),
        ("POST", "/health", 405),
        ("DELETE", "/metrics", 405),
    ],
)
def test_health_and_metrics_may_be_read_by_any_page_and_are_not_stored(serve, method, path, code):
    answer = ask(serve(get_metrics_data=Failing(RuntimeError())), path, method)

    assert answer.code == code
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Server"] is None
    if method != "OPTIONS":
        assert answer.headers["Content-Type"] == "application/json"


def test_options_name_the_methods(serve):
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


def test_another_method_is_a_json_405_that_names_the_methods(serve):
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


def test_a_request_without_a_body_that_expects_a_continue_is_answered_at_once(serve):
    with socket.create_connection(("127.0.0.1", serve().port), LIMIT) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")


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
    assert metrics.result().text.startswith("finished 1\n")


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
