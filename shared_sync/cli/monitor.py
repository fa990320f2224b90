"""Inspects a Redis, a stream and a group from outside, once a second, for `health serve`."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from shared_sync.common import backoff, exposition
from shared_sync.common.log_once import LogOnce
from shared_sync.common.loop import Loop
from shared_sync.common.queue_metrics import queue_values
from shared_sync.connection import discovery
from shared_sync.connection import url as connection_url
from shared_sync.connection.availability import Availability
from shared_sync.connection.connection import Connection
from shared_sync.connection.credentials import CredentialProvider
from shared_sync.errors import RedisAccessDenied, SharedSyncError
from shared_sync.group_status import GroupStatus, Limits, Status
from shared_sync.metrics import WorkerMetrics, catalogue
from shared_sync.protocol import inspection
from shared_sync.protocol.inspection import GroupView
from shared_sync.protocol.keys import Keys

PERIOD_SECONDS: Final = 1.0
REPLY_TIMEOUT_SECONDS: Final = 3.0
FRESH_SECONDS: Final = 10.0
"""How old an answer of Redis may be; longer than an inspection that hangs until it times out."""

CURRENT_SECONDS: Final = 5.0
"""How old a value may be to be shown as the current one."""

_USER: Final = "monitor"
"""Under which the availability of Redis is reported."""

_OWN_KEYS: Final = ("instance_id", "uptime_seconds", "memory_usage_mb", "cpu_percent")
"""The part of a worker's health data that makes sense for a process that runs no jobs."""

_DESCRIPTIONS: Final = {
    "consumers_alive": "Consumers of the group that give signs of life.",
    "oldest_waiting_seconds": "For how long the oldest message has waited to be read.",
    "entries_added_total": "Messages ever added to the stream.",
    "entries_finished_total": "Messages of the stream that are finished and deleted.",
}


