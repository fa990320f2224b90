"""Which answers are compressed, and that a compressed one is the same answer."""

from __future__ import annotations

import gzip
import http.client
from contextlib import closing
from typing import Any

import pytest
from health_servers import LIMIT
from helpers import Clock, eventually
from registries import StillResources, registry

from shared_sync.health_server import HealthServer, compression
from shared_sync.health_server.compression import Body

PROMETHEUS_3 = "gzip"  # what it sends as Accept-Encoding
BROWSER = "gzip, deflate, br, zstd"
LARGE = {"text": "a sentence that repeats itself; " * 100}


def ask(
    server: HealthServer, path: str, accepts: str | None, method: str = "GET", **headers: str
) -> tuple[http.client.HTTPMessage, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT)) as client:
        client.putrequest(method, path, skip_accept_encoding=True)
        if accepts is not None:
            headers["Accept-Encoding"] = accepts
        for name, value in headers.items():
            client.putheader(name, value)
        client.endheaders()
        answer = client.getresponse()
        return answer.headers, answer.read()


@pytest.fixture
def server(serve: Any) -> HealthServer:
    metrics = registry("worker-1", Clock(), StillResources())
    for name in ("processing_latency", "transcription_time", "model_inference_time"):
        metrics.record_duration(name, 0.25)
    made: HealthServer = serve(lambda: LARGE, metrics=metrics)
    eventually(lambda: b"sentence" in ask(made, "/health", None)[1])
    return made


@pytest.mark.parametrize("accepts", [PROMETHEUS_3, BROWSER])
@pytest.mark.parametrize(
    "path",
    [
        *("/health", "/metrics/prometheus", "/metrics?format=openmetrics", "/metrics"),
        *("/api/state", "/dashboard/app.js"),
    ],
)
def test_a_large_answer_is_compressed_for_who_accepts_it(
    server: HealthServer, path: str, accepts: str
) -> None:
    plain_headers, plain = ask(server, path, None)
    headers, body = ask(server, path, accepts)

    assert (headers["Content-Encoding"], plain_headers["Content-Encoding"]) == ("gzip", None)
    assert len(body) == int(headers["Content-Length"]) < len(plain) / 2
    assert headers["Content-Type"] == plain_headers["Content-Type"]
    assert "Accept-Encoding" in headers["Vary"]
    assert headers["Vary"] == plain_headers["Vary"]
    unpacked = gzip.decompress(body)
    if path == "/dashboard/app.js":
        assert unpacked == plain
    assert unpacked[:20] == plain[:20]


def test_the_format_varies_too(server: HealthServer) -> None:
    headers, _ = ask(server, "/metrics", "gzip")

    assert headers.get_all("Vary") == ["Accept, Accept-Encoding"]


def test_head_is_get_without_the_body(server: HealthServer) -> None:
    head, nothing = ask(server, "/dashboard/app.js", "gzip", "HEAD")
    get, body = ask(server, "/dashboard/app.js", "gzip")

    assert nothing == b""
    assert head["Content-Encoding"] == "gzip"
    assert head["Content-Length"] == get["Content-Length"] == str(len(body))


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/nowhere"])
def test_probes_and_other_small_answers_stay_as_they_are(server: HealthServer, path: str) -> None:
    headers, body = ask(server, path, BROWSER)

    assert headers["Content-Encoding"] is None
    assert body.startswith(b"{")


def test_a_small_answer_is_compressed_for_who_refuses_a_plain_one(server: HealthServer) -> None:
    headers, body = ask(server, "/health/live", "gzip, identity;q=0")

    assert headers["Content-Encoding"] == "gzip"
    assert b'"probe": "live"' in gzip.decompress(body)


def test_a_body_that_requests_share_is_compressed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(
        compression.gzip, "compress", lambda data, *_, **__: calls.append(1) or data[:1]
    )
    body = Body(b"x" * 5000)

    assert [body.compressed for _ in range(3)] == [b"x"] * 3
    assert calls == [1]
