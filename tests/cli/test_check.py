"""python -m shared_sync.health check, against good pages, bad pages and no pages."""

from __future__ import annotations

import ast
import json
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from helpers import Gate, free_port

from shared_sync import HealthServer
from shared_sync.cli.check import LONGEST_LINE, read_address
from shared_sync.cli.http_client import Answer, get
from shared_sync.health import main

TOKEN = "s3cret-t0ken"


def check(*arguments: str, **environment: str) -> tuple[int, str]:
    """The exit status and the one line of the command."""
    done = run("shared_sync.health", "check", *arguments, **environment)
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    assert done.stdout == f"{line}\n"
    return done.returncode, line


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if name[:6] != "HEALTH"}
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=plain | environment,
    )


@contextmanager
def page(
    answer: bytes | Callable[[socket.socket], None], asked: list[bytes] | None = None
) -> Iterator[str]:
    """A server that answers each connection like this and notes what it is asked; its address."""
    asked = [] if asked is None else asked

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    asked.append(connection.recv(65536))
                    if isinstance(answer, bytes):
                        connection.sendall(answer)
                    else:
                        answer(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def response(body: bytes | dict[str, object], status: str = "200 OK", head: str = "") -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + content


def line_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The same as `check()`, in this process."""
    status = main(["check", *arguments])
    printed = capsys.readouterr()
    assert (printed.err, printed.out.count("\n"), printed.out[-1:]) == ("", 1, "\n")
    assert printed.out[:-1].isprintable()
    assert printed.out.isascii()
    return status, printed.out[:-1]


# --- a real health server -----------------------------------------------------------------------


@contextmanager
def served(data: dict[str, object], **options: object) -> Iterator[str]:
    with HealthServer("stt-1", 0, None, lambda: data, host="127.0.0.1", **options) as server:  # type: ignore[arg-type]
        yield server.url


def test_a_healthy_server_is_0_and_one_that_is_not_is_1_with_the_reasons() -> None:
    with served({"redis_connected": True}) as url:
        assert check(url) == (0, "healthy: stt-1")
    with served({"redis_connected": False, "reasons": ["no model"]}) as url:
        assert check(url) == (1, "unhealthy (500): stt-1: redis_connected is false; no model")
    with served({"status": "degraded", "reasons": ["slow"]}) as url:
        assert check(url) == (0, "degraded: stt-1: slow")


def test_without_a_url_the_environment_names_the_port() -> None:
    with served({}) as url:
        assert check(HEALTH_PORT=url.rpartition(":")[2]) == (0, "healthy: stt-1")


def test_a_path_of_its_own_is_asked_as_it_is() -> None:
    with served({}) as url:
        assert check(f"{url}/metrics")[0] == 0
        status, line = check(f"{url}/nothing/here")
        assert status == 1
        assert line == f"not found (404): {url}/nothing/here has no such page; check the path"


# --- addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "probe", "asked"),
    [
        ("http://h:81", None, "/health"),
        ("http://h:81/", "live", "/health/live"),
        ("http://h:81", "ready", "/health/ready"),
        ("http://h:81", "startup", "/health/startup"),
        ("http://h:81/a/b?c=d", None, "/a/b?c=d"),
        ("http://h:81?c=d", None, "/health?c=d"),
    ],
)
def test_a_url_without_a_path_gets_that_of_the_probe(
    url: str, probe: str | None, asked: str
) -> None:
    address = read_address(url, probe)
    assert (address.host, address.port, address.path) == ("h", 81, asked)
    assert "c=d" not in address.shown


def test_ports_and_ipv6_addresses_are_understood() -> None:
    assert read_address("http://h", None).port == 80
    assert read_address("https://h", None)[:3] == (True, "h", 443)
    assert read_address("http://[::1]:81", None).host_header == "[::1]:81"


@pytest.mark.parametrize(
    ("arguments", "environment", "remedy"),
    [
        (["127.0.0.1:8080"], {}, "write http://host:port"),
        (["ftp://h"], {}, "write http://host:port"),
        (["http://h:99999"], {}, "write http://host:port"),
        (["http://h/a\r\nX: y"], {}, "write http://host:port"),
        (["http://h/ö"], {}, "write http://host:port"),
        (["http://me:s3cret@h/"], {}, "--token-file"),
        (["http://h/path", "--live"], {}, "leave one of them out"),
        (["--live", "--ready"], {}, "not allowed with"),
        (["--timeout", "0"], {}, "from 0.001 to 3600"),
        (["--timeout", "nan"], {}, "from 0.001 to 3600"),
        (["--timeout", "soon"], {}, "from 0.001 to 3600"),
        (["--nonsense"], {}, "--help"),
        (["--token-file", "/nowhere/x"], {}, "No such file"),
        (["--token=s3cret"], {}, "--token-file"),
        ([], {"HEALTH_PORT": "eighty"}, "1 to 65535"),
        ([], {"HEALTH_PORT": "0"}, "1 to 65535"),
        ([], {"HEALTH_TOKEN": "s3cret two"}, "without spaces"),
    ],
)
def test_what_cannot_work_is_one_line_with_the_remedy_and_no_secret(
    arguments: list[str],
    environment: dict[str, str],
    remedy: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("HEALTH_PORT", "HEALTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["check", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert remedy in line
    assert "s3cret" not in line


def test_the_address_of_a_service_of_kubernetes_is_no_port(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEALTH_PORT", "tcp://10.0.0.1:80")
    assert read_address(None, None).port == 8080
    assert "Kubernetes sets HEALTH_PORT" in capsys.readouterr().err


# --- the token ----------------------------------------------------------------------------------


def test_the_token_goes_along_from_the_environment_or_a_file_and_is_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sent: list[bytes] = []
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    with page(response({"instance_id": "a"}), sent) as url:
        monkeypatch.setenv("HEALTH_TOKEN", "another")
        assert line_of(capsys, url, "--token-file", str(file)) == (0, "healthy: a")
        monkeypatch.setenv("HEALTH_TOKEN", TOKEN)
        assert line_of(capsys, url) == (0, "healthy: a")
        monkeypatch.delenv("HEALTH_TOKEN")
        assert line_of(capsys, url) == (0, "healthy: a")
    has_token = [b"Authorization: Bearer " + TOKEN.encode() in request for request in sent]
    assert has_token == [True, True, False]


def test_a_page_that_wants_a_token_says_how_to_give_one(capsys: pytest.CaptureFixture[str]) -> None:
    with page(response({"error": "no"}, "401 Unauthorized")) as url:
        status, line = line_of(capsys, url)
    assert status == 1
    assert line == f"refused (401): {url}/health wants a token; HEALTH_TOKEN or --token-file"


# --- servers that are slow, broken or hostile -------------------------------------------------


def test_nobody_listening_is_reported_with_the_remedy() -> None:
    status, line = check(f"http://127.0.0.1:{free_port()}")
    assert status == 1
    assert line.startswith("no answer from http://127.0.0.1:")
    assert "nothing listens there; start the health server" in line


def test_a_server_that_never_answers_costs_the_timeout_and_no_more() -> None:
    gate = Gate()
    with page(gate) as url:
        status, line = check(url, "--timeout", "0.2")
        gate.opened.set()
    assert status == 1
    assert line.startswith(f"no answer from {url}/health within 0.2 s; the process hangs")


def test_one_that_drips_does_not_hold_it_beyond_the_timeout() -> None:
    stop = threading.Event()
    dripped: list[int] = []

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while not stop.wait(0.02):
            connection.sendall(b"x")
            dripped.append(1)

    with page(drip) as url:
        status, line = check(url, "--timeout", "0.5")
        stop.set()
    assert status == 1
    assert "within 0.5 s" in line
    assert len(dripped) > 1


def test_one_that_never_stops_talking_is_not_heard_out(capsys: pytest.CaptureFixture[str]) -> None:
    def talk(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65536)

    with page(talk) as url:
        assert line_of(capsys, url, "--timeout", "20") == (0, f"healthy: {url}/health")


def test_an_answer_is_whole_when_it_is_as_long_as_it_says() -> None:
    gate = Gate()

    def answer_and_stay(connection: socket.socket) -> None:
        body = b'{"status": "healthy"}'
        connection.sendall(response(body, head=f"Content-Length: {len(body)}\r\n"))
        gate()

    with page(answer_and_stay) as url:
        answer = get(read_address(url, None), None, 20)
        gate.opened.set()
    assert answer == Answer(200, b'{"status": "healthy"}')


def test_a_redirect_is_not_followed(capsys: pytest.CaptureFixture[str]) -> None:
    with page(response(b"", "302 Found", "Location: http://127.0.0.1:1/\r\n")) as url:
        status, line = line_of(capsys, url)
    assert status == 1
    assert line.startswith("redirected (302)")
    assert "ask the final URL" in line


@pytest.mark.parametrize("said", [b"", b"+PONG\r\n", b"HTTP/1.1", b"HTTP/1.1 2x0 OK\r\n\r\n"])
def test_what_does_not_speak_http_is_named(said: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    with page(said) as url:
        status, line = line_of(capsys, url)
    assert status == 1
    assert "does not speak HTTP" in line


@pytest.mark.parametrize(
    ("body", "printed"),
    [
        (b"", "healthy: {url}"),
        (b"<html>", "healthy: {url}"),
        (b"[1]", "healthy: {url}"),
        (b"[" * 100_000, "healthy: {url}"),
        (b'{"status": 1, "instance_id": [], "reasons": {}}', "healthy: {url}"),
        (b'{"status": "healthy", "instance_id": "a\\u001b[2J\\nb"}', "healthy: a [2J b"),
        (b'{"status": "healthy", "instance_id": "\\ud800\\u202eb"}', "healthy:   b"),
        ('{"status": "healthy", "instance_id": "größe"}'.encode(), r"healthy: gr\xf6\xdfe"),
        (b'{"status": "healthy", "instance_id": "a", "reasons": [1, {}]}', "healthy: a: 1; {{}}"),
    ],
)
def test_whatever_the_server_says_becomes_one_harmless_line(
    body: bytes, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with page(response(body)) as url:
        assert line_of(capsys, url) == (0, printed.format(url=f"{url}/health"))


def test_a_long_answer_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    with page(response({"instance_id": "a", "reasons": ["x" * 5000]}, "503 No")) as url:
        status, line = line_of(capsys, url)
    assert status == 1
    assert line.startswith("unhealthy (503): a: xxx")
    assert len(line) == LONGEST_LINE


def test_a_bad_status_is_never_called_healthy(capsys: pytest.CaptureFixture[str]) -> None:
    with page(response({"instance_id": "a", "status": "healthy"}, "503 No")) as url:
        assert line_of(capsys, url) == (1, "unhealthy (503): a")


def test_a_name_that_has_no_address_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    status, line = line_of(capsys, "http://no-such-host.invalid:1", "--timeout", "20")
    assert status == 1
    assert "check its name" in line or "within 20 s" in line


def test_tls_that_is_not_there_is_no_answer(capsys: pytest.CaptureFixture[str]) -> None:
    with page(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url:
        status, line = line_of(capsys, url.replace("http:", "https:"))
    assert status == 1
    assert line.startswith("no answer from https://127.0.0.1")


# --- what it costs ------------------------------------------------------------------------------


def test_it_loads_nothing_heavy() -> None:
    with page(response({"instance_id": "a"})) as url:
        code = (
            "import sys; from shared_sync import health; "
            f"health.main(['check', {url!r}]); "
            "print(sorted({name.partition('.')[0] for name in sys.modules}))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
        )
    printed, loaded = done.stdout.splitlines()
    assert printed == "healthy: a"
    heavy = {"flask", "redis", "waitress", "werkzeug", "prometheus_client", "psutil", "ssl"}
    heavy |= {"http", "email", "logging", "asyncio"}
    assert not heavy & set(ast.literal_eval(loaded))


def test_it_costs_little_cpu() -> None:
    """What the interpreter itself takes included, which is about half of it."""
    with page(response({"instance_id": "a"})) as url:
        seconds = min(cpu_seconds_of_a_check(url) for _ in range(5))
    print(f"a check takes {1000 * seconds:.0f} ms of CPU")
    assert seconds < 0.15


def cpu_seconds_of_a_check(url: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert check(url) == (0, "healthy: a")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
