"""HealthServer: answers /health, probes, /metrics and a dashboard while the program works.

Flask makes the answers, waitress serves them from background threads. This module is the face that
HTTP sees; what is told is known to the board behind it.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.resources import files
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map
from werkzeug.wrappers import Response as BaseResponse

from shared_sync.common import arguments
from shared_sync.common.guarded import GuardedLogger
from shared_sync.errors import ConfigurationError
from shared_sync.health_server import content_negotiation, wsgi
from shared_sync.health_server.check_result import Check
from shared_sync.health_server.content_negotiation import Format
from shared_sync.health_server.payload import HEALTHY, UNHEALTHY
from shared_sync.health_server.state import (
    CALLBACK_TIMEOUT_SECONDS,
    GIVE_UP_SECONDS,
    VIEW_TIMEOUT_SECONDS,
    Board,
    Busy,
    CallFailed,
    View,
)
from shared_sync.health_server.wsgi import Serving

if TYPE_CHECKING:
    from shared_sync.health_server.pollers import Logger, Pollers

    Data = Mapping[str, Any]

PROBES: Final = ("live", "ready", "startup")
_METHODS: Final = "GET, HEAD, OPTIONS"
_ENDPOINTS: Final = (
    "/health",
    *(f"/health/{probe}" for probe in PROBES),
    "/metrics",
    "/metrics/prometheus",
    "/api/state",
    "/api/history",
)
_PAGE: Final = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    **dict.fromkeys(
        ("app.js", "charts.js", "document.js", "figures.js", "history.js", "queue.js"),
        "text/javascript; charset=utf-8",
    ),
}
_PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_DATA_POLICY: Final = "default-src 'none'; frame-ancestors 'none'"
_OPEN: Final = frozenset({"index", "page", *PROBES})
"""What is answered without the token: the probes, and the page's files, which hold no data."""


