"""What a health server knows: its checks, figures and views, and what they amount to.

It knows nothing of HTTP. All that is of the user runs in background threads; whoever asks reads
what the last calls gave, and waits for a moment at most.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar

from shared_sync.common.poller import Poller, PollResult
from shared_sync.errors import ConfigurationError
from shared_sync.health_server import payload
from shared_sync.health_server.check_result import HEALTH, Check, Finding, age, as_detail
from shared_sync.health_server.content_negotiation import Format
from shared_sync.health_server.payload import DEGRADED, HEALTHY, UNHEALTHY, HealthData
from shared_sync.health_server.pollers import Pollers
from shared_sync.health_server.time_series import History

if TYPE_CHECKING:
    from shared_sync.health_server.pollers import Logger

T = TypeVar("T")

METRICS: Final = "get_metrics_data"

CALLBACK_PERIOD_SECONDS = 1.0
CALLBACK_TIMEOUT_SECONDS = 2.0
FRESH_SECONDS = 0.25
"""How long a request waits for the health data of this moment, before it takes the last ones."""

VIEW_PERIOD_SECONDS = 2.0
VIEW_TIMEOUT_SECONDS = 8.0
"""More than a look at a group takes where each step of reaching Redis takes its longest."""

HISTORY_PERIOD_SECONDS = 5.0
HISTORY_POINTS = 720
"""An hour."""

GIVE_UP_SECONDS = 1.0
"""How long a start that failed waits for the threads that it began."""

WAITING = 2
"""Requests that may wait for a call at the same time; others take what is there, or come again."""


@dataclass(frozen=True, slots=True)
class View:
    """A function that makes tables for the page."""

    function: Callable[[], object]
    timeout_seconds: float


class Busy(Exception):
    """Too many requests wait for figures already."""


class CallFailed(Exception):
    """A function of the user raised, or did not return in time."""

    def __init__(self, told: str, detail: str | None) -> None:
        super().__init__(told)
        self.detail = detail


class Board:
    """All methods may be called from any thread."""

    def __init__(
        self,
        instance_id: str,
        get_health_data: Callable[[], object],
        get_metrics_data: Callable[[], object] | None,
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
        self._metrics_source = get_metrics_data or dict
        self._judges = {
            "live": self._not_live,
            "ready": self._not_ready,
            "startup": self._not_started,
        }
        self._renew()
        # Guarded by the lock.
        self._checks: dict[str, Check] = {}
        self._views: dict[str, View] = {}
        self._calls: Pollers | None = None
        # Replaced by anyone as a whole; the first only ever becomes true.
        self._started = False
        self._draining = False

        self.add_check(
            Check(
                HEALTH,
                get_health_data,
                critical=True,
                liveness=False,
                readiness=True,
                startup=True,
                period_seconds=CALLBACK_PERIOD_SECONDS,
                timeout_seconds=CALLBACK_TIMEOUT_SECONDS,
            )
        )
        for name, function in _views_of(get_health_data).items():
            self.add_view(name, View(function, timeout_seconds=VIEW_TIMEOUT_SECONDS))

    def _renew(self) -> None:
        """Make what each process has of its own."""
        self.run = uuid.uuid4().hex[:8]
        self._lock = threading.RLock()  # a signal handler may stop what its thread was just asking
        self._waiting = threading.BoundedSemaphore(WAITING)
        self._telling = threading.Lock()  # a whole history is made once at a time
        self.history = History(capacity=HISTORY_POINTS)

    def forked(self) -> None:
        """In a forked process: begin anew, as what the parent's threads were at is unknown."""
        self._renew()
        self._calls = None

    # --- what it is made of ---

    def add_check(self, check: Check) -> None:
        with self._lock:
            if check.name in self._checks:
                raise ConfigurationError(f"there is a check named {check.name!r} already")
            if self._calls is not None:
                self._calls.add_check(check)
            self._checks[check.name] = check

    def add_view(self, name: str, view: View) -> None:
        with self._lock:
            if name in self._views:
                raise ConfigurationError(f"there is a view named {name!r} already")
            self._views[name] = view

    def drain(self) -> None:
        self._draining = True

    def start(self) -> Pollers:
        """Begin to call, and return what `stop` takes to end that.

        Raises RuntimeError where the system gives no more threads.
        """
        with self._lock:
            calls = Pollers(self._critical, self._details, self._logger)
            before, self._calls = self._calls, calls
            try:
                for check in self._checks.values():
                    calls.add_check(check)
                calls.start(_Sampler(self.history, calls, self._metrics_call()).step)
            except BaseException:
                self._calls = before
                calls.stop()
                calls.join(monotonic() + GIVE_UP_SECONDS)
                raise
            self._draining = False
        return calls

    def stop(self, calls: Pollers) -> None:
        """End the calls of one start; never waits."""
        with self._lock:
            if self._calls is calls:
                self._calls = None
            calls.stop()

    # --- what it tells ---

    def health(self) -> tuple[dict[str, Any], bool]:
        """The body of /health, and whether all is at least not unhealthy."""
        results = self._results(fresh=True)
        data, failure = results[HEALTH].data, results[HEALTH].failure
        status, reasons = self._overall(results.values())
        body = self.headed(data.figures if data and not failure else {}, status=status)
        if failure is not None:
            body["error"] = failure.told
        if reasons:
            body["reasons"] = reasons
        checks = {name: one.told() for name, one in results.items() if name != HEALTH}
        if checks:
            body["checks"] = checks
        self._add_details(body, results.values())
        return body, status != UNHEALTHY

    def probe(self, name: str) -> tuple[bool, list[str]]:
        """Whether a probe (live, ready or startup) is answered well, and why not. Never waits."""
        results = self._results()
        reasons = self._judges[name](results)
        return not reasons, reasons

    def metrics(self) -> dict[str, Any]:
        """What get_metrics_data gives now. Waits up to its time limit.

        Raises `CallFailed`, and `Busy` if too many wait already.
        """
        return self.headed(self._wait_for(self._metrics_call()))

    def rendered(self, form: Format) -> bytes:
        """The metrics in one of Prometheus's formats. Waits and raises as `metrics` does."""
        open_metrics = form is Format.OPENMETRICS
        owner = getattr(self._metrics_source, "__self__", None)
        name = "render_openmetrics" if open_metrics else "render_prometheus"
        render = getattr(owner, name, None)
        if callable(render):
            rendered: bytes = self._wait_for(
                self._call(name, render, _bytes, CALLBACK_TIMEOUT_SECONDS)
            )
            return rendered
        from shared_sync.common import exposition  # noqa: PLC0415 - loads prometheus_client

        figures = self._wait_for(self._metrics_call())
        return exposition.render_plain(figures, self._instance_id, open_metrics=open_metrics)

    def state(self) -> dict[str, Any]:
        """All that the page shows but for the history."""
        with self._lock:
            views = dict(self._views)
        known = self._look_at(views)
        results = self._results(fresh=True)
        data = results[HEALTH].data
        status, reasons = self._overall(results.values())
        metrics = self._freshened(self._metrics_call()).value
        body: dict[str, Any] = {
            "run": self.run,
            **self.headed({}),
            "status": status,
            "reasons": reasons,
            "live": not self._not_live(results),
            "ready": not self._not_ready(results),
            "started": not self._not_started(results),
            "checks": [one.listed() for one in results.values()],
            "health": data.figures if data else {},
            "metrics": metrics or {},
            "views": known,
        }
        self._add_details(body, results.values())
        return body

    def past(self, since: int | None, figures: Collection[str]) -> dict[str, Any]:
        """The history, or what is newer than the `next` of an earlier answer; of all figures, or
        of some."""
        with self._telling:
            told = self.history.read(since, figures or None)
        return {"run": self.run, "period_seconds": HISTORY_PERIOD_SECONDS, **told}

    def headed(self, data: Mapping[str, Any], **first: str) -> dict[str, Any]:
        """The data behind who tells them and when, which win over their namesakes."""
        head = {
            **first,
            "instance_id": self._instance_id,
            "timestamp": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        }
        return {**head, **data, **head}

    # --- inside: results ---

    def _results(self, *, fresh: bool = False) -> dict[str, Finding]:
        with self._lock:
            checks = list(self._checks.values())
            calls = self._calls
        results = {}
        for check in checks:
            call = calls.checks.get(check.name) if calls is not None else None
            if call is None:
                last: PollResult[HealthData] = PollResult()
            elif fresh and check.name == HEALTH:
                last = self._freshened(call)
            else:
                last = call.result
            results[check.name] = Finding(check, last)
        if not self._started:
            self._started = not self._loading(results)
        return results

    def _freshened(self, call: Poller[T]) -> PollResult[T]:
        if not self._waiting.acquire(blocking=False):
            return call.result
        try:
            return call.refresh(FRESH_SECONDS)[0]
        finally:
            self._waiting.release()

    def _overall(self, results: Iterable[Finding]) -> tuple[str, list[str]]:
        results = list(results)
        reasons = [reason for one in results for reason in one.reasons]
        if self._draining:
            reasons.append("draining")
        statuses = [one.status for one in results]
        return payload.worst([*statuses, DEGRADED if self._draining else HEALTHY]), reasons

    def _not_live(self, results: Mapping[str, Finding]) -> list[str]:
        return [reason for one in results.values() if not one.live for reason in one.whys]

    def _not_ready(self, results: Mapping[str, Finding]) -> list[str]:
        reasons = self._not_started(results)
        reasons += [
            reason
            for one in results.values()
            if not one.ready
            for reason in one.whys
            if reason not in reasons
        ]
        return [*reasons, "draining"] if self._draining else reasons

    def _not_started(self, results: Mapping[str, Finding]) -> list[str]:
        return [] if self._started else self._loading(results)

    def _loading(self, results: Mapping[str, Finding]) -> list[str]:
        """What is still to come before everything is loaded; once that is so, it stays so."""
        return [reason for one in results.values() if not one.started for reason in one.whys]

    def _add_details(self, body: dict[str, Any], results: Iterable[Finding]) -> None:
        if not self._details:
            return
        failures = {one.check.name: one.failure for one in results if one.failure is not None}
        told = {name: one.detail for name, one in failures.items() if one.detail is not None}
        if told:
            body["failures"] = told

    # --- inside: calls ---

    def _metrics_call(self) -> Poller[dict[str, Any]]:
        return self._call(METRICS, self._metrics_source, self._mapping, CALLBACK_TIMEOUT_SECONDS)

    def _call(
        self,
        name: str,
        function: Callable[[], object],
        convert: Callable[[object], Any],
        timeout_seconds: float,
    ) -> Poller[Any]:
        """The call of that name, begun when it is first wanted."""
        with self._lock:
            if self._calls is None:
                raise CallFailed("the server stops", None)
            return self._calls.add_on_demand(name, lambda: convert(function()), timeout_seconds)

    def _mapping(self, returned: object) -> dict[str, Any]:
        if not isinstance(returned, Mapping):
            raise TypeError(f"it must return a mapping, not {type(returned).__name__}")
        return payload.presentable_mapping(returned, details=self._details)

    def _wait_for(self, call: Poller[Any]) -> Any:
        if not self._waiting.acquire(blocking=False):
            raise Busy
        try:
            last, fresh = call.refresh(call.timeout_seconds)
        finally:
            self._waiting.release()
        if not fresh:
            raise CallFailed(f"{call.name} timed out after {call.timeout_seconds:g} s", None)
        if last.error is not None:
            detail = as_detail(last.error) if self._details else None
            raise CallFailed(f"{call.name} failed", detail)
        return last.value

    def _look_at(self, views: Mapping[str, View]) -> dict[str, Any]:
        """What the views show; has those called again that are out of date."""
        calls = {
            name: self._call(f"view {name}", view.function, self._mapping, view.timeout_seconds)
            for name, view in views.items()
        }
        deadline = monotonic() + FRESH_SECONDS
        for call in calls.values():
            last = call.result
            now = monotonic()
            if last.ended_at is None:
                call.refresh(max(0.0, deadline - now))
            elif last.running_since is None and now - last.ended_at >= VIEW_PERIOD_SECONDS:
                call.request()
        return {name: _view(call, details=self._details) for name, call in calls.items()}


