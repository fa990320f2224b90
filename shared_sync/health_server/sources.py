"""Where a health server gets its data from: a consumer and metrics, or functions of the user."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from shared_sync.errors import ConfigurationError
from shared_sync.health_server import views
from shared_sync.health_server.checks import HEALTH, Check
from shared_sync.health_server.views import View

CONSUMER: Final = "consumer"
METRICS: Final = "metrics"
"""Names of the checks that the arguments of these names add."""

CALLBACK_PERIOD_SECONDS = 1.0
CALLBACK_TIMEOUT_SECONDS = 2.0

_METRICS_PERIOD_SECONDS = 5.0


class Consumer(Protocol):
    """What a health server needs of a consumer; `RedisStreamConsumer` is one.

    If it also has `get_views()`, the dashboard shows these tables.
    """

    def get_health_data(self) -> Mapping[str, Any]:
        """Return the health data of the consumer."""


class Metrics(Protocol):
    """What a health server needs of a metrics registry; `WorkerMetrics` is one.

    If it also has `get_basic_health_data()`, its alerts count for health; if it has
    `render_prometheus()` and `render_openmetrics()`, Prometheus gets what they return.
    """

    def get_metrics_data(self) -> Mapping[str, Any]:
        """Return all metrics as a flat mapping."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The functions that a health server calls."""

    checks: tuple[Check, ...]
    """The first one has the name `HEALTH`: its data are the values of /health."""

    get_metrics_data: Callable[[], object]
    renderer: object
    """May have `render_prometheus` and `render_openmetrics`, which return all metrics."""

    views: Mapping[str, View]
    has_consumer: bool
    """Whether the user named a consumer."""


def choose(
    get_health_data: Callable[[], object] | None,
    get_metrics_data: Callable[[], object] | None,
    consumer: Consumer | None,
    metrics: Metrics | None,
) -> Sources:
    """Return the sources that these arguments of a `HealthServer` name.

    A function of the user wins over the object with the same data. Then the object's health is
    checked beside it. Raises `ConfigurationError` for an argument that cannot work.
    """
    _check_arguments(get_health_data, get_metrics_data, consumer, metrics)
    alerts: Callable[[], object] | None = getattr(metrics, "get_basic_health_data", None)
    health = get_health_data
    if health is None and consumer is not None:
        health = consumer.get_health_data
    if health is None:
        health = alerts
    if health is None:
        raise _no_health(get_health_data)
    if get_metrics_data is None and metrics is not None:
        get_metrics_data = metrics.get_metrics_data
    checks = [_health_check(HEALTH, health)]
    if consumer is not None and health != consumer.get_health_data:
        checks.append(_health_check(CONSUMER, consumer.get_health_data))
    if alerts is not None and health != alerts:
        checks.append(_metrics_check(alerts))
    owner = getattr(get_metrics_data, "__self__", None)
    renders = callable(getattr(owner, "render_prometheus", None))
    return Sources(
        tuple(checks),
        get_metrics_data or dict,
        owner if renders else metrics,
        views.views_of(health if consumer is None else consumer.get_health_data),
        has_consumer=consumer is not None,
    )


def is_of_consumer(function: Callable[[], object]) -> bool:
    """Whether the function is `get_health_data` of a consumer: of an object with tables to show."""
    owner = getattr(function, "__self__", None)
    is_health = function == getattr(owner, "get_health_data", None)
    return is_health and callable(getattr(owner, "get_views", None))


def _health_check(name: str, function: Callable[[], object]) -> Check:
    """Return a check that decides about everything; about live only by the key `live`."""
    return Check(
        name,
        function,
        critical=True,
        liveness=False,
        readiness=True,
        startup=True,
        period_seconds=CALLBACK_PERIOD_SECONDS,
        timeout_seconds=CALLBACK_TIMEOUT_SECONDS,
    )


def _metrics_check(function: Callable[[], object]) -> Check:
    """Return the check of the alerts: /health is as bad as the worst one, and no probe fails."""
    return Check(
        METRICS,
        function,
        critical=True,
        liveness=False,
        readiness=False,
        startup=False,
        period_seconds=_METRICS_PERIOD_SECONDS,
        timeout_seconds=CALLBACK_TIMEOUT_SECONDS,
    )


def _check_arguments(
    get_health_data: object, get_metrics_data: object, consumer: object, metrics: object
) -> None:
    if get_health_data is not None and not callable(get_health_data):
        raise _no_health(get_health_data)
    if get_metrics_data is not None and not callable(get_metrics_data):
        raise ConfigurationError(
            f"get_metrics_data must be a function, not {get_metrics_data!r}; "
            "a WorkerMetrics is given as metrics="
        )
    for name, given, method in (
        ("consumer", consumer, "get_health_data"),
        ("metrics", metrics, "get_metrics_data"),
    ):
        if given is not None and not callable(getattr(given, method, None)):
            raise ConfigurationError(
                f"{name} must be an object that has {method}(), not {type(given).__name__}"
            )


def _no_health(given: object) -> ConfigurationError:
    return ConfigurationError(
        f"get_health_data must be a function that returns the health data, not {given!r}; it is "
        "the fourth argument, after the logger. Or leave it out, and give consumer= or metrics="
    )
