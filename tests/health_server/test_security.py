"""Who may read what: the token, other origins, headers; and what hostile clients cannot do."""

from __future__ import annotations

import http.client
import json
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from importlib.resources import files
from typing import Any, NamedTuple

import pytest
from flask import Flask
from helpers import eventually, free_port, in_a_fork

from shared_sync import WorkerMetrics
from shared_sync.errors import ConfigurationError, PortUnavailable
from shared_sync.health_server import HealthServer, wsgi
from shared_sync.health_server.access import SAFE_HEADERS

LIMIT = 10.0
ESTABLISHED = "01"  # in /proc/net/tcp
TOKEN = "f8a1-secret"
LARGE = 15_000_000  # bytes, more than the system's socket buffers hold
PROBES = ("/health/live", "/health/ready", "/health/startup")
GUARDED = ("/health", "/metrics", "/metrics/prometheus", "/api/state", "/api/history")

Serve = Callable[..., HealthServer]


class Answer(NamedTuple):
    code: int
    headers: http.client.HTTPMessage
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as servers:

        def start(get_health_data: Callable[[], Any] = dict, **options: Any) -> HealthServer:
            server = HealthServer(
                "worker-1", 0, None, get_health_data, **{"host": "127.0.0.1", **options}
            )
            return servers.enter_context(server)

        yield start


def ask(
    server: HealthServer, path: str, method: str = "GET", headers: dict[str, str] | None = None
) -> Answer:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT)) as client:
        client.request(method, path, headers=headers or {})
        response = client.getresponse()
        return Answer(response.status, response.headers, response.read().decode())


def connections(server: HealthServer) -> int:
    """How many clients the server holds on to."""
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table][1:]
    ours = f"0100007F:{server.port:04X}"
    return sum(row[1] == ours and row[3] == ESTABLISHED for row in rows)


def connect(server: HealthServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), LIMIT)


# --- the token --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize(
    "sent",
    [
        None,
        "",
        TOKEN,
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Basic {TOKEN}",
        f"Bearer {TOKEN} {TOKEN}",
        "Bearer caf\xe9",
    ],
)
def test_without_the_right_token_nothing_is_told(serve: Serve, path: str, sent: str | None) -> None:
    server = serve(lambda: {"jobs": 41}, token=TOKEN)
    answer = ask(server, path, headers={} if sent is None else {"Authorization": sent})
    assert answer.code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.json == {
        "instance_id": "worker-1",
        "error": "a token is needed: send it as Authorization: Bearer <token>",
    }


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER "])
def test_with_the_token_everything_is_told(serve: Serve, path: str, scheme: str) -> None:
    server = serve(token=TOKEN)
    assert ask(server, path, headers={"Authorization": f"{scheme} {TOKEN}"}).code == 200


@pytest.mark.parametrize("path", PROBES)
def test_probes_need_no_token_but_give_reasons_only_with_it(serve: Serve, path: str) -> None:
    trouble = {"live": False, "ready": False, "started": False, "reasons": ["job 17-0 is late"]}
    server = serve(lambda: trouble, token=TOKEN)
    eventually(lambda: ask(server, "/health/live").code == 503)
    answer = ask(server, path)
    assert answer.code == 503
    assert "late" not in answer.text
    known = ask(server, path, headers={"Authorization": f"Bearer {TOKEN}"})
    assert known.json["reasons"] == ["job 17-0 is late"]


def test_the_page_itself_needs_no_token_and_holds_nothing_of_this_worker(serve: Serve) -> None:
    server = serve(token=TOKEN)
    page = ask(server, "/", headers={"Accept": "text/html"})
    assert page.code == 200
    names = [path.name for path in (files("shared_sync.health_server") / "dashboard").iterdir()]
    assert "app.js" in names
    for part in [page, *(ask(server, f"/dashboard/{name}") for name in names)]:
        assert part.code == 200
        assert "worker-1" not in part.text
        assert TOKEN not in part.text


