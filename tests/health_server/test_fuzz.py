"""A running HealthServer, and whatever bytes a stranger may send it.

Requests of every odd kind over real sockets. Whole ones must be answered or end in a clean close;
half and broken ones may be left hanging. Nothing may show a traceback, a path or a secret, take
the server down, or let in who does not have the token.

`FUZZ_EXAMPLES=5000 pytest tests/health_server/test_fuzz.py` tries that many.
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import pytest
from helpers import Clock, ask, eventually
from hypothesis import HealthCheck, example, given, note, settings
from hypothesis import strategies as st
from registries import StillResources, registry

from shared_sync import HealthServer

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "250"))
LIMIT_SECONDS = 10.0
SILENCE_SECONDS = 0.02
"""So long a client that sent something broken waits for an answer, which need not come."""

TOKEN = "let-me-in"
TOKENS = (b"Authorization: Bearer let-me-in", b"authorization:bearer   let-me-in ")
FIGURE = "figure_behind_the_token"
SECRET = "/srv/secret/model.bin"
NEVER = (b"Traceback", b'File "', b".py", b"site-packages", b"root:x:", SECRET.encode())

WAITRESS_ANSWERS = {400, 413, 431, 501}
"""What waitress answers by itself, as text: no HTTP, not one valid host, too long a body or head, a
transfer coding other than chunked."""

OUR_HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}

FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


# --- what is sent -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """A request that is framed well enough for its end to be found."""

    method: bytes
    target: bytes
    version: bytes
    headers: tuple[bytes, ...]
    body: bytes = b""

    def __bytes__(self) -> bytes:
        first = b" ".join(part for part in (self.method, self.target, self.version) if part)
        return b"\r\n".join([first, *self.headers, b"", b""]) + self.body

    @property
    def has_token(self) -> bool:
        return any(header in TOKENS for header in self.headers)


def chosen(*texts: bytes) -> st.SearchStrategy[bytes]:
    return st.sampled_from(texts)


METHODS = chosen(
    *(b"GET", b"GET", b"GET", b"GET", b"HEAD", b"OPTIONS", b"POST", b"PUT", b"DELETE", b"PATCH"),
    *(b"TRACE", b"CONNECT", b"PROPFIND", b"A" * 300),
)
VERSIONS = chosen(b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9.9", b"")
NO_METHODS = chosen(b"get", b"G\x00T", b"", b"PRI")
NO_VERSIONS = chosen(b"HTTP/1", b"http/1.1", b"junk", b"HTTP/1.1 ")
PLACES = chosen(
    *(b"/", b"/health", b"/health/live", b"/health/ready", b"/health/startup", b"/metrics"),
    *(b"/metrics/prometheus", b"/api/state", b"/api/history", b"/dashboard/app.js"),
    *(b"/dashboard/style.css", b"/dashboard/index.html"),
)
SEGMENTS = chosen(
    *(b"health", b"live", b"dashboard", b"app.js", b"metrics", b"api", b"history", b"etc"),
    *(b"passwd", b"..", b".", b"%2e%2e", b"..%2f..%2fetc%2fpasswd", b"..%5c", b"%00", b"%", b"%zz"),
    *(b"%ff%fe", b"%e2%80%ae", b"\xc3\xa9", b"\xff", b";a=b", b"~root", b"*", b"%0d%0aX: y", b""),
    *(b"{0.__class__}", b"%s%n", b"<script>", b"x" * 2000),
)
TARGETS = st.one_of(
    PLACES,
    PLACES,
    st.builds(lambda place, more: place + b"/" + more, PLACES, SEGMENTS),
    st.lists(SEGMENTS, max_size=6).map(lambda parts: b"/" + b"/".join(parts)),
    chosen(
        *(
            b"*",
            b"http://x/health",
            b"http://[/health",
            b"//health",
            b"x:80",
            b"health",
            b"?",
            b"#",
        ),
        *(
            b"http://[::1]/metrics",
            b"/health#x",
            b"///",
            b"file:///etc/passwd",
            b"http://",
            b"/" * 99,
        ),
    ),
)
QUERIES = st.one_of(
    st.just(b""),
    st.just(b""),
    st.lists(
        chosen(
            *(
                b"format=json",
                b"format=prometheus",
                b"format=openmetrics",
                b"format=",
                b"format=xml",
            ),
            *(b"since=0", b"since=-1", b"since=1e9", b"since=" + b"9" * 400, b"since=%00"),
            *(b"since=%d9%a3", b"figure=jobs_processed", b"figure=", b"figure=%ff", b"figure"),
            *(b"", b"=", b"%", b"a" * 500, b"format=%0d%0aX-Y: z", b"format[]=json"),
        ),
        max_size=6,
    ).map(lambda parts: b"?" + b"&".join(parts)),
    st.integers(1, 900).map(lambda times: b"?" + b"figure=a&" * times),
)
ACCEPTS = chosen(
    *(b"*/*", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", b"text/plain"),
    b"application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    b"text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
    *(b"application/json;q=0", b"image/png", b"", b",", b'text/plain;q="', b"text/plain;q=nan"),
    *(b"*/*," * 2000, b'"\\' * 3000, b";" * 9000, b"\xff\xfe", b"text/html;" * 900),
)
HEADERS = st.one_of(
    ACCEPTS.map(lambda accept: b"Accept: " + accept),
    chosen(
        *(b"Bearer wrong", b"Bearer", b"Bearer ", b"Basic bGV0LW1lLWlu", TOKEN.encode(), b"\xff"),
        *(b"Digest a=b", b"Bearer " + b"x" * 9000, b"Bearer \xc3\xa9", b"Bearer let-me-i"),
    ).map(lambda value: b"authorization:" + value),
    chosen(
        *(
            b"Host: ",
            b"Host: a b",
            b"Host: 127.0.0.1",
            b"Host: [",
        ),
        *(b"Connection: keep-alive", b"Connection: upgrade, x", b"Upgrade: h2c", b"Te: trailers"),
        *(
            b"Expect: 100-continue",
            b"Expect: 200-ok",
            b"Origin: null",
            b"Origin: https://evil.example",
        ),
        *(
            b"Access-Control-Request-Method: DELETE",
            b"Access-Control-Request-Headers: Authorization",
        ),
        *(b"Cookie: a=b; ;=;", b"Cookie: " + b"a=b;" * 2000, b"Range: bytes=0-1", b"Range: x"),
        *(b'If-None-Match: "x"', b"If-Modified-Since: never", b"X-Forwarded-Host: evil.example"),
        *(b"X-Forwarded-For: 1.2.3.4", b"X-HTTP-Method-Override: DELETE", b"Content-Type: text/x"),
        *(b"Content-Type: multipart/form-data; boundary=" + b"-" * 300, b"Accept-Encoding: gzip"),
        *(b"X_Under: score", b"X: a\r\n folded", b"X: \x85"),
    ),
)
HOSTS = chosen(
    *(b"Host: 127.0.0.1", b"host:localhost:80", b"Host: x:99999", b"Host: [::1]:1"),
    *(b"Host: evil.example", b"Host: \xff", b"Host: x" + b".y" * 999),
)
NO_HEADERS = chosen(
    *(b" leading", b"no colon", b": no name", b"A : b", b"X: \x00\x01", b"X: a\nb: c", b"X: a\rb"),
    *(b"Connection: close", b"X: " + b"x" * 17_000, b"Content-Length: 65537"),
    *(b"Transfer-Encoding: gzip", b"Transfer-Encoding: gzip, chunked", b"Content-Length: \xb2"),
    *(b"Content-Length: -1", b"Content-Length: +1", b"Content-Length: 1 1"),
    *(b"Content-Length: " + b"9" * 30, b"Content-Length: " + b"9" * 5000),
)
"""After which a server must not go on with the connection."""

BODIES = chosen(
    *(b"{}", b"a=b&c", b"\x00" * 100, b"x" * 20_000, b"GET /health HTTP/1.1\r\n\r\n", b"\r\n\r\n"),
)
CHUNKED = st.lists(BODIES, max_size=3).map(
    lambda parts: b"".join(b"%x;a=b\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    method, version = draw(METHODS), draw(VERSIONS)
    target = draw(TARGETS) + draw(QUERIES)
    headers = draw(st.lists(HEADERS, max_size=4))
    headers += draw(st.lists(HOSTS, min_size=0 if version == b"HTTP/1.0" else 1, max_size=1))
    headers += draw(st.sampled_from([[], [], [TOKENS[0]], [TOKENS[1]]]))
    body = b""
    framing = draw(st.sampled_from(["none", "none", "length", "chunks"]))
    if framing == "length":
        body = draw(BODIES)
        headers.append(b"Content-Length: %d" % len(body))
    elif framing == "chunks" and version == b"HTTP/1.1":
        body = draw(CHUNKED)
        headers.append(b"Transfer-Encoding: chunked")
    fault = draw(st.sampled_from([*["none"] * 12, "method", "version", "header"]))
    if fault == "method":
        method = draw(NO_METHODS)
    elif fault == "version":
        version = draw(NO_VERSIONS)
    elif fault == "header":
        headers.append(draw(NO_HEADERS))
    return Request(method, target, version, tuple(headers), body)


LAST = Request(b"GET", b"/health/live", b"HTTP/1.1", (b"Host: x", b"Connection: close"))


@st.composite
def broken(draw: st.DrawFn) -> list[bytes]:
    """Bytes that once were requests, in the pieces in which they are sent."""
    sent = b"".join(map(bytes, draw(st.lists(requests(), min_size=1, max_size=2))))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(sent)))
        gone = draw(st.sampled_from([0, 0, 1, 2, 40, len(sent)]))
        new = draw(st.binary(max_size=6) | chosen(b"\r\n", b"\r\n\r\n", b" ", b"\n", b"\x00", b":"))
        sent = sent[:at] + new + sent[at + gone :]
    cuts = sorted(draw(st.lists(st.integers(0, len(sent)), max_size=3)))
    return [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]


# --- what comes back --------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    code: int
    headers: dict[str, str]
    body: bytes

    @property
    def is_waitress(self) -> bool:
        return self.headers.get("content-type") == "text/plain; charset=utf-8"

    @property
    def json(self) -> Any:
        return json.loads(self.body, parse_constant=pytest.fail)


def read_reply(data: bytes, method: bytes) -> tuple[Reply, bytes]:
    """The first reply, and what follows it; interim ones are passed over."""
    head, end, rest = data.partition(b"\r\n\r\n")
    assert end, f"a reply that ends within its head: {data[:200]!r}"
    first, *lines = head.split(b"\r\n")
    version, code, _ = first.split(b" ", 2)
    assert version in (b"HTTP/1.0", b"HTTP/1.1")
    if code == b"100":
        return read_reply(rest, method)
    headers = dict(line.decode("latin-1").split(": ", 1) for line in lines)
    reply = Reply(int(code), {name.lower(): value for name, value in headers.items()}, b"")
    assert len(headers) == len(lines) or reply.is_waitress, "a header that comes twice"
    # Waitress sends the text of an error to HEAD too; it closes the connection after it.
    length = 0 if method == b"HEAD" and not reply.is_waitress else int(headers["Content-Length"])
    assert len(rest) >= length, "a reply that ends within its body"
    body = rest[:length]
    if body and headers.get("Content-Encoding") == "gzip":
        body = gzip.decompress(body)
        assert not any(text in body for text in NEVER)
    return Reply(reply.code, reply.headers, body), rest[length:]


def check_reply(reply: Reply, request: Request, *, well: bool) -> None:
    """That it is one of those which are promised."""
    told = reply.headers.get("content-type", "")
    assert "server" not in reply.headers
    assert reply.headers.items() >= OUR_HEADERS.items()
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    if reply.is_waitress:
        assert reply.code in WAITRESS_ANSWERS
        return
    assert reply.code in (200, 400, 404, 405, 421) or not well
    assert reply.code in (200, 400, 401, 404, 405, 421, 500, 503)
    if FIGURE.encode() in reply.body:
        assert well or request.has_token
    if request.method == b"HEAD" or (request.method == b"OPTIONS" and reply.code == 200):
        assert not reply.body
        return
    if reply.code != 200 or told == "application/json":
        body = reply.json
        assert told == "application/json"
        assert body.get("instance_id") == "fuzzed" or "run" in body
        if reply.code in (500, 503):
            assert body["status"] == "unhealthy"
            assert ("probe" in body) == (reply.code == 503)
        elif reply.code != 200:
            assert set(body) == {"instance_id", "error"}
    else:
        assert told.startswith(("text/", "application/openmetrics-text"))


def exchange(port: int, pieces: Sequence[bytes], silence: float | None) -> tuple[bytes, bool]:
    """Send this, and return what came back and whether the connection was reset.

    Reads until the server closes; or, if it may keep waiting for more, until it has been silent for
    so many seconds.
    """
    received = []
    with socket.create_connection(("127.0.0.1", port), LIMIT_SECONDS) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A server that has already refused and closed may reset what is still being sent.
        with suppress(BrokenPipeError, ConnectionResetError):
            for piece in pieces:
                client.sendall(piece)
        client.settimeout(silence or LIMIT_SECONDS)
        try:
            while data := client.recv(65536):
                received.append(data)
        except ConnectionResetError:
            return b"".join(received), True
        except TimeoutError:
            assert silence, "neither an answer nor a close"
    return b"".join(received), False


# --- the servers ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def complaints() -> Iterator[list[str]]:
    """What waitress and Flask log as errors: all that they did not expect."""
    found: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(self.format(record))

    listener = Listener(logging.ERROR)
    logging.getLogger().addHandler(listener)
    yield found
    logging.getLogger().removeHandler(listener)


@pytest.fixture(scope="module")
def ports(complaints: list[str]) -> Iterator[dict[str, int]]:
    """A server that is well and open to all, and one that is neither."""
    metrics = registry("fuzzed", Clock(), StillResources())
    metrics.increment_counter("jobs_processed", 3)
    metrics.record_duration("processing_latency", 0.25)
    figures = {FIGURE: 1, "details": {"model": SECRET}}

    def fail() -> None:
        raise RuntimeError(SECRET)

    with ExitStack() as stack:
        well = HealthServer(
            "fuzzed", 0, None, lambda: figures, metrics.get_metrics_data, host="127.0.0.1"
        )
        ill = HealthServer(
            *("fuzzed", 0, None, lambda: {**figures, "live": False, "redis_connected": False}),
            *(metrics.get_metrics_data,),
            host="127.0.0.1",
            token=TOKEN,
        )
        ill.add_check("model", fail, startup=True)
        for server, code in ((well, 200), (ill, 503)):
            stack.enter_context(server)
            eventually(lambda: ask(f"{server.url}/health/live")[0] == code)  # noqa: B023
        yield {"well": well.port, "ill": ill.port}


STATES = st.sampled_from(["well", "ill"])


def check_lives(port: int, *, well: bool) -> None:
    data, _ = exchange(port, [bytes(LAST)], None)
    reply, rest = read_reply(data, b"GET")
    assert (reply.code, rest) == (200 if well else 503, b"")


# --- the tests --------------------------------------------------------------------------------


@given(state=STATES, sent=st.lists(requests(), min_size=1, max_size=4))
@example(state="well", sent=[Request(b"GET", b"http://[/health", b"HTTP/1.1", ())])
@example(
    state="ill", sent=[Request(b"GET", b"/", b"HTTP/1.1", (b"Content-Length: " + b"9" * 5000,))]
)
@example(state="ill", sent=[Request(b"GET", b"/health", b"HTTP/1.1", (TOKENS[1],))])
@example(state="well", sent=[Request(b"GET", b"/", b"HTTP/1.1", (b"Expect: 100-continue",))])
@example(state="well", sent=[Request(b"HEAD", b"/?a=b c", b"HTTP/1.1", ())])
@example(
    state="well",
    sent=[Request(b"GET", b"/metrics", b"HTTP/1.1", (b"Host: x", b"Accept-Encoding: gzip"))],
)
@FUZZ
def test_every_whole_request_is_answered_as_promised_or_the_connection_is_closed(
    ports: dict[str, int], complaints: list[str], state: str, sent: list[Request]
) -> None:
    complaints.clear()
    well, port = state == "well", ports[state]
    data, was_reset = exchange(port, [b"".join(map(bytes, [*sent, LAST]))], None)
    note(f"came back: {data!r}")
    assert not any(text in data for text in NEVER)
    for request in [*sent, LAST]:
        if not data or was_reset:
            break
        reply, data = read_reply(data, request.method)
        check_reply(reply, request, well=well)
    assert not data or was_reset, "more replies than requests"
    check_lives(port, well=well)
    assert complaints == []


@given(state=STATES, pieces=broken())
@FUZZ
def test_broken_and_half_requests_do_no_harm(
    ports: dict[str, int], complaints: list[str], state: str, pieces: list[bytes]
) -> None:
    complaints.clear()
    data, _ = exchange(ports[state], pieces, SILENCE_SECONDS)
    note(f"came back: {data!r}")
    assert not data or data.startswith((b"HTTP/1.0 ", b"HTTP/1.1 "))
    assert not any(text in data for text in NEVER)
    check_lives(ports[state], well=state == "well")
    assert complaints == []