class _Sampler:
    """Adds a point to the history every few seconds, of figures that are fetched for it.

    For the thread of the pulse.
    """

    def __init__(self, history: History, calls: Pollers, metrics: Poller[Any]) -> None:
        self._history = history
        self._calls = calls
        self._metrics = metrics
        self._due = monotonic()
        self._ticket: int | None = None

    def step(self) -> None:
        now = monotonic()
        due = now >= self._due
        if self._ticket is not None:
            served = self._metrics.has_answered(self._ticket)
            if served or due:
                self._ticket = None
                self._record(self._metrics.result.value if served else None)
        if due:
            self._due = max(self._due + HISTORY_PERIOD_SECONDS, now)
            self._ticket = self._metrics.request()

    def _record(self, metrics: Mapping[str, Any] | None) -> None:
        figures: dict[str, Any] = {}
        for name, check in reversed(self._calls.checks.items()):  # the callback's come last and win
            data = check.result.value
            if data is not None and not (check.result.hangs and name != HEALTH):
                figures |= data.figures
        self._history.record(time.time(), {**figures, **(metrics or {})})


def _views_of(function: Callable[[], object]) -> dict[str, Callable[[], object]]:
    """What else the object of a method has to show, where that is a consumer or the like."""
    get_views = getattr(getattr(function, "__self__", None), "get_views", None)
    try:
        views = get_views() if callable(get_views) else {}
    except Exception:  # noqa: BLE001 - another method of that name, which is not meant for this
        return {}
    if not isinstance(views, Mapping):
        return {}
    return {name: view for name, view in views.items() if isinstance(name, str) and callable(view)}


def _view(call: Poller[Any], *, details: bool) -> dict[str, Any]:
    last = call.result
    problem = None
    if last.hangs:
        problem = f"timed out after {call.timeout_seconds:g} s"
    elif last.error is not None:
        problem = f"failed: {as_detail(last.error)}" if details else "failed"
    return {"age_seconds": age(last.ended_at), "problem": problem, "data": last.value}


def _bytes(rendered: object) -> bytes:
    if isinstance(rendered, str):
        return rendered.encode()
    if not isinstance(rendered, bytes):
        raise TypeError(f"it must return bytes or text, not {type(rendered).__name__}")
    return rendered
