"""The public class: answers /health, probes, /metrics and a dashboard while the program works.

Options and life cycle. `state` knows what there is to say, `routes` says it over
HTTP, `listening` opens the socket, `wsgi` serves it.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Any

from flask import Flask

from shared_sync.common import arguments
from shared_sync.common.detached_logger import DetachedLogger
from shared_sync.common.fork import renew_in_forks
from shared_sync.common.guarded import GuardedLogger, Logger
from shared_sync.common.log_once import LogOnce
from shared_sync.errors import ConfigurationError
from shared_sync.health_server import listening, routes, sources
from shared_sync.health_server.access import Access
from shared_sync.health_server.actions import Actions
from shared_sync.health_server.actions.protocol import METHODS
from shared_sync.health_server.actions.routes import ActionRoutes
from shared_sync.health_server.actions.runner import PLACES, ActionRunner, Life
from shared_sync.health_server.checks import Check
from shared_sync.health_server.listening import IPV4_WILDCARD, IPV6_WILDCARD
from shared_sync.health_server.sources import CALLBACK_TIMEOUT_SECONDS, Consumer, Metrics
from shared_sync.health_server.state import GIVE_UP_SECONDS, HealthState
from shared_sync.health_server.views import VIEW_TIMEOUT_SECONDS, View
from shared_sync.health_server.wsgi import WORKERS, HttpServer

Data = Mapping[str, Any]


class HealthServer:
    """Answers probes, health, metrics and a dashboard over HTTP, from background threads.

        with HealthServer("stt-1", 8081, logger, consumer=consumer, metrics=metrics) as server:
            server.add_check("model", lambda: model.loaded, startup=True)
            consumer.start_consuming()

    `/health` answers `status`, `instance_id`, `timestamp` and the data of `get_health_data`, with
    200 if the status is "healthy" or "degraded" and with 500 if it is "unhealthy"; `reasons` say
    why it is not healthy. `/health/live`, `/health/ready` and `/health/startup` answer 200 or 503.
    `/metrics` answers the data of `get_metrics_data` as JSON, or in a format of Prometheus if the
    Accept header or `?format=` asks for one, with the health of the process as gauges.
    `/` is the dashboard.

    **What a check returns**: True or None if all is well, False if not, or a mapping of values, as
    `get_health_data` does. Some keys of the mapping have a meaning:

    - `status` is "healthy", "degraded" or "unhealthy"; any other word counts as degraded;
    - `reasons` is a list of texts;
    - `live`, `ready` and `started`: if one is False, the probe of that name fails;
    - `details` is only shown by a server that was made with `details=True`;
    - a key named by `critical`: if it is False, the data are unhealthy whatever `status` says.

    A check that raises, hangs or returns anything else is unhealthy; the traceback is logged once,
    and again when the error changes. Numbers that JSON does not have become null.

    **No request waits long for your functions.** Each is called by a thread of its own, one call at
    a time, periodically. `/health` and `/metrics` request a new call of their function and wait for
    it, for 0.25 s and 2 s at most. Probes are answered from the newest results. The time limit of a
    call only counts while the interpreter runs: a C extension that holds the interpreter lock for
    a minute makes no call late.

    **Live** is decided by the checks registered with `liveness=True`, and by the key `live`;
    without either, a process that answers is live. **Ready** means that the process has started, no
    check registered for readiness is unhealthy or without a result, and nothing drains. **Startup**
    succeeds once everything was loaded, and from then on always: `started` and `model_loaded` are
    not False, and each check registered with `startup=True` has been well.

    **A consumer and metrics** replace the functions: `consumer=consumer` gives the health data and
    the dashboard's tables of readers and group, `metrics=metrics` the data of `/metrics`, with
    types for Prometheus. A function that is given as well wins: its data are shown. The consumer
    then becomes the check "consumer", and so still decides about health and probes. The alerts of
    the metrics are the check "metrics": `/health` is as bad as the worst alert that fires, and no
    probe fails. With metrics alone, `/health` shows the basic health data of the metrics.

    If `get_metrics_data` is a method of a `WorkerMetrics`, Prometheus gets what that renders; the
    numbers of any other function have no type there. If `get_health_data` is a method of a
    `RedisStreamConsumer`, the dashboard shows the consumer's readers and group.

    Any thread may call any method. A forked child inherits no running server and none of its
    sockets; it may start the server on another port.

    Args:
        instance_id: The name of this instance in every answer.
        port: The port to listen on, an int or its digits as an environment variable has them; 0 for
            a free one, which `port` and `url` then return.
        logger: Where to log; None for the logger of this module.
        get_health_data: Returns the data of `/health`; None takes them from `consumer`, else from
            `metrics`. One of the three must be given.
        get_metrics_data: Returns the data of `/metrics`; None takes them from `metrics`, if given.
        consumer: The `RedisStreamConsumer` of this process.
        metrics: The `WorkerMetrics` of this process.
        host: The name or address to listen on. None for all addresses of the machine, IPv6 and
            IPv4, because probes come from other machines; "0.0.0.0" for IPv4 alone.
        critical: Keys of health data that must not be False.
        cors: Origins whose web pages may read the answers: one, several, or None. "*" lets the
            pages of all sites read `/health`, the probes and `/metrics`; the dashboard's data can
            only be read by pages of origins that are named.
        allowed_hosts: Names under which browsers may ask for the dashboard, such as
            "stt.example.com" or "*.example.com"; "*" for any. Always allowed are IP addresses,
            names without a dot (such as localhost), the machine's name, and `host`.
        token: If given, everything except the probes and the files of the dashboard needs
            `Authorization: Bearer <token>`, and probes give reasons only to requests that have it.
        details: Whether to show texts of errors, and values under the key `details`. Passwords in
            URLs are never shown.
        actions: What lets operators act from the dashboard, such as a
            `shared_sync.group_actions.GroupActions`; None for a page that can only be looked at.
            Needs `token`. Whoever has that sees dead letters as a whole, whatever `details` says.
        action_origins: Origins under which operators open the page, such as
            "https://ops.example", if a proxy in front of it passes on another name.

    Raises `ConfigurationError` if an argument cannot work.
    """

    def __init__(
        self,
        instance_id: str,
        port: int | str,
        logger: Logger | None = None,
        get_health_data: Callable[[], object] | None = None,
        get_metrics_data: Callable[[], Data] | None = None,
        *,
        consumer: Consumer | None = None,
        metrics: Metrics | None = None,
        host: str | None = None,
        critical: Iterable[str] = ("redis_connected", "model_loaded"),
        cors: str | Iterable[str] | None = "*",
        allowed_hosts: str | Iterable[str] = (),
        token: str | None = None,
        details: bool = False,
        actions: Actions | None = None,
        action_origins: str | Iterable[str] = (),
    ) -> None:
        _check_arguments(instance_id, host)
        _check_actions(actions, token)
        arguments.logger("logger", logger)
        if isinstance(critical, str):
            raise ConfigurationError(f"critical must be several keys, such as ({critical!r},)")

        # Fixed after construction.
        self._instance_id = instance_id
        self._host = host
        self._configured_port = arguments.port("port", port)
        self._logger = DetachedLogger(GuardedLogger(logger or logging.getLogger(__name__)))
        access = Access(token, cors, allowed_hosts, own_host=host, action_origins=action_origins)
        self._runner = ActionRunner() if actions is not None else None
        self._state = HealthState(
            instance_id,
            sources.choose(get_health_data, get_metrics_data, consumer, metrics),
            critical=tuple(critical),
            details=bool(details),
            logger=self._logger,
        )
        self._app = routes.make_app(
            self._state,
            instance_id,
            access,
            details=bool(details),
            actions=ActionRoutes(actions, self._runner, access, self._logger, instance_id)
            if actions is not None and self._runner is not None
            else None,
        )

        self._mention_no_consumer = LogOnce(self._logger, logging.INFO)

        # Re-entrant, because a signal handler may stop the server while its own thread starts it.
        self._lock = threading.RLock()
        # Guarded by the lock.
        self._run: _Run | None = None  # the last one; kept after its end
        self._was_stopped_early = False
        renew_in_forks(self, HealthServer._begin_anew)

    @property
    def port(self) -> int:
        """The port of the last start; before the first one, the port that was asked for."""
        with self._lock:
            return self._run.http.port if self._run else self._configured_port

    @property
    def url(self) -> str:
        """The address for programs on this machine, such as http://127.0.0.1:9090."""
        local = {None: "127.0.0.1", IPV4_WILDCARD: "127.0.0.1", IPV6_WILDCARD: "::1"}
        host = local.get(self._host) or str(self._host)
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
        """Call a function periodically from now on, and let its result count for health and probes.

        May be called while the server runs. The class describes what `function` returns.

        Args:
            name: The name of the check in reasons and on the dashboard.
            function: What to call, from a thread of its own, one call at a time.
            critical: Whether an unhealthy check makes `/health` unhealthy; otherwise it makes it
                degraded.
            liveness: Whether `/health/live` fails if the check is unhealthy, raises or hangs. Only
                for what a restart repairs. If the data have the key `live`, that decides instead.
            readiness: Whether `/health/ready` fails if the check is unhealthy; by default if it is
                critical.
            startup: Whether `/health/startup` fails until the check has been well once.
            period_seconds: Seconds between two calls, from 0.01 to 86,400.
            timeout_seconds: Time limit of a call in seconds, from 0.01 to 86,400.

        Raises:
            ConfigurationError: The name is in use, or an argument cannot work.
            RuntimeError: The server runs, and the system has no more threads.
        """
        check = Check(
            name,
            function,
            critical=bool(critical),
            liveness=bool(liveness),
            readiness=bool(critical if readiness is None else readiness),
            startup=bool(startup),
            period_seconds=period_seconds,
            timeout_seconds=timeout_seconds,
        )
        self._state.add_check(check)

    def add_view(
        self,
        name: str,
        function: Callable[[], Data],
        *,
        timeout_seconds: float = VIEW_TIMEOUT_SECONDS,
    ) -> None:
        """Show the tables that a function returns on the dashboard.

        The function is called by a background thread every 2 s while somebody looks at the
        dashboard. It may ask Redis or anything else within `timeout_seconds` (0.01 to 86,400).

        Raises `ConfigurationError` if the name is in use or an argument cannot work.
        """
        self._state.add_view(View(name, function, timeout_seconds))

    def drain(self) -> None:
        """Answer `/health/ready` with 503 from now on, until the server is started again.

        Call it on SIGTERM in a program that gets its work by other means than a consumer: while a
        consumer drains, its health data say so already.
        """
        self._state.drain()

    def start_server(self) -> None:
        """Start to listen and to answer, in background threads; does nothing if the server runs.

        Raises `PortUnavailable`, in the caller's thread, if the port is taken or not allowed, and
        RuntimeError if the system has no more threads.
        """
        with self._lock:
            if self._run and not self._run.http.is_stopping:
                return
            self._was_stopped_early = False
            listener = listening.listen(self._host, self._configured_port)
            where = listening.describe(listener)
            self._run = _Run(self._state, self._app, listener, self._runner)
            self._logger.info("%s: health server listens on %s", self._instance_id, where)
            if not self._state.knows_consumer:
                self._mention_no_consumer(
                    "%s: /health knows nothing of a consumer; if this process has one, pass it as "
                    "consumer=, or /health stays healthy while its jobs fail",
                    self._instance_id,
                )
            if self._was_stopped_early:  # by a signal handler that interrupted this
                self._run.stop()

    def stop_server(self, timeout: float = 5.0) -> bool:
        """Stop listening, let running requests finish, and return whether everything has ended.

        Blocks for at most `timeout` seconds; does not wait if a callback or check calls it. False
        means that a callback or check still runs: its thread ends when the call returns, and a
        later `stop_server` returns True then. May be called at any time, also twice. The server can
        be started again, even while an old callback still runs.
        """
        deadline = monotonic() + timeout
        with self._lock:
            run = self._run
            self._was_stopped_early = True
        if run is None:
            return True
        if run.is_called_here():
            run.stop()
            return False
        ended = run.end(deadline)
        if not ended:
            self._logger.warning(
                "%s: health server no longer listens, but a callback still runs; its thread ends "
                "when the call returns",
                self._instance_id,
            )
        return ended

    def __enter__(self) -> HealthServer:
        self.start_server()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop_server()

    def _begin_anew(self) -> None:
        """In a forked process, which has no thread of the server and may have its locks held."""
        self._lock = threading.RLock()
        if self._run is not None:
            self._run.http.close_copies()
            self._run = None
        self._state.begin_anew()
        if self._runner is not None:
            self._runner.begin_anew()