class HealthServer:
    """Answers probes, health, metrics and a dashboard over HTTP, from background threads.

        with HealthServer(
            "stt-1", 8081, logger, consumer.get_health_data, metrics.get_metrics_data
        ) as server:
            server.add_check("model", lambda: model.loaded, startup=True)
            consumer.start_consuming()

    `/health` answers `status`, `instance_id`, `timestamp` and the data of `get_health_data`:
    "healthy" or "degraded" with 200, "unhealthy" with 500, and `reasons` unless it is healthy.
    `/health/live`, `/health/ready` and `/health/startup` answer 200 or 503. `/metrics` answers
    the data of `get_metrics_data` as JSON, or for Prometheus where the Accept header or
    `?format=` asks for that. `/` is the dashboard.

    **What a check returns**: True or None when all is well, False when not, or a mapping of
    figures, as `get_health_data` does, in which some keys have a meaning:

    - `status` is "healthy", "degraded" or "unhealthy"; another word counts as degraded;
    - `reasons` is a list of texts;
    - `live`, `ready` and `started` are False when the probe of that name shall be answered badly;
    - `details` is only shown by a server that was made with `details=True`;
    - a key of `critical` that is False makes it unhealthy whatever `status` says.

    One that raises, hangs or returns something else is unhealthy; the log has the traceback once,
    and again when the error changes. Numbers that JSON does not have become null.

    **Nobody waits for them.** Each is called from a thread of its own, never twice at a time, on
    its period; `/health` and `/metrics` have their callback called anew and wait for that a
    quarter of a second, and 2 s. Probes are answered from what the last calls gave. The time limit
    of a call counts only while the interpreter runs: a C extension that holds its lock for a minute
    makes nothing late.

    **Live** is what a check registered with `liveness=True`, or the key `live`, says; where none
    says anything, it is whether this process answers. **Ready** is when everything is loaded, no
    check of readiness is unhealthy or unknown and nobody drains. **Startup** is answered well once
    everything was loaded, and from then on: `started` and `model_loaded` are not False, and checks
    registered with `startup=True` were well.

    Where `get_metrics_data` is a method of a `WorkerMetrics`, its `render_prometheus` and
    `render_openmetrics` serve Prometheus; numbers of any other function are of unknown type there.
    Where `get_health_data` is a method of a `RedisStreamConsumer`, the dashboard shows its readers
    and its group.

    All methods may be called from any thread. In a forked process the server does not run, and
    may be started anew on another port; it keeps none of the parent's sockets.

    Args:
        instance_id: The name that every answer bears.
        port: Where to listen, 0 for a free port; `port` and `url` tell which.
        logger: Where to log; None for the logger of this module.
        get_health_data: What is told by `/health`.
        get_metrics_data: What is told by `/metrics`, if anything.
        host: The address to listen on. The default lets other machines in, which probes come from.
        critical: Keys of health data that must not be False.
        cors: Origins whose pages may read the answers: "*" for any, several, or None.
        token: If given, everything but the probes and the dashboard's own files asks for
            `Authorization: Bearer <token>`, and probes tell no reasons without it.
        details: Whether to show texts of errors and what data bring as `details`. Passwords in
            URLs are never shown.

    Raises:
        ConfigurationError: An argument that cannot work.
    """

    def __init__(
        self,
        instance_id: str,
        port: int,
        logger: Logger | None = None,
        get_health_data: Callable[[], object] | None = None,
        get_metrics_data: Callable[[], Data] | None = None,
        *,
        host: str = "0.0.0.0",  # noqa: S104 - probes come from other machines
        critical: Iterable[str] = ("redis_connected", "model_loaded"),
        cors: str | Iterable[str] | None = "*",
        token: str | None = None,
        details: bool = False,
    ) -> None:
        if not isinstance(instance_id, str) or not instance_id:
            raise ConfigurationError(f"instance_id must be a text, not {instance_id!r}")
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
            raise ConfigurationError(f"port must be an int from 0 to 65535, not {port!r}")
        if not isinstance(host, str) or not host:
            raise ConfigurationError(f"host must be a name or an address, not {host!r}")
        if not callable(get_health_data):
            raise ConfigurationError(
                "get_health_data must be a function that returns the health figures, "
                f"not {get_health_data!r}; it is the fourth argument, after the logger"
            )
        if get_metrics_data is not None and not callable(get_metrics_data):
            raise ConfigurationError(f"get_metrics_data must be a function: {get_metrics_data!r}")
        if isinstance(critical, str):
            raise ConfigurationError(f"critical must be several keys, such as ({critical!r},)")

        # Fixed after construction.
        self._instance_id = instance_id
        self._host = host
        self._configured_port = port
        self._logger = GuardedLogger(logger or logging.getLogger(__name__))
        self._origins = _origins(cors)
        self._token = _token(token)
        self._board = Board(
            instance_id,
            get_health_data,
            get_metrics_data,
            critical=tuple(critical),
            details=bool(details),
            logger=self._logger,
        )
        self._app = self._make_app()

        # Re-entrant, because a signal handler may stop the server while its thread is in here.
        self._lock = threading.RLock()
        # Guarded by the lock; it stays after its end.
        self._start: _Start | None = None
        self._stopped_early = False
        _servers.add(self)

    @property
    def port(self) -> int:
        """The port of the last start; before the first one, the port that was asked for."""
        with self._lock:
            return self._start.serving.port if self._start else self._configured_port

    @property
    def url(self) -> str:
        """Where a program on this machine reaches the server, such as http://127.0.0.1:9090."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def add_check(
        self,
        name: str,
        function: Callable[[], object],
        *,
        critical: bool = True,
        liveness: bool = False,
        readiness: bool | None = None,
        startup: bool = False,
        period_seconds: float = 5.0,
        timeout_seconds: float = CALLBACK_TIMEOUT_SECONDS,
    ) -> None:
        """Have something checked in the background from now on, also while the server runs.

        What `function` returns is described above; one that raises or hangs is unhealthy. An
        unhealthy check makes `/health` unhealthy if it is `critical`, and degraded if not.
        `liveness` is for what a restart mends and nothing else does: not live is where the check
        raises, hangs or is unhealthy, but if its data have the key `live`, that decides.
        `readiness` (by default, if it is critical): an unhealthy check lets `/health/ready` answer
        503. `startup`: so does `/health/startup` until it was well once. It is called every
        `period_seconds`, and has failed after `timeout_seconds`.

        Raises `ConfigurationError` for a name in use, and for what cannot work.
        """
        arguments.text("name", name)
        if not callable(function):
            raise ConfigurationError(f"the check {name!r} must be a function, not {function!r}")
        arguments.number("period_seconds", period_seconds, 0.01, 86_400)
        arguments.number("timeout_seconds", timeout_seconds, 0.01, 86_400)
        self._board.add_check(
            Check(
                name,
                function,
                critical=bool(critical),
                liveness=bool(liveness),
                readiness=bool(critical if readiness is None else readiness),
                startup=bool(startup),
                period_seconds=period_seconds,
                timeout_seconds=timeout_seconds,
            )
        )

    def add_view(
        self,
        name: str,
        function: Callable[[], Data],
        *,
        timeout_seconds: float = VIEW_TIMEOUT_SECONDS,
    ) -> None:
        """Have the dashboard show the tables that a function returns.

        It is called from a background thread every 2 s while somebody looks at the page, and may
        ask Redis or whatever else within its time limit.

        Raises `ConfigurationError` for a name in use, and for what cannot work.
        """
        arguments.text("name", name)
        if not callable(function):
            raise ConfigurationError(f"the view {name!r} must be a function, not {function!r}")
        arguments.number("timeout_seconds", timeout_seconds, 0.01, 86_400)
        self._board.add_view(name, View(function, timeout_seconds))

    def drain(self) -> None:
        """Answer `/health/ready` with 503 from now on, until the server is started again.

        For programs that get their work otherwise than through a consumer, on SIGTERM; while a
        consumer drains, its health data say so themselves.
        """
        self._board.drain()

    def start_server(self) -> None:
        """Begin to answer, in background threads. While the server runs, this does nothing.

        Raises `PortUnavailable` here, in the caller's thread, if the port is taken or not allowed.
        """
        with self._lock:
            if self._start and not self._start.serving.ending:
                return
            self._stopped_early = False
            listener = wsgi.listen(self._host, self._configured_port)
            try:
                calls = self._board.start()
            except BaseException:
                listener.close()
                raise
            try:
                serving = Serving(self._app, listener)
            except BaseException:
                self._board.stop(calls)
                calls.join(monotonic() + GIVE_UP_SECONDS)
                raise
            self._start = _Start(serving, calls)
            self._logger.info(
                "%s: health server listens on %s, port %d",
                self._instance_id,
                self._host,
                serving.port,
            )
            if self._stopped_early:  # by a signal handler, in the middle of this
                serving.end()
                self._board.stop(calls)

    def stop_server(self, timeout: float = 5.0) -> bool:
        """Stop listening, let running requests finish, and tell whether everything has ended.

        Waits for at most `timeout` seconds. False means that a callback or a check still runs: its
        thread ends with it, and a later call tells so. Any thread may call this, also before the
        start and twice; called by a callback, it does not wait. The server can be started again,
        also while an old callback still runs.
        """
        deadline = monotonic() + timeout
        with self._lock:
            start = self._start
            self._stopped_early = True
        if start is None:
            return True
        start.serving.end()
        if start.calls.run_here():
            self._board.stop(start.calls)
            return False
        # The requests first: they may wait for a callback, whose end they still tell.
        served = start.serving.join(deadline - monotonic())
        self._board.stop(start.calls)
        ended = start.calls.join(deadline) and served
        if not ended:
            self._logger.warning(
                "%s: health server no longer listens, but a callback still runs; "
                "its thread ends with it",
                self._instance_id,
            )
        return ended

    def __enter__(self) -> HealthServer:
        self.start_server()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop_server()

    def _forked(self) -> None:
        """In a forked process: nothing of the server runs here, and its locks may be held."""
        self._lock = threading.RLock()
        if self._start is not None:
            self._start.serving.close_copies()
            self._start = None
        self._board.forked()

    # --- over HTTP ---

    def _make_app(self) -> Flask:
        app = Flask(__name__, static_folder=None)
        # /health/ is answered too, and nothing with a redirect.
        app.url_map = Map(strict_slashes=False, merge_slashes=False)
        app.add_url_rule("/", "index", self._index)
        app.add_url_rule("/dashboard/<name>", "page", self._page)
        app.add_url_rule("/health", "health", self._health)
        for probe in PROBES:
            app.add_url_rule(f"/health/{probe}", probe, self._probe)
        app.add_url_rule("/metrics", "metrics", self._metrics)
        app.add_url_rule("/metrics/prometheus", "prometheus", self._prometheus)
        app.add_url_rule("/api/state", "state", self._state)
        app.add_url_rule("/api/history", "history", self._history)
        app.register_error_handler(HTTPException, self._refusal)
        app.before_request(self._admit)
        app.after_request(self._add_headers)
        return app

    def _admit(self) -> Response | None:
        """Refuse what needs the token and comes without; the preflight of CORS brings none."""
        known = request.endpoint is not None and request.endpoint not in _OPEN
        if not known or request.method == "OPTIONS" or self._is_trusted():
            return None
        response = self._failure("a token is needed: send it as Authorization: Bearer <token>", 401)
        response.headers["WWW-Authenticate"] = "Bearer"
        return response

    def _is_trusted(self) -> bool:
        if self._token is None:
            return True
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        right = hmac.compare_digest(token.strip().encode(errors="replace"), self._token)
        return right and scheme.lower() == "bearer"

    def _index(self) -> Response:
        if content_negotiation.prefers_html(request.headers.get("Accept")):
            return self._page("index.html")
        return _json({"instance_id": self._instance_id, "endpoints": _ENDPOINTS})

    def _page(self, name: str) -> Response:
        if name not in _PAGE:
            return self._failure("Not Found", 404)
        response = Response(_file(name), content_type=_PAGE[name])
        response.headers["Content-Security-Policy"] = _PAGE_POLICY
        return response

    def _health(self) -> Response:
        body, well = self._board.health()
        return _json(body, 200 if well else 500)

    def _probe(self) -> Response:
        probe = request.path.strip("/").rpartition("/")[2]
        well, reasons = self._board.probe(probe)
        body = self._board.headed({"probe": probe}, status=HEALTHY if well else UNHEALTHY)
        if reasons and self._is_trusted():
            body["reasons"] = reasons
        return _json(body, 200 if well else 503)

    def _metrics(self) -> Response:
        accept = request.headers.get("Accept")
        try:
            form = content_negotiation.choose(accept, request.args.get("format"))
        except content_negotiation.UnknownFormat as error:
            response = self._failure(str(error), 400)
            response.headers["Vary"] = "Accept"
            return response
        return self._told_as(form)

    def _prometheus(self) -> Response:
        form = content_negotiation.choose(request.headers.get("Accept"), None)
        return self._told_as(Format.PROMETHEUS if form is Format.JSON else form)

    def _told_as(self, form: Format) -> Response:
        try:
            if form is Format.JSON:
                response = _json(self._board.metrics())
            else:
                rendered = self._board.rendered(form)
                response = Response(rendered, content_type=form.content_type)
        except CallFailed as failed:
            body = self._board.headed({"error": str(failed)}, status=UNHEALTHY)
            if failed.detail is not None:
                body["details"] = failed.detail
            response = _json(body, 500)
        except Busy:
            response = self._failure("other requests wait for the same; ask again", 503)
            response.headers["Retry-After"] = "1"
        response.headers["Vary"] = "Accept"
        return response

    def _state(self) -> Response:
        try:
            return _json(self._board.state())
        except CallFailed as stopping:
            return self._failure(str(stopping), 503)

    def _history(self) -> Response:
        since = request.args.get("since")
        if since is not None and not (since.isascii() and since.isdigit() and len(since) < 16):
            return self._failure("since must be the number that `next` told", 400)
        return _json(
            self._board.past(None if since is None else int(since), request.args.getlist("figure"))
        )

    def _refusal(self, error: HTTPException) -> BaseResponse:
        response = error.get_response()
        response.data = json.dumps({"instance_id": self._instance_id, "error": error.name})
        response.content_type = "application/json"
        return response

    def _failure(self, told: str, code: int) -> Response:
        return _json({"instance_id": self._instance_id, "error": told}, code)

    def _add_headers(self, response: Response) -> Response:
        headers = response.headers
        headers["Cache-Control"] = "no-store"
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "no-referrer"
        headers.setdefault("Content-Security-Policy", _DATA_POLICY)
        if "Allow" in headers:
            headers["Allow"] = _METHODS  # Flask's own has no steady order
        origin = self._allowed_origin()
        if origin is not None:
            headers["Access-Control-Allow-Origin"] = origin
            if request.method == "OPTIONS":
                headers["Access-Control-Allow-Methods"] = _METHODS
                if self._token is not None:
                    headers["Access-Control-Allow-Headers"] = "Authorization"
        if self._origins and "*" not in self._origins:
            headers.add("Vary", "Origin")
        return response

    def _allowed_origin(self) -> str | None:
        """The origin whose pages may read this answer. A single one is told to everybody."""
        if len(self._origins) == 1:
            return next(iter(self._origins))
        origin = request.headers.get("Origin")
        return origin if origin in self._origins else None


class _Start(NamedTuple):
    """What one start of a server began."""

    serving: Serving
    calls: Pollers


_servers: weakref.WeakSet[HealthServer] = weakref.WeakSet()


def _after_fork() -> None:
    for server in list(_servers):
        server._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _origins(cors: str | Iterable[str] | None) -> frozenset[str]:
    if cors is None:
        return frozenset()
    origins = frozenset([cors] if isinstance(cors, str) else cors)
    for origin in origins:
        if not (isinstance(origin, str) and origin and origin.isascii() and origin.isprintable()):
            raise ConfigurationError(
                f"cors must be an origin such as 'https://ops.example', '*', several, or None, "
                f"not {cors!r}"
            )
    return frozenset("*") if "*" in origins else origins


def _token(token: str | None) -> bytes | None:
    if token is None:
        return None
    if not (isinstance(token, str) and token.isascii() and token.isprintable() and token.strip()):
        raise ConfigurationError("token must be printable ASCII text and not empty")
    return token.strip().encode()


@cache
def _file(name: str) -> bytes:
    return (files("shared_sync.health_server") / "dashboard" / name).read_bytes()


def _json(body: Mapping[str, Any], code: int = 200) -> Response:
    return Response(json.dumps(body, allow_nan=False), code, content_type="application/json")
