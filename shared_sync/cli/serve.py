"""python -m shared_sync.health serve: the health of a Redis, a stream and a group over HTTP.

It looks from outside, so one of it can watch what many workers share. /health is unhealthy while
Redis does not answer and degraded while the group does not exist; /metrics has the queue's
figures, and the dashboard the whole group. The page is answered from figures that are at most a
second or two old: no request ever waits for Redis.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, Final, NoReturn

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from shared_sync.cli.options import Parser, add_token_file, read_token
from shared_sync.common import backoff, exposition
from shared_sync.common.loop import Loop
from shared_sync.common.queue_metrics import queue_values
from shared_sync.connection import discovery
from shared_sync.connection import url as connection_url
from shared_sync.connection.availability import Availability
from shared_sync.connection.connection import Connection
from shared_sync.errors import (
    ConfigurationError,
    RedisAccessDenied,
    RedisRefused,
    SharedSyncError,
)
from shared_sync.health_server import HealthServer
from shared_sync.metrics import WorkerMetrics, catalogue
from shared_sync.protocol import groups, inspection
from shared_sync.protocol.groups import GroupOverview
from shared_sync.protocol.inspection import GroupView
from shared_sync.protocol.keys import Keys

INTERVAL_SECONDS: Final = 1.0
REPLY_TIMEOUT_SECONDS: Final = 3.0
LATELY_SECONDS: Final = 10.0
"""Longer than a look that hangs takes until it is given up on."""

COUNT_SECONDS: Final = 5.0
"""Between two counts of the entries, for which the server reads two messages whole."""


class Watch:
    """Looks at Redis once a second from its own thread; what it saw may be read by any thread."""

    def __init__(
        self,
        redis_url: str,
        keys: Keys | None,
        metrics: WorkerMetrics,
        logger: logging.Logger,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Fixed after construction.
        self._keys = keys
        self._metrics = metrics
        self._logger = logger
        self._clock = clock
        self._address = connection_url.safe_address(redis_url)
        connect = discovery.connector(
            redis_url,
            key=keys.stream if keys else None,
            reply_timeout_seconds=REPLY_TIMEOUT_SECONDS,
        )
        self._link = Connection(connect)
        self._connectivity = Availability(self._address, logger)
        self._stop = threading.Event()
        self._looked = threading.Event()
        self._loop = Loop(
            "health-watch",
            step=self._step,
            stop=self._stop,
            on_error=self._trouble,
            finish=self._link.close,
        )
        # Owned by the watch's thread.
        self._may_count = True
        self._next_count = 0.0
        # Written by the watch's thread, each replaced as a whole.
        self._sight: GroupOverview | None = None
        self._entries: tuple[int | None, int] | None = None
        self._answered_at: float | None = None
        self._is_denied = False

    def start(self) -> None:
        """Start looking; blocks until the first look has ended, well or not, or 5 s."""
        self._loop.start()
        self._looked.wait(discovery.CONNECT_TIMEOUT_SECONDS)

    def stop(self) -> None:
        """End within the time limit of one look."""
        self._stop.set()
        self._loop.join(time.monotonic() + discovery.CONNECT_TIMEOUT_SECONDS)

    def look(self) -> None:
        """One look. Raises what the link raises."""
        started = self._clock()
        self._sight = groups.inspect_group(self._link, self._keys)
        self._answered_at = self._clock()
        self._is_denied = False
        self._connectivity.succeeded("watch")
        self._metrics.record_duration("redis_round_trip", self._answered_at - started)
        if self._keys and self._may_count and started >= self._next_count:
            self._next_count = started + COUNT_SECONDS
            self._count_entries(self._keys)

    # --- what it tells; any thread ---

    def get_health_data(self) -> dict[str, Any]:
        """What /health tells, beside the checks. What befalls Redis is no reason for a restart."""
        data: dict[str, Any] = {"live": True, "redis_connected": self._connectivity.connected}
        if self._keys is not None:
            data |= {"stream": self._keys.stream, "group": self._keys.group}
        own = self._metrics.get_basic_health_data()
        return data | self._figures() | {key: own[key] for key in _OWN}

    def check_redis(self) -> dict[str, Any]:
        """Whether Redis answered lately."""
        answered_at = self._answered_at
        if answered_at is not None:
            seconds = round(self._clock() - answered_at, 3)
            if self._connectivity.connected and seconds < LATELY_SECONDS:
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
        """Whether the group is there."""
        sight = self._sight if self._connectivity.connected else None
        if sight is None:
            return {"status": "degraded", "reasons": ["unknown while Redis does not answer"]}
        if self._keys is not None and not sight.group_exists:
            reason = (
                f"group {self._keys.group} of stream {self._keys.stream} does not exist; "
                "the first worker creates it"
            )
            return {"status": "degraded", "reasons": [reason]}
        return {"consumers_alive": sight.consumers_alive}

    def get_metrics_data(self) -> dict[str, Any]:
        """What /metrics tells; figures that are not known just now are null."""
        return self._metrics.get_metrics_data() | self._figures()

    def collect(self) -> Iterator[Metric]:
        """The same as families of prometheus_client; what is not known is left out."""
        yield from self._metrics.collect()
        for name, figure in self._figures().items():
            if figure is not None:
                yield self._family(name, figure)

    def render_prometheus(self) -> bytes:
        """The same in Prometheus's text format 0.0.4."""
        return exposition.render_text(self)

    def render_openmetrics(self) -> bytes:
        """The same in the text format of OpenMetrics 1.0."""
        return exposition.render_openmetrics(self)

    def _family(self, name: str, figure: int) -> Metric:
        family: CounterMetricFamily | GaugeMetricFamily
        if name.endswith("_total"):
            family = CounterMetricFamily(name, _HELP[name], labels=["instance_id"])
        else:
            about = catalogue.KNOWN.get(name)
            text = about.help if about else _HELP[name]
            family = GaugeMetricFamily(name, text, labels=["instance_id"])
        family.add_metric([self._metrics.instance_id], figure)
        return family

    def _figures(self) -> dict[str, int | None]:
        if self._keys is None:
            return {}
        connected = self._connectivity.connected
        sight = self._sight if connected else None
        figures = sight.metrics if sight else None
        queue = queue_values()
        if figures is not None:
            queue = queue_values(
                unfinished=figures.backlog,
                waiting=figures.waiting,
                pending=figures.pending,
                parked=figures.parked,
                dead_letters=figures.dead,
            )
        added, length = (self._entries if connected else None) or (None, 0)
        return {
            "consumers_alive": sight.consumers_alive if sight else None,
            **queue,
            "entries_added_total": added,
            "entries_finished_total": None if added is None else added - length,
        }

    # --- inside ---

    def _count_entries(self, keys: Keys) -> None:
        try:
            self._entries = groups.parse_entries(self._link.call(*groups.entries(keys)))
        except RedisAccessDenied:
            self._may_count = False
            self._logger.warning(
                "entries_added_total and entries_finished_total are unknown, as this Redis user "
                "lacks +xinfo|stream; this is said once"
            )
        except RedisRefused:
            self._entries = None  # there is no stream now

    def _step(self) -> None:
        self.look()
        self._looked.set()
        self._stop.wait(INTERVAL_SECONDS)

    def _trouble(self, error: BaseException, failures: int) -> float:
        if isinstance(error, SharedSyncError):
            self._is_denied = isinstance(error, RedisAccessDenied)
            self._connectivity.failed("watch", error)
        else:
            self._logger.error("looking at Redis failed and goes on", exc_info=error)
        self._looked.set()
        return backoff.exponential(failures, base_seconds=0.2, max_seconds=2.0, jitter=0.5)


