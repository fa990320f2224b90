"""HealthServer: answers /health and /metrics over HTTP while the program works.

Flask makes the answers, waitress serves them from background threads. Besides the errors this
module knows nothing of the library: what it tells comes from two functions of the user.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import re
import socket
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from time import monotonic
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, request
from waitress import wasyncore
from waitress.server import create_server
from waitress.task import ThreadedTaskDispatcher
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map
from werkzeug.wrappers import Response as BaseResponse

from shared_sync.errors import ConfigurationError, PortUnavailable

if TYPE_CHECKING:
    Data = Mapping[str, Any]
    Logger = logging.Logger | logging.LoggerAdapter[Any]

_METHODS = "GET, HEAD, OPTIONS"
_STATUSES = ("healthy", "degraded", "unhealthy")

_WORKERS = 2  # one slow callback does not keep the next probe waiting
_TURN_SECONDS = 1.0  # longest wait of an idle serving loop; stopping wakes it at once
_JOIN_SECONDS = 0.1  # at stop, between two looks for clients that wait for nothing
_FLUSH_SECONDS = 1.0  # at stop, for a client that has not yet taken its whole answer
_WAITRESS: dict[str, Any] = {
    "channel_timeout": 10,
    "cleanup_interval": 5,
    "connection_limit": 100,
    "max_request_header_size": 16 * 1024,
    "max_request_body_size": 64 * 1024,
    "ident": "",
    "clear_untrusted_proxy_headers": True,  # stated because waitress 2 warns when it is not
}

_NOT_HERE = "give an address of this machine, or 0.0.0.0 for all of them"
_REMEDIES = {
    errno.EADDRINUSE: "the port is taken; stop the program that holds it, or choose another port "
    "(0 picks a free one)",
    errno.EACCES: "this user may not open the port; choose one from 1024 up",
    errno.EPERM: "this user may not open the port; choose one from 1024 up",
    errno.EADDRNOTAVAIL: f"the host is not this machine; {_NOT_HERE}",
}


class HealthServer:
    """Answers GET /health and GET /metrics with flat JSON.

    Both begin with `instance_id` and `timestamp` and go on with the data of a callback;
    `get_metrics_data` may be left out. `/health` also has a `status`: "healthy" or "degraded"
    (answered with 200), or "unhealthy" (500). The data may bring its own `status`; one that is
    none of these three words counts as degraded. A key of `critical` that is False makes it
    unhealthy whatever the data says, and `reasons` names the key.

    A callback that raises, returns no mapping, or returns what JSON cannot hold is answered with
    500 and no details; the log has the traceback once, and again when the error changes. NaN and
    infinity become null.

    The callbacks are called once per request in waitress's worker threads, two at a time at most,
    also two calls of the same callback. They must return quickly: hand out figures at hand rather
    than ask Redis for them, or probes time out just when Redis is slow.

    Port 0 picks a free port; `port` and `url` tell which. `cors` is the origin whose pages may
    read the answers ("*": any, None: no other). There is no authentication: choose `host`, or
    keep the port closed to strangers.
    """

    def __init__(
        self,
        instance_id: str,
        port: int,
        logger: Logger | None = None,
        get_health_data: Callable[[], Data] | None = None,
        get_metrics_data: Callable[[], Data] | None = None,
        *,
        host: str = "0.0.0.0",  # noqa: S104 - probes come from other machines
        critical: Iterable[str] = ("redis_connected", "model_loaded"),
        cors: str | None = "*",
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
        if cors is not None and not (cors and cors.isascii() and cors.isprintable()):
            raise ConfigurationError(f"cors must be an origin, '*' or None, not {cors!r}")

        self._instance_id = instance_id
        self._host = host
        self._configured_port = port
        self._logger = logger or logging.getLogger(__name__)
        self._critical = tuple(critical)
        self._cors = cors
        self._health_data = _Callback("get_health_data", get_health_data, self._logger)
        self._metrics_data = _Callback("get_metrics_data", get_metrics_data or dict, self._logger)
        self._app = self._make_app()

        # Re-entrant, because a signal handler may stop the server while its thread is in here.
        self._lock = threading.RLock()
        self._serving: _Serving | None = None  # guarded by the lock; stays after its end

    @property
    def port(self) -> int:
        """The port of the last start; before the first one, the port that was asked for."""
        with self._lock:
            return self._serving.port if self._serving else self._configured_port

    @property
    def url(self) -> str:
        """Where a program on this machine reaches the server, such as http://127.0.0.1:9090."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def start_server(self) -> None:
        """Begin to answer, in background threads. While the server runs, this does nothing.

        Raises `PortUnavailable` here, in the caller's thread, if the port is taken or not allowed.
        """
        with self._lock:
            if self._serving and not self._serving.ending:
                return
            self._serving = _Serving(self._app, _listen(self._host, self._configured_port))
            self._logger.info(
                "%s: health server listens on %s, port %d",
                self._instance_id,
                self._host,
                self._serving.port,
            )

    def stop_server(self, timeout: float = 5.0) -> bool:
        """Stop listening, let running requests finish, and tell whether everything has ended.

        Waits for at most `timeout` seconds. False means that a callback still runs: its thread
        ends with it, and a later call tells so. Requests no callback has begun are dropped. Any
        thread may call this, also before the start and twice; called by a callback, it does not
        wait. The server can be started again, also while an old callback still runs.
        """
        with self._lock:
            serving = self._serving
        if serving is None:
            return True
        ended = serving.end(timeout)
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

    def _make_app(self) -> Flask:
        app = Flask(__name__, static_folder=None)
        # /health/ is answered too, and nothing with a redirect.
        app.url_map = Map(strict_slashes=False, merge_slashes=False)
        app.add_url_rule("/", "index", self._index)
        app.add_url_rule("/health", "health", self._health)
        app.add_url_rule("/metrics", "metrics", self._metrics)
        app.register_error_handler(HTTPException, self._refusal)
        app.after_request(self._add_headers)
        return app

    def _index(self) -> Response:
        body = {"instance_id": self._instance_id, "endpoints": ["/health", "/metrics"]}
        return _json_response(json.dumps(body), 200)

    def _health(self) -> Response:
        return self._answer(self._health_data, self._judge)

    def _metrics(self) -> Response:
        return self._answer(self._metrics_data, lambda data: (self._headed(data), 200))

    def _answer(self, callback: _Callback, compose: Callable[[Data], tuple[Data, int]]) -> Response:
        try:
            body, code = compose(callback.call())
            text = json.dumps(_without_nan(body), allow_nan=False)
        except BaseException as error:  # noqa: BLE001 - on SystemExit waitress would never answer
            callback.failed(error)
            body = self._headed({"error": f"{callback.name} failed"}, status="unhealthy")
            return _json_response(json.dumps(body), 500)
        callback.succeeded()
        return _json_response(text, code)

    def _judge(self, data: Data) -> tuple[Data, int]:
        status = data.get("status", "healthy")
        reasons = [key for key in self._critical if data.get(key) is False]
        if reasons:
            status = "unhealthy"
        elif status not in _STATUSES:
            reasons = [f"unknown status {status!r}"]
            status = "degraded"
        body = self._headed(data, status=status)
        if reasons:
            theirs = data.get("reasons")
            body["reasons"] = [*reasons, *theirs] if isinstance(theirs, list) else reasons
        return body, 500 if status == "unhealthy" else 200

    def _headed(self, data: Data, **first: str) -> dict[str, Any]:
        head = {
            **first,
            "instance_id": self._instance_id,
            "timestamp": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        }
        return {**head, **data, **head}  # ours come first, and win over the data's namesakes

    def _refusal(self, error: HTTPException) -> BaseResponse:
        response = error.get_response()
        response.data = json.dumps({"instance_id": self._instance_id, "error": error.name})
        response.content_type = "application/json"
        return response

    def _add_headers(self, response: Response) -> Response:
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Content-Type-Options"] = "nosniff"
        if "Allow" in response.headers:
            response.headers["Allow"] = _METHODS  # Flask's own has no steady order
        if self._cors:
            response.headers["Access-Control-Allow-Origin"] = self._cors
            if request.method == "OPTIONS":
                response.headers["Access-Control-Allow-Methods"] = _METHODS
        return response