def test_the_token_is_in_no_answer_and_no_log(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = serve(token=TOKEN, details=True)
    for path in (*GUARDED, *PROBES, "/", "/nowhere"):
        for sent in ({}, {"Authorization": f"Bearer {TOKEN}"}):
            answer = ask(server, path, headers=sent)
            assert TOKEN not in answer.text + str(answer.headers)
    assert TOKEN not in caplog.text
    assert TOKEN not in repr(server)


@pytest.mark.parametrize("token", ["", "  ", "caf\xe9", "two\nlines", 5, b"bytes"])
def test_a_token_that_cannot_be_sent_is_refused_without_being_shown(token: Any) -> None:
    with pytest.raises(ConfigurationError, match="token must be printable ASCII") as refused:
        HealthServer("worker-1", 0, None, dict, token=token)
    assert "lines" not in str(refused.value)


# --- other origins ----------------------------------------------------------------------------

OPS, OTHER = "https://ops.example", "https://other.example"


@pytest.mark.parametrize(
    ("cors", "origin", "allowed", "varies"),
    [
        ("*", OTHER, "*", False),
        ("*", None, "*", False),
        (None, OTHER, None, False),
        (OPS, OPS, OPS, True),
        (OPS, OTHER, OPS, True),
        ([OPS, "http://localhost:3000"], OPS, OPS, True),
        ([OPS, "http://localhost:3000"], OTHER, None, True),
        ([OPS, "http://localhost:3000"], None, None, True),
        ([], OPS, None, False),
        (["*", OPS], OTHER, "*", False),
    ],
)
def test_only_pages_of_the_allowed_origins_may_read(
    serve: Serve, cors: Any, origin: str | None, allowed: str | None, varies: bool
) -> None:
    answer = ask(serve(cors=cors), "/health", headers={"Origin": origin} if origin else {})
    assert answer.headers["Access-Control-Allow-Origin"] == allowed
    assert ("Origin" in (answer.headers["Vary"] or "")) == varies
    assert answer.headers["Access-Control-Allow-Credentials"] is None


PRIVATE = ("/", "/dashboard/app.js", "/api/state", "/api/history", "/nowhere")


@pytest.mark.parametrize("path", PRIVATE)
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
@pytest.mark.parametrize(
    ("cors", "origin", "allowed"),
    [
        ("*", OTHER, None),
        (None, OTHER, None),
        (["*"], OTHER, None),
        (["*", OPS], OTHER, OPS),  # which lets in the pages of OPS alone
        (OPS, OPS, OPS),
        ([OPS, "http://localhost:3000"], OPS, OPS),
        ([OPS, "http://localhost:3000"], OTHER, None),
    ],
)
def test_the_dashboard_and_its_data_are_for_pages_of_named_origins_alone(
    serve: Serve, path: str, method: str, cors: Any, origin: str, allowed: str | None
) -> None:
    answer = ask(serve(cors=cors), path, method, {"Origin": origin})
    assert answer.headers["Access-Control-Allow-Origin"] == allowed
    assert (answer.headers["Access-Control-Allow-Methods"] is not None) == (
        allowed is not None and method == "OPTIONS"
    )
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_the_preflight_needs_no_token_and_allows_to_send_it(serve: Serve) -> None:
    asked = {
        "Origin": OTHER,
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "authorization",
    }
    answer = ask(serve(token=TOKEN, cors=OTHER), "/api/state", "OPTIONS", asked)
    assert answer.code == 200
    assert answer.headers["Access-Control-Allow-Headers"] == "Authorization"
    assert answer.headers["Access-Control-Allow-Methods"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize("written", ["https://OPS.example", "https://ops.example/"])
def test_an_origin_may_be_written_as_in_an_address(serve: Serve, written: str) -> None:
    answer = ask(serve(cors=["http://localhost:3000", written]), "/", headers={"Origin": OPS})
    assert answer.headers["Access-Control-Allow-Origin"] == OPS


@pytest.mark.parametrize(
    "cors",
    [
        *(
            5,
            "",
            "ops.example",
            "https://ops.example/page",
            "https://",
            "null",
            [""],
            [5],
            ["*", ""],
        ),
        *("https://caf\xe9.example", "a\nb", "https://a.example, https://b.example"),
    ],
)
def test_an_origin_that_is_none_is_refused(cors: Any) -> None:
    with pytest.raises(ConfigurationError, match="a scheme and a host such as"):
        HealthServer("worker-1", 0, None, dict, cors=cors)


# --- the name under which the server is asked -------------------------------------------------

FOREIGN = ("evil.example", "evil.example:8081", "127.0.0.1.evil.example", "localhost.evil.example")
OWN = (
    *("127.0.0.1", "127.0.0.1:8081", "10.1.2.3:80", "[::1]", "[fd00::1]:8081", "[fe80::1%eth0]"),
    *("localhost", "LOCALHOST:8081", "localhost.", "stt.localhost", "stt_worker", "stt-1:8081"),
    *(socket.gethostname(), f"{socket.gethostname()}:8081"),
)


@pytest.mark.parametrize("path", PRIVATE)
@pytest.mark.parametrize("method", ["GET", "OPTIONS", "POST"])
def test_a_site_whose_name_leads_here_reads_nothing(serve: Serve, path: str, method: str) -> None:
    server = serve(lambda: {"jobs": 41})
    for host in FOREIGN:
        answer = ask(server, path, method, {"Host": host})
        assert answer.code == 421
        assert answer.json == {
            "instance_id": "worker-1",
            "error": f"this page is not served under the name {host!r}: use an IP address, or have "
            "the name added to allowed_hosts (--allowed-hosts)",
        }


@pytest.mark.parametrize("host", OWN)
def test_no_other_site_can_have_these_names(serve: Serve, host: str) -> None:
    assert ask(serve(), "/api/state", headers={"Host": host}).code == 200


@pytest.mark.parametrize("path", ["/health", "/metrics", "/metrics/prometheus", *PROBES])
def test_probes_and_prometheus_may_ask_under_any_name(serve: Serve, path: str) -> None:
    server = serve()
    eventually(lambda: ask(server, "/health/ready").code == 200)
    for host in (*FOREIGN, *OWN):
        assert ask(server, path, headers={"Host": host}).code == 200


@pytest.mark.parametrize(
    ("allowed", "host", "code"),
    [
        ("stt.example.com", "stt.example.com:443", 200),
        (["a.example", "STT.example.com"], "stt.EXAMPLE.com", 200),
        (["stt.example.com"], "www.stt.example.com", 421),
        (["*.example.com"], "stt.example.com", 200),
        (["*.example.com"], "a.stt.example.com", 200),
        (["*.example.com"], "example.com", 421),
        (["*.example.com"], "evilexample.com", 421),
        (["*"], "evil.example", 200),
    ],
)
def test_more_names_can_be_allowed(serve: Serve, allowed: Any, host: str, code: int) -> None:
    server = serve(allowed_hosts=allowed)
    assert ask(server, "/api/state", headers={"Host": host}).code == code


def test_the_name_that_the_server_listens_on_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    find = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _, *rest, **more: find("127.0.0.1", *rest))
    with HealthServer("worker-1", 0, None, dict, host="STT.example.com") as server:
        assert ask(server, "/", headers={"Host": f"stt.example.com:{server.port}"}).code == 200


@pytest.mark.parametrize(
    "allowed", [5, "", "https://a.example", "a.example:80", [5], ["a.*"], "a b", "*.*.example"]
)
def test_a_name_that_is_none_is_refused(allowed: Any) -> None:
    with pytest.raises(ConfigurationError, match="allowed_hosts must be names"):
        HealthServer("worker-1", 0, None, dict, allowed_hosts=allowed)


def exchange(server: HealthServer, request: bytes) -> tuple[int, dict[str, str]]:
    """Send these bytes; return the code and the headers of the answer."""
    with connect(server) as client:
        client.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received:
            received += client.recv(65536)
    first, *lines = received.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    return int(first.split(" ")[1]), dict(line.split(": ", 1) for line in lines)


@pytest.mark.parametrize("path", [b"/api/state", b"/health", b"/metrics", b"/health/live"])
@pytest.mark.parametrize(
    "hosts",
    [
        b"",
        b"Host: a\r\nHost: a\r\n",
        b"Host: localhost\r\nhost: evil.example\r\n",
        b"Host: a b\r\n",
        b"Host: a, b\r\n",
        b"Host: https://a\r\n",
        b"Host: [::1\r\n",
        b"Host: a:b\r\n",
    ],
)
def test_a_request_names_one_host(serve: Serve, path: bytes, hosts: bytes) -> None:
    code, _ = exchange(serve(), b"GET " + path + b" HTTP/1.1\r\n" + hosts + b"\r\n")
    assert code == 400


def test_a_request_of_http_1_0_needs_no_host(serve: Serve) -> None:
    assert exchange(serve(), b"GET /api/state HTTP/1.0\r\n\r\n")[0] == 200


# --- headers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*GUARDED, *PROBES, "/", "/nowhere", "/dashboard/nothing.js"])
def test_every_answer_may_be_taken_for_nothing_but_what_it_is(serve: Serve, path: str) -> None:
    headers = ask(serve(), path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 65537\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    ],
    ids=["no host", "no request", "body", "headers", "coding"],
)
def test_an_error_of_the_http_layer_has_the_same_headers(
    serve: Serve, request_: bytes, expected: int
) -> None:
    code, headers = exchange(serve(), request_)
    assert code == expected
    assert headers.items() >= SAFE_HEADERS.items()
    assert "Server" not in headers