class _Run:
    """One start of a server: its threads, and its HTTP server, from construction until all end."""

    def __init__(
        self,
        state: HealthState,
        app: Flask,
        listener: socket.socket,
        runner: ActionRunner | None,
    ) -> None:
        """Takes over the listening socket, also if this raises."""
        self._state = state
        self._actions: Life | None = None
        try:
            self._pollers = state.start()
        except BaseException:
            listener.close()
            raise
        try:
            if runner is not None:
                self._actions = runner.start()
            self.http = HttpServer(app, listener, WORKERS + (PLACES if runner else 0))
        except BaseException:
            listener.close()
            self._stop_threads()
            self._pollers.join(monotonic() + GIVE_UP_SECONDS)
            raise

    def is_called_here(self) -> bool:
        """Whether the calling thread is a poller's, so that waiting for its end makes no sense."""
        return self._pollers.run_here() or bool(self._actions and self._actions.runs_here())

    def stop(self) -> None:
        """Ask everything to end; never blocks."""
        self.http.stop()
        self._stop_threads()

    def end(self, deadline: float) -> bool:
        """Stop, and wait for the end until `deadline` (monotonic clock); return whether it came."""
        # The requests first: they may be waiting for a callback, and still get its result.
        self.http.stop()
        served = self.http.join(deadline)
        self._stop_threads()
        acted = self._actions is None or self._actions.join(deadline)
        return self._pollers.join(deadline) and served and acted

    def _stop_threads(self) -> None:
        self._state.stop(self._pollers)
        if self._actions is not None:
            self._actions.stop()


def _check_actions(actions: object, token: str | None) -> None:
    """Raise ConfigurationError for actions that cannot work, or that everybody could ask for."""
    if actions is None:
        return
    arguments.methods("actions", actions, METHODS, "a GroupActions, or None")
    if token is None:
        raise ConfigurationError(
            "actions need a token: without one, everybody who can reach the port could replay and "
            "delete dead letters and pause the group. Give token="
        )


def _check_arguments(instance_id: object, host: object) -> None:
    """Raise ConfigurationError for an argument that cannot work."""
    if not isinstance(instance_id, str) or not instance_id:
        raise ConfigurationError(f"instance_id must be a text, not {instance_id!r}")
    if host is not None and (not isinstance(host, str) or not host):
        raise ConfigurationError(
            f"host must be a name or an address, or None for all addresses, not {host!r}"
        )
