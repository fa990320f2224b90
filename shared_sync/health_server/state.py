"""What a health server knows: its checks and views, and the newest results of everything it calls.

Nothing here concerns HTTP. The user's functions run in background threads; a request is answered
from their newest results, and waits for a new one for a limited time at most.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Collection, Mapping
from functools import partial
from time import monotonic
from typing import Any, Final, TypeVar

from shared_sync.common.guarded import Logger
from shared_sync.common.log_once import LogOnce
from shared_sync.common.poller import Poller, PollResult
from shared_sync.errors import ConfigurationError
from shared_sync.health_server import payload, views
from shared_sync.health_server.checks import HEALTH, Check, CheckResult, CheckResults
from shared_sync.health_server.compression import Body
from shared_sync.health_server.content_negotiation import Format
from shared_sync.health_server.payload import DEGRADED, HealthData
from shared_sync.health_server.pollers import Pollers
from shared_sync.health_server.sampler import Sampler
from shared_sync.health_server.sources import CALLBACK_TIMEOUT_SECONDS, Sources, is_of_consumer
from shared_sync.health_server.time_series import History
from shared_sync.health_server.views import View
from shared_sync.health_server.waiting import CallFailed, Waiting

T = TypeVar("T")

METRICS: Final = "get_metrics_data"

REFRESH_SECONDS = 0.25
"""How long a request waits for new health data before it is answered from the last ones."""

VIEW_PERIOD_SECONDS = 2.0
OLD_VIEW_SECONDS = 10.0
"""A request waits for a new view if the newest one is older: nobody had the page open."""

HISTORY_SAMPLES = 720
"""An hour."""

GIVE_UP_SECONDS = 1.0
"""How long a start that failed waits for the threads that it has started."""


class HealthState:
    """Holds the registered checks and views, and their newest results while the server runs.

    Any thread may call any method.
    """

    def __init__(
        self,
        instance_id: str,
        sources: Sources,
        *,
        critical: Collection[str],
        details: bool,
        logger: Logger,
    ) -> None:
        # Fixed after construction.
        self._instance_id = instance_id
        self._critical = tuple(critical)
        self._details = details
        self._logger = logger
        self._log_untyped = LogOnce(logger, logging.WARNING)
        self._sources = sources
        self._make_own()
        # Guarded by the lock.
        self._checks: dict[str, Check] = {check.name: check for check in sources.checks}
        self._views: dict[str, View] = dict(sources.views)
        self._pollers: Pollers | None = None
        # Written by any thread; the first one only ever becomes true.
        self._was_started = False
        self._draining = False

    def _make_own(self) -> None:
        """Make what each process has for itself."""
        self.run = uuid.uuid4().hex[:8]
        self._lock = threading.RLock()  # a signal handler may stop what its own thread is starting
        self._waiting = Waiting()
        self._reading_history = threading.Lock()  # an answer with the whole history is large
        self.history = History(capacity=HISTORY_SAMPLES)

    def begin_anew(self) -> None:
        """Forget what the parent's threads were doing. For a forked process."""
        self._make_own()
        self._pollers = None

    # --- registering and life cycle ---------------------------------------------------------------

    def add_check(self, check: Check) -> None:
        """Register a check; it is called from now on, or from the next start.

        Raises ConfigurationError if there is a check of that name.
        """
        with self._lock:
            if check.name in self._checks:
                raise ConfigurationError(
                    f"there is a check named {check.name!r} already; choose another name (the "
                    "arguments consumer and metrics may add checks of these names)"
                )
            if self._pollers is not None:
                self._pollers.add_check(check)
            self._checks[check.name] = check

    @property
    def knows_consumer(self) -> bool:
        """Whether the user named a consumer, or registered its health as a check."""
        with self._lock:
            functions = [check.function for check in self._checks.values()]
        return self._sources.has_consumer or any(map(is_of_consumer, functions))

    def add_view(self, view: View) -> None:
        """Register a view. Raises ConfigurationError if there is a view of that name."""
        with self._lock:
            if view.name in self._views:
                raise ConfigurationError(f"there is a view named {view.name!r} already")
            self._views[view.name] = view

    def drain(self) -> None:
        """Report the process as draining until the next start."""
        self._draining = True

    def start(self) -> Pollers:
        """Start to call the checks, and return the threads that do, which `stop` takes.

        Raises RuntimeError if the system has no more threads.
        """
        with self._lock:
            pollers = Pollers(self._critical, self._details, self._logger)
            before, self._pollers = self._pollers, pollers
            try:
                for check in self._checks.values():
                    pollers.add_check(check)
                samples = Sampler(self.history, self._metrics_poller())
                pollers.start(lambda: samples.step(pollers.checks))
            except BaseException:
                self._pollers = before
                pollers.stop()
                pollers.join(monotonic() + GIVE_UP_SECONDS)
                raise
            self._draining = False
        return pollers

    def stop(self, pollers: Pollers) -> None:
        """Ask the threads of one start to stop; never blocks."""
        with self._lock:
            if self._pollers is pollers:
                self._pollers = None
            pollers.stop()

    # --- results of checks ------------------------------------------------------------------------

    def results(self, *, refresh: bool = False) -> CheckResults:
        """Return the newest results of all checks.

        With `refresh`, waits up to `REFRESH_SECONDS` for new data of the callback; never blocks
        without.
        """
        with self._lock:
            checks = list(self._checks.values())
            pollers = self._pollers.checks if self._pollers is not None else {}
        results = CheckResults(
            CheckResult(check, self._newest(check.name, pollers, refresh=refresh))
            for check in checks
        )
        if not self._was_started:
            self._was_started = not results.not_started()
        return results

    def overall(self, results: CheckResults) -> tuple[str, list[str]]:
        """Return the status of the whole process, and why it is not healthy."""
        if not self._draining:
            return results.status, results.reasons
        return payload.worst([results.status, DEGRADED]), [*results.reasons, "draining"]

    def failed_probes(self, results: CheckResults) -> dict[str, list[str]]:
        """Return why each probe (live, ready, startup) fails; empty for one that succeeds."""
        # Once everything was loaded, it stays so.
        not_started = [] if self._was_started else results.not_started()
        not_ready = [
            *not_started,
            *(reason for reason in results.not_ready() if reason not in not_started),
            *(["draining"] if self._draining else []),
        ]
        return {"live": results.not_live(), "ready": not_ready, "startup": not_started}

    # --- metrics and views ------------------------------------------------------------------------

    def new_metrics(self) -> dict[str, Any]:
        """Return what a new call of `get_metrics_data` returns. Waits up to its time limit.

        Raises `CallFailed`, and `Busy` if too many requests wait already.
        """
        return self._waiting.new_result(self._metrics_poller()).value or {}

    def newest_metrics(self) -> dict[str, Any]:
        """Return new metrics if they come within `REFRESH_SECONDS`, else the last ones.

        Empty if the last call failed. Raises `CallFailed` while the server stops.
        """
        return self._waiting.newest(self._metrics_poller(), REFRESH_SECONDS).value or {}

    def rendered_metrics(self, form: Format) -> Body:
        """Return new metrics and the health in a format of Prometheus.

        Waits and raises as `new_metrics` does.
        """
        open_metrics = form is Format.OPENMETRICS
        name = "render_openmetrics" if open_metrics else "render_prometheus"
        render = getattr(self._sources.renderer, name, None)
        if callable(render):
            poller = self._poller(
                name,
                lambda: self._with_health(_as_bytes(render()), open_metrics=open_metrics),
                CALLBACK_TIMEOUT_SECONDS,
            )
            return self._waiting.new_result(poller).value or Body(b"")
        from shared_sync.common import exposition  # noqa: PLC0415 - loads prometheus_client

        metrics = self.new_metrics()
        if metrics:
            self._log_untyped(
                "Prometheus gets the values of get_metrics_data without their types, without "
                "histograms and without labels, as it is no method of a WorkerMetrics: give the "
                "health server metrics=, the WorkerMetrics, as well. This is logged once"
            )
        plain = exposition.render_plain(metrics, self._instance_id, open_metrics=open_metrics)
        return self._with_health(plain, open_metrics=open_metrics)

    def _with_health(self, rendered: bytes, *, open_metrics: bool) -> Body:
        """Return rendered metrics with the newest health behind them. Never blocks."""
        from shared_sync.common import exposition  # noqa: PLC0415 - loads prometheus_client
        from shared_sync.health_server.prometheus import health_gauges  # noqa: PLC0415 - the same

        results = self.results()
        gauges = health_gauges(
            status=self.overall(results)[0],
            failed_probes=self.failed_probes(results),
            results=results,
            keys=self._critical,
        )
        return Body(
            exposition.append(rendered, gauges, self._instance_id, open_metrics=open_metrics)
        )

    def shown_views(self) -> dict[str, Any]:
        """Return what each view shows, and have those called again that are out of date.

        Waits up to `REFRESH_SECONDS` for views that were not called lately. Raises `CallFailed`
        while the server stops.
        """
        with self._lock:
            registered = dict(self._views)
        pollers = {
            name: self._poller(
                f"view {name}", partial(self._call, view.function), view.timeout_seconds
            )
            for name, view in registered.items()
        }
        deadline = monotonic() + REFRESH_SECONDS
        for poller in pollers.values():
            result = poller.result
            now = monotonic()
            if result.ended_at is None or now - result.ended_at >= OLD_VIEW_SECONDS:
                poller.refresh(max(0.0, deadline - now))
            elif result.running_since is None and now - result.ended_at >= VIEW_PERIOD_SECONDS:
                poller.request()
        return {
            name: views.to_dict(poller, details=self._details) for name, poller in pollers.items()
        }

    def history_since(self, since: int | None, names: Collection[str]) -> dict[str, Any]:
        """Return the history of the named values, or of all if there are no names.

        `since` is the `next` of an earlier answer; None for everything that is kept.
        """
        with self._reading_history:
            return self.history.read(since, names or None)

    # --- inside -----------------------------------------------------------------------------------

    def _newest(
        self, name: str, pollers: Mapping[str, Poller[HealthData]], *, refresh: bool
    ) -> PollResult[HealthData]:
        poller = pollers.get(name)
        if poller is None:
            return PollResult()
        if refresh and name == HEALTH:
            return self._waiting.newest(poller, REFRESH_SECONDS)
        return poller.result

    def _metrics_poller(self) -> Poller[dict[str, Any]]:
        return self._poller(
            METRICS, partial(self._call, self._sources.get_metrics_data), CALLBACK_TIMEOUT_SECONDS
        )

    def _poller(self, name: str, function: Callable[[], T], timeout_seconds: float) -> Poller[T]:
        """Return the poller of that name, which is started when it is first needed."""
        with self._lock:
            if self._pollers is None:
                raise CallFailed("the server stops")
            return self._pollers.add_on_demand(name, function, timeout_seconds)

    def _call(self, function: Callable[[], object]) -> dict[str, Any]:
        returned = function()
        if not isinstance(returned, Mapping):
            raise TypeError(f"it must return a mapping, not {type(returned).__name__}")
        return payload.public_mapping(returned, details=self._details)


def _as_bytes(rendered: object) -> bytes:
    if isinstance(rendered, str):
        return rendered.encode()
    if not isinstance(rendered, bytes):
        raise TypeError(f"it must return bytes or text, not {type(rendered).__name__}")
    return rendered