def test_an_error_of_the_application_itself_has_the_same_headers(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()

    def fail(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(Flask, "wsgi_app", fail)
    code, headers = exchange(server, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert code == 500
    assert headers.items() >= SAFE_HEADERS.items()


def test_the_page_may_load_only_its_own_files(serve: Serve) -> None:
    answer = ask(serve(), "/", headers={"Accept": "text/html,*/*;q=0.8"})
    policy = dict(
        part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";")
    )
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in str(policy)


# --- hostile clients --------------------------------------------------------------------------


def test_a_client_that_sends_a_byte_now_and_then_is_sent_away(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wsgi, "REQUEST_SECONDS", 0.3)
    monkeypatch.setattr(wsgi, "WAIT_SECONDS", 0.05)
    server = serve()
    done = threading.Event()
    with connect(server) as client:
        client.sendall(b"GET /health HTTP/1.1\r\n")

        def drip() -> None:
            with suppress(OSError):
                while not done.wait(0.02):
                    client.sendall(b"X")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            eventually(lambda: not connections(server))
        finally:
            done.set()
            dripping.join(LIMIT)


def test_a_client_that_takes_its_answer_too_slowly_is_sent_away(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wsgi, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(wsgi, "WAIT_SECONDS", 0.05)
    server = serve(lambda: {"text": "x" * LARGE})
    eventually(lambda: ask(server, "/health/ready").code == 200)
    with connect(server) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(10) == b"HTTP/1.1 2"
        eventually(lambda: not connections(server))
        taken = 10
        with suppress(ConnectionResetError):
            while chunk := client.recv(1_000_000):
                taken += len(chunk)
        assert taken < LARGE


def test_a_patient_client_with_a_slow_line_gets_its_whole_answer(serve: Serve) -> None:
    server = serve(lambda: {"text": "x" * 3_000_000})
    eventually(lambda: ask(server, "/health/ready").code == 200)
    with connect(server) as client:
        for byte in b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n":
            client.sendall(bytes([byte]))
        taken = b"".join(iter(lambda: client.recv(100_000), b""))
    assert json.loads(taken.partition(b"\r\n\r\n")[2])["text"] == "x" * 3_000_000


def test_more_waiting_clients_than_connections_keep_no_probe_out(serve: Serve) -> None:
    server = serve()
    with ExitStack() as clients:
        for number in range(wsgi.CONNECTIONS + 60):
            client = clients.enter_context(connect(server))
            client.sendall(b"GET /health HTTP/1.1\r\nX-Half: " + b"x" * (number % 3))
        for _ in range(20):
            assert ask(server, "/health/live").code == 200


@pytest.mark.parametrize("clients", [4, 110])
def test_clients_that_ask_much_and_take_nothing_keep_no_probe_out(
    serve: Serve, clients: int
) -> None:
    server = serve(lambda: {"text": "x" * 1_000_000}, token=TOKEN)
    open_to_all = b"GET /dashboard/app.js HTTP/1.1\r\nHost: x\r\n\r\n"
    told = f"GET /health HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    with ExitStack() as stack:
        for number in range(clients):
            client = stack.enter_context(connect(server))
            client.setblocking(False)
            with suppress(OSError):
                client.sendall((open_to_all if number % 2 else told.encode()) * 200)
        for _ in range(20):
            assert ask(server, "/health/live").code == 200


def test_of_several_requests_at_once_the_first_is_answered_and_the_client_told_to_come_again(
    serve: Serve,
) -> None:
    with connect(serve()) as client:
        client.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        taken = b"".join(iter(lambda: client.recv(100_000), b""))
    assert taken.count(b"HTTP/1.1 200 OK") == 1
    assert b"Connection: close" in taken


def test_a_request_forges_no_line_in_the_log(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = serve()
    for _ in range(50):
        with connect(server) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(b"GET /%0A2026-01-01%20CRITICAL%20forged HTTP/1.1\r\nHost: x\r\n\r\n")
    assert ask(server, "/health/live").code == 200
    assert not [record for record in caplog.records if "\n" in record.getMessage()]


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"GET /health HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", b"431"),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", b"431"),
        (b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 65537\r\n\r\n", b"413"),
    ],
    ids=["headers", "path", "body"],
)
def test_what_is_too_large_is_refused(serve: Serve, sent: bytes, code: bytes) -> None:
    with connect(serve()) as client:
        client.sendall(sent)
        assert client.recv(65536).split(b" ")[1] == code


def sockets() -> int:
    """How many this process holds."""
    folder = "/proc/self/fd"
    links = [f"{folder}/{name}" for name in os.listdir(folder)]
    return sum(os.path.lexists(link) and os.readlink(link).startswith("socket:") for link in links)


# --- forks ------------------------------------------------------------------------------------


def test_a_fork_keeps_none_of_the_sockets_and_may_serve_by_itself(serve: Serve) -> None:
    others = sockets()
    server = serve(lambda: {"jobs": 1})
    eventually(lambda: ask(server, "/health/ready").code == 200)
    port = server.port

    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)) as client:

        def lives() -> bool:
            client.request("GET", "/health/live")
            response = client.getresponse()
            response.read()
            return response.status == 200

        assert lives(), "the server has taken the client in"

        def in_the_child() -> Any:
            held = sockets() - others
            stopped = server.stop_server()
            server.start_server()
            code = ask(server, "/health").code
            return {
                "held": held,
                "stopped": stopped,
                "code": code,
                "other": server.port != port,
                "ended": server.stop_server(),
            }

        # The client's own end is the one socket that a fork keeps.
        told = in_a_fork(in_the_child)
        assert told == {"held": 1, "stopped": True, "code": 200, "other": True, "ended": True}
        assert lives()
    assert ask(server, "/health").json["jobs"] == 1