class _Callback:
    """A function of the user, and the log of its failures: first failure, silence, recovery."""

    def __init__(self, name: str, function: Callable[[], Data], logger: Logger) -> None:
        self.name = name
        self._function = function
        self._logger = logger

        self._lock = threading.Lock()
        # Guarded by the lock:
        self._fault: str | None = None
        self._failing_since = 0.0

    def call(self) -> Data:
        data = self._function()
        if not isinstance(data, Mapping):
            raise TypeError(f"{self.name} must return a mapping, not {type(data).__name__}")
        return data

    def failed(self, error: BaseException) -> None:
        # Texts that differ only in numbers (durations, addresses, counts) are the same fault.
        text = "".join(traceback.format_exception_only(type(error), error))
        fault = re.sub(r"0x[0-9a-fA-F]+|\d+", "#", text)
        with self._lock:
            changed = fault != self._fault
            if self._fault is None:
                self._failing_since = monotonic()
            self._fault = fault
        if changed:
            self._logger.error(
                "%s failed; its requests are answered with 500 until it recovers",
                self.name,
                exc_info=error,
            )

    def succeeded(self) -> None:
        with self._lock:
            if self._fault is None:
                return
            self._fault = None
            seconds = monotonic() - self._failing_since
        self._logger.info("%s recovered after %.1f s", self.name, seconds)