class Monitor:
    """Inspects Redis once a second from its own thread; any thread may read what it found.

    `keys` is None to inspect only Redis. The process's own metrics are those of `metrics`.
    """

    def __init__(
        self,
        redis_url: str,
        keys: Keys | None,
        metrics: WorkerMetrics,
        logger: logging.Logger,
        *,
        limits: Limits = Limits(),  # noqa: B008 - it is frozen
        credential_provider: CredentialProvider | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Raises `ConfigurationError` for a `redis_url` that cannot be used. Does not connect."""
        # Fixed after construction.
        self._keys = keys
        self._metrics = metrics
        self._logger = logger
        self._clock = clock
        self._wall = wall
        self._address = connection_url.safe_address(redis_url)
        connector = partial(
            discovery.connector_of_process,
            redis_url,
            key=keys.stream if keys else None,
            role="monitor",
            credential_provider=credential_provider,
        )
        self._connection = Connection(connector(reply_timeout_seconds=REPLY_TIMEOUT_SECONDS))
        self._availability = Availability(self._address, logger)
        self._group_status: GroupStatus | None = None
        self.group_view: GroupView | None = None
        """The tables of the group, for the page."""
        if keys is not None:
            connect = connector(reply_timeout_seconds=inspection.REPLY_TIMEOUT_SECONDS)
            self._group_status = GroupStatus(
                keys, limits=limits, recorder=metrics, logger=logger, clock=clock
            )
            parts = {"status": self._group_status.read_json}
            self.group_view = GroupView(connect, keys, parts=parts, clock=clock)
            self.group_view.is_shown = True
        self._stop = threading.Event()
        self._was_inspected = threading.Event()
        self._loop = Loop(
            "health-monitor",
            step=self._step,
            stop=self._stop,
            on_error=self._handle_error,
            finish=self._connection.close,
            period_seconds=PERIOD_SECONDS,
        )
        # Written by the monitor's thread, each replaced as a whole.
        self._status: Status | None = None
        self._found_at = 0.0  # on the wall clock, which goes on while the machine sleeps
        self._answered_at: float | None = None
        self._is_denied = False
        # Owned by the monitor's thread.
        self._log_uncounted = LogOnce(logger, logging.WARNING)

    def start(self) -> None:
        """Start the thread; block until the first inspection has ended or failed, or 5 s."""
        self._loop.start()
        self._was_inspected.wait(discovery.CONNECT_TIMEOUT_SECONDS)

    def stop(self) -> None:
        """End the thread; block up to the time limit of one inspection."""
        self._stop.set()
        self._loop.join(time.monotonic() + discovery.CONNECT_TIMEOUT_SECONDS)

    def inspect(self) -> None:
        """Inspect Redis once. Raises what the connection raises."""
        started = self._clock()
        status = None
        if self._group_status is None:
            self._connection.call("TIME")
        else:
            status = self._group_status.read(self._connection)
        self._answered_at = self._clock()
        self._is_denied = False
        self._availability.succeeded(_USER)
        self._metrics.record_duration("redis_round_trip", self._answered_at - started)
        if status is not None:
            if status.reading.scheduled is None:
                self._log_uncounted(
                    "scheduled jobs cannot be counted: this Redis user lacks +zcard; this is "
                    "logged once"
                )
            if self.group_view is not None:
                self.group_view.watch(self._connection)
        self._status = status
        self._found_at = self._wall()

    # --- results; any thread ---

    def get_health_data(self) -> dict[str, Any]:
        """Return the data of /health, apart from the checks.

        The process is live whatever happens to Redis: no restart would help.
        """
        data: dict[str, Any] = {"live": True, "redis_connected": self._availability.connected}
        if self._keys is not None:
            data |= {"stream": self._keys.stream, "group": self._keys.group}
        own = self._metrics.get_basic_health_data()
        return data | self._values() | {key: own[key] for key in _OWN_KEYS}

    def check_redis(self) -> dict[str, Any]:
        """Return whether Redis has answered lately, as a check does."""
        answered_at = self._answered_at
        if answered_at is not None:
            seconds = round(self._clock() - answered_at, 3)
            if self._availability.connected and seconds < FRESH_SECONDS:
                return {"seconds_since_answer": seconds}
        if self._is_denied:
            reason = "Redis refuses this user: check its password and its rights (docs/redis.md)"
        elif answered_at is None:
            reason = "Redis has never answered"
        else:
            reason = "Redis does not answer"
        return {
            "status": "unhealthy",
            "ready": False,
            "reasons": [reason],
            "details": self._address,
        }

    def check_group(self) -> dict[str, Any]:
        """Return whether the group exists and its messages make progress, as a check does."""
        status = self._status if self._availability.connected else None
        if status is None:
            return {"status": "degraded", "reasons": ["unknown while Redis does not answer"]}
        found: dict[str, Any] = {"consumers_alive": status.alive}
        if status.reading.group_exists:
            waited = status.oldest_waiting_seconds
            found["oldest_waiting_seconds"] = None if waited is None else round(waited, 1)
        if status.problems:
            found |= {"status": status.health, "reasons": status.reasons}
        return found

    def get_metrics_data(self) -> dict[str, Any]:
        """Return the data of /metrics; values that are not known now are None."""
        return self._metrics.get_metrics_data() | self._values()

    def collect(self) -> Iterator[Metric]:
        """Yield the same as metrics of prometheus_client, without values that are not known."""
        yield from self._metrics.collect()
        for name, value in self._values().items():
            if value is not None:
                yield self._family(name, value)

    def render_prometheus(self) -> bytes:
        """Return the same in Prometheus's text format 0.0.4."""
        return exposition.render_text(self)

    def render_openmetrics(self) -> bytes:
        """Return the same in the text format of OpenMetrics 1.0."""
        return exposition.render_openmetrics(self)

    def _family(self, name: str, value: float) -> Metric:
        family: CounterMetricFamily | GaugeMetricFamily
        labels = {"instance_id": self._metrics.instance_id}
        if self._keys is not None:
            labels |= {"group": self._keys.group, "stream": self._keys.stream}
        if name.endswith("_total"):
            family = CounterMetricFamily(name, _DESCRIPTIONS[name], labels=list(labels))
        else:
            about = catalogue.KNOWN.get(name)
            text = about.help if about else _DESCRIPTIONS[name]
            family = GaugeMetricFamily(name, text, labels=list(labels))
        family.add_metric(list(labels.values()), value)
        return family

    def _values(self) -> dict[str, float | None]:
        if self._keys is None:
            return {}
        # Values from before this process stood still are not current.
        is_current = self._wall() - self._found_at < CURRENT_SECONDS
        connected = self._availability.connected and is_current
        status = self._status if connected else None
        queue = queue_values()
        if status is not None:
            sizes = status.reading.queue
            queue = queue_values(
                unfinished=sizes.backlog,
                waiting=sizes.waiting,
                pending=sizes.pending,
                parked=sizes.parked,
                scheduled=status.reading.scheduled,
                dead_letters=sizes.dead,
            )
        found = status.survey if status else None
        return {
            "consumers_alive": status.alive if status else None,
            **queue,
            "entries_added_total": found.added if found else None,
            "entries_finished_total": found.finished if found else None,
            "oldest_waiting_seconds": found.oldest_waiting_seconds if found else None,
        }

    # --- inside ---

    def _step(self) -> None:
        self.inspect()
        self._was_inspected.set()

    def _handle_error(self, error: BaseException, failures: int) -> float:
        """Report the error; return the seconds to wait before the next inspection."""
        if isinstance(error, SharedSyncError):
            self._is_denied = isinstance(error, RedisAccessDenied)
            self._availability.failed(_USER, error)
        else:
            self._logger.error("inspecting Redis failed and goes on", exc_info=error)
        self._was_inspected.set()
        return backoff.exponential(failures, base_seconds=0.2, max_seconds=2.0, jitter=0.5)