def test_a_fork_made_while_the_server_is_busy_does_not_hang(serve: Serve) -> None:
    metrics = WorkerMetrics("worker-1")
    server = serve(metrics.get_basic_health_data)
    done = threading.Event()

    def keep_asking() -> None:
        while not done.is_set():
            ask(server, "/api/state")

    asker = threading.Thread(target=keep_asking)
    asker.start()
    try:
        for _ in range(10):
            assert in_a_fork(lambda: [server.stop_server(), server.port]) == [True, 0]
    finally:
        done.set()
        asker.join(LIMIT)


def test_a_port_that_a_fork_outlives_is_free_for_the_next_server() -> None:
    port = free_port()
    server = HealthServer("worker-1", port, None, dict, host="127.0.0.1")
    server.start_server()
    reading, writing = os.pipe()
    begun, begins = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.write(begins, b"1")
        os.read(reading, 1)  # until the parent closes it
        os._exit(0)
    os.close(reading)
    assert os.read(begun, 1) == b"1"
    os.close(begun)
    os.close(begins)
    try:
        assert server.stop_server()
        with HealthServer("worker-2", port, None, dict, host="127.0.0.1") as next_one:
            assert ask(next_one, "/health").json["instance_id"] == "worker-2"
    except PortUnavailable:
        pytest.fail("the fork holds the port")
    finally:
        os.close(writing)
        os.waitpid(child, 0)