_OWN: Final = ("instance_id", "uptime_seconds", "memory_usage_mb", "cpu_percent")
"""What of a worker's health data makes sense for a watcher, which runs no jobs."""

_HELP: Final = {
    "consumers_alive": "Consumers of the group that give signs of life.",
    "entries_added_total": "Messages ever added to the stream.",
    "entries_finished_total": "Messages of the stream that are finished and deleted.",
}


def serve(options: argparse.Namespace, logger: logging.Logger) -> NoReturn:
    """Serve until SIGTERM or SIGINT, which end the process with status 0."""
    keys = Keys.of(options.stream, options.group) if options.stream else None
    watch = Watch(options.redis_url, keys, WorkerMetrics(options.instance_id), logger)
    server = HealthServer(
        options.instance_id,
        options.port,
        logger,
        watch.get_health_data,
        watch.get_metrics_data,
        host=options.host,
        cors=None if options.cors == "none" else options.cors,
        token=read_token(options.token_file),
        details=options.details,
    )
    server.add_check("redis", watch.check_redis, period_seconds=INTERVAL_SECONDS)
    if keys is not None:
        server.add_check(
            "group",
            watch.check_group,
            critical=False,
            readiness=False,
            period_seconds=INTERVAL_SECONDS,
        )
        connect = discovery.connector(
            options.redis_url,
            key=keys.stream,
            reply_timeout_seconds=inspection.REPLY_TIMEOUT_SECONDS,
        )
        server.add_view("group", GroupView(connect, keys).read)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    watch.start()
    try:
        with server:
            logger.info("serving %s/health and %s/metrics", server.url, server.url)
            while True:
                signal.pause()
    finally:
        watch.stop()


def main(arguments: Sequence[str]) -> NoReturn:
    """Parse the command line and serve. Raises a `SharedSyncError` for what cannot work."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if bool(options.stream) != bool(options.group):
        raise ConfigurationError("--stream and --group go together; give both or neither")
    serve(options, logging.getLogger("shared_sync.health"))


def _parser() -> Parser:
    parser = Parser(
        prog="python -m shared_sync.health",
        usage="%(prog)s [serve] [options] | check ... | advise ...",
        description="Serve /health, /metrics and a dashboard of a Redis, a stream and a group. "
        "'check --help' and 'advise --help' tell of the other commands: ask such a page, and "
        "print probes for Kubernetes and Compose.",
    )
    parser.add_argument("--host", default="0.0.0.0", help="address to bind (default: all)")  # noqa: S104
    parser.add_argument(
        "--port",
        type=int,
        default=os.environ.get("HEALTH_PORT") or "8080",
        help="port to bind, 0 for a free one (default: HEALTH_PORT, else 8080)",
    )
    parser.add_argument("--instance-id", default="health", help="name on the page")
    parser.add_argument(
        "--redis-url",
        default=os.environ.get("REDIS_URL") or "redis://localhost:6379/0",
        help="Redis to look at (default: REDIS_URL, else redis://localhost:6379/0)",
    )
    parser.add_argument("--stream", help="stream to look at")
    parser.add_argument("--group", help="its consumer group")
    add_token_file(parser)
    parser.add_argument(
        "--cors",
        default="*",
        metavar="ORIGIN",
        help="whose pages may read the answers: an origin, *, or none (default: %(default)s)",
    )
    parser.add_argument(
        "--details",
        action="store_true",
        help="show texts of errors too, which may tell what messages are about",
    )
    return parser


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)
