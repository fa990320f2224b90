"""What clients do wrong is logged, and no flood of it floods the log."""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
from health_servers import LIMIT, Task, ask
from helpers import Clock, eventually
from waitress import wasyncore

from shared_sync.health_server import HealthServer, wsgi
from shared_sync.health_server.answers import Answers
from shared_sync.health_server.http_log import PERIOD_SECONDS, HttpLog

Serve = Callable[..., HealthServer]


def lines(caplog: pytest.LogCaptureFixture, name: str = "") -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith(name)]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, clock: Clock) -> HttpLog:
    caplog.set_level(logging.INFO)
    return HttpLog(logging.getLogger("waitress"), clock)


def test_of_many_lines_of_a_kind_ever_fewer_are_logged(
    log: HttpLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(486):
        log.info(f"Client disconnected while serving /{number}")
        clock.now += 0.1

    assert lines(caplog) == [
        "Client disconnected while serving /0",
        "Client disconnected while serving /9 (10 lines like this in 1 s, of which few are logged)",
        "Client disconnected while serving /99 "
        "(100 lines like this in 10 s, of which few are logged)",
    ]


def test_after_a_while_a_kind_is_new_again(
    log: HttpLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        log.info("Client disconnected while serving /")
        log.info("Client disconnected while serving /")
        clock.now += PERIOD_SECONDS

    assert lines(caplog) == ["Client disconnected while serving /"] * 2


def test_a_flood_of_one_kind_hides_no_other_and_no_level(
    log: HttpLog, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(99):
        log.info("Client disconnected while serving /")
    log.warning("Client disconnected while serving /")
    log.exception("Exception while serving /")

    assert lines(caplog)[2:] == [
        "Client disconnected while serving /",
        "Exception while serving /",
    ]


def test_a_path_breaks_no_line(log: HttpLog, caplog: pytest.LogCaptureFixture) -> None:
    log.info("Client disconnected while serving /\n2026-01-01 forged %s")

    assert lines(caplog) == ["Client disconnected while serving /\\n2026-01-01 forged %s"]


def test_a_flood_of_clients_that_leave_is_a_few_lines(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = serve()

    def flood() -> None:
        for _ in range(100):
            with socket.create_connection(("127.0.0.1", server.port), LIMIT) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")

    for task in [Task(flood) for _ in range(4)]:
        task.result()
    assert ask(server, "/health/live").code == 200
    assert len(lines(caplog, "waitress")) <= 6


def test_a_flood_of_requests_that_fail_inside_is_a_few_lines(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> Any:
        raise RuntimeError("can't start new thread")

    server = serve()
    monkeypatch.setattr(Answers, "health", fail)

    answers = [ask(server, "/health") for _ in range(50)]
    assert {answer.code for answer in answers} == {500}
    assert answers[0].json["error"] == "Internal Server Error"
    logged = lines(caplog, "shared_sync.health_server.routes")
    assert len(logged) == 2
    assert logged[0] == "Exception on /health [GET]"


def test_without_free_descriptors_the_server_rests_and_goes_on_afterwards(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wsgi, "WAIT_SECONDS", 0.01)
    tries = 0
    accept = wasyncore.dispatcher.accept

    def refuse(listener: Any) -> Any:
        nonlocal tries
        tries += 1
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    server = serve()
    assert ask(server, "/health/live").code == 200
    monkeypatch.setattr(wasyncore.dispatcher, "accept", refuse)
    client = Task(lambda: ask(server, "/health/live"))
    eventually(lambda: tries >= 2)
    tried = tries
    monkeypatch.setattr(wasyncore.dispatcher, "accept", accept)

    assert client.result().code == 200
    assert tried < 20, "it tries again and again without a pause"
    assert len(lines(caplog, "waitress")) == 1