class _Serving:
    """One start of the server: its socket, its workers and its serving thread, until all end.

    Only the serving thread touches waitress's sockets, from the first client to the last close.
    Others ask it to end by waking it through waitress's trigger.
    """

    def __init__(self, app: Flask, listener: socket.socket) -> None:
        self.port: int = listener.getsockname()[1]
        self._map: dict[int, Any] = {}
        self._workers = _Workers(f"health-server-{self.port}")
        self._thread = threading.Thread(
            target=self._serve, name=f"health-server-{self.port}", daemon=True
        )
        # Held while the trigger is pulled or closed: a pull of a closed one would write its byte
        # into whatever file has got the descriptor since. Re-entrant for signal handlers.
        self._trigger_lock = threading.RLock()
        self._ending = threading.Event()
        try:
            self._server: Any = create_server(
                app, map=self._map, sockets=[listener], _dispatcher=self._workers, **_WAITRESS
            )
            self._workers.set_thread_count(_WORKERS)
            self._thread.start()
        except BaseException:
            self._workers.set_thread_count(0)
            wasyncore.close_all(self._map)
            listener.close()
            raise

    @property
    def ending(self) -> bool:
        return self._ending.is_set()

    def end(self, timeout: float) -> bool:
        with self._trigger_lock:
            if not self._ending.is_set():
                self._ending.set()
                self._server.pull_trigger()
        if threading.current_thread() not in self._workers.started:
            self._thread.join(max(timeout, 0.0))
        return not self._thread.is_alive()

    def _serve(self) -> None:
        try:
            while not self._ending.is_set():
                self._turn(_TURN_SECONDS)
        finally:
            self._close()

    def _turn(self, seconds: float) -> None:
        wasyncore.loop(timeout=seconds, use_poll=True, map=self._map, count=1)

    def _close(self) -> None:
        # First the listener, so that new clients are refused at once. Its own close() would take
        # the trigger along, which the workers pull after each answer.
        self._ending.set()
        wasyncore.dispatcher.close(self._server)
        # Then the workers, each after the request it is at; they send their answers themselves.
        # Meanwhile clients that wait for nothing are let go: keep-alive would hold them for ever.
        self._workers.set_thread_count(0)
        for worker in self._workers.started:
            while worker.is_alive():
                for channel in self._channels():
                    if not (channel.requests or channel.total_outbufs_len):
                        channel.handle_close()
                worker.join(_JOIN_SECONDS)
        # Then what a slow client did not take yet is left to this thread, for a moment.
        give_up = monotonic() + _FLUSH_SECONDS
        while monotonic() < give_up and any(c.total_outbufs_len for c in self._channels()):
            self._turn(0.1)
        for channel in self._channels():
            channel.handle_close()
        # The trigger last, now that nobody is left to pull it.
        with self._trigger_lock:
            wasyncore.close_all(self._map)

    def _channels(self) -> list[Any]:
        return list(self._server.active_channels.values())


class _Workers(ThreadedTaskDispatcher):
    """Waitress's worker threads, with names, and kept so that they can be joined."""

    # Waitress warns about every request that waits for a moment. Here that is no news.
    queue_logger = logging.Logger(__name__, level=logging.CRITICAL)

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self.started: list[threading.Thread] = []

    def start_new_thread(self, target: Callable[[int], object], thread_no: int) -> None:
        thread = threading.Thread(
            target=target, name=f"{self._name}-{thread_no}", args=(thread_no,), daemon=True
        )
        thread.start()
        self.started.append(thread)


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens on the host, on IPv4 where it has both; "::" takes both."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        both = address[0] == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(address, family=family, dualstack_ipv6=both)
    except (OSError, ValueError) as error:  # ValueError: a host no resolver takes
        number = error.errno if isinstance(error, OSError) else None
        known = _REMEDIES.get(number) if number else None
        raise PortUnavailable(
            f"health server cannot listen on host {host!r}, port {port}: "
            + (known or f"{error}; {_NOT_HERE}")
        ) from error


def _without_nan(value: Any) -> Any:
    """The same value with null for the numbers JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return value


def _json_response(text: str, code: int) -> Response:
    return Response(text, code, content_type="application/json")
