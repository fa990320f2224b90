"""python -m shared_sync.health: serve the health of a Redis, a stream and a group over HTTP.

It looks from outside, so one of it can watch what many workers share. /health is unhealthy while
Redis does not answer and degraded while the group does not exist; /metrics has the queue's
figures. The page is answered from figures that are at most a second or two old: no request ever
waits for Redis.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn

from shared_sync import _address, _backoff, _servers, _streams
from shared_sync._connectivity import Connectivity
from shared_sync._lifecycle import Loop
from shared_sync._link import Link
from shared_sync._streams import GroupSight, Keys
from shared_sync.errors import ConfigurationError, SharedSyncError
from shared_sync.health_server import HealthServer
from shared_sync.metrics import WorkerMetrics

INTERVAL_SECONDS = 1.0
REPLY_TIMEOUT_SECONDS = 3.0


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
        connect = _servers.connector(
            redis_url,
            key=keys.stream if keys else None,
            reply_timeout_seconds=REPLY_TIMEOUT_SECONDS,
        )
        self._link = Link(connect)
        self._connectivity = Connectivity(_address.safe_address(redis_url), logger)
        self._stop = threading.Event()
        self._looked = threading.Event()
        self._loop = Loop(
            "health-watch",
            step=self._step,
            stop=self._stop,
            trouble=self._trouble,
            finish=self._link.close,
        )
        # Written by the watch's thread, replaced as a whole.
        self._sight: GroupSight | None = None

    def start(self) -> None:
        """Start looking; blocks until the first look has ended, well or not, or 5 s."""
        self._loop.start()
        self._looked.wait(_servers.CONNECT_TIMEOUT_SECONDS)

    def stop(self) -> None:
        """End within the time limit of one look."""
        self._stop.set()
        self._loop.join(time.monotonic() + _servers.CONNECT_TIMEOUT_SECONDS)

    def look(self) -> None:
        """One look. Raises what the link raises."""
        started = self._clock()
        self._sight = _streams.see_group(self._link, self._keys)
        self._connectivity.succeeded("watch")
        self._metrics.record_duration("redis_round_trip", self._clock() - started)

    def health_data(self) -> dict[str, Any]:
        """What /health tells."""
        data: dict[str, Any] = {"redis_connected": self._connectivity.connected}
        if self._keys is not None:
            data |= {"stream": self._keys.stream, "group": self._keys.group}
            data |= self._figures()
            if self._connectivity.connected and self._sight and not self._sight.group_exists:
                data["status"] = "degraded"
                data["reasons"] = [
                    f"group {self._keys.group} of stream {self._keys.stream} does not exist; "
                    "the first worker creates it"
                ]
        return data | self._metrics.get_basic_health_data()

    def metrics_data(self) -> dict[str, Any]:
        """What /metrics tells; figures that are not known just now are null."""
        return self._metrics.get_metrics_data() | self._figures()

    def _figures(self) -> dict[str, int | None]:
        sight = self._sight if self._connectivity.connected else None
        figures = sight.figures if sight else None
        if self._keys is None:
            return {}
        return {
            "consumers_alive": sight.consumers_alive if sight else None,
            "queue_depth": figures.backlog if figures else None,
            "queue_waiting": figures.waiting if figures else None,
            "jobs_pending": figures.pending - figures.parked if figures else None,
            "jobs_parked": figures.parked if figures else None,
            "dead_letters": figures.dead if figures else None,
        }

    def _step(self) -> None:
        self.look()
        self._looked.set()
        self._stop.wait(INTERVAL_SECONDS)

    def _trouble(self, error: BaseException, failures: int) -> float:
        if isinstance(error, SharedSyncError):
            self._connectivity.failed("watch", error)
        else:
            self._logger.error("looking at Redis failed and goes on", exc_info=error)
        self._looked.set()
        return _backoff.exponential(failures, base_seconds=0.2, max_seconds=2.0, jitter=0.5)


def serve(options: argparse.Namespace, logger: logging.Logger) -> NoReturn:
    """Serve until SIGTERM or SIGINT, which end the process with status 0."""
    keys = Keys.of(options.stream, options.group) if options.stream else None
    metrics = WorkerMetrics(options.instance_id)
    watch = Watch(options.redis_url, keys, metrics, logger)
    server = HealthServer(
        options.instance_id,
        options.port,
        logger,
        watch.health_data,
        watch.metrics_data,
        host=options.host,
    )
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and serve; returns only with an error's exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        if bool(options.stream) != bool(options.group):
            raise ConfigurationError("--stream and --group go together; give both or neither")
        serve(options, logging.getLogger("shared_sync.health"))
    except SharedSyncError as error:
        print(f"shared_sync.health: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m shared_sync.health",
        description="Serve /health and /metrics of a Redis, and of a stream and group in it.",
    )
    parser.add_argument("--host", default="0.0.0.0", help="address to bind (default: all)")  # noqa: S104
    parser.add_argument(
        "--port",
        type=int,
        default=os.environ.get("HEALTH_PORT", "8080"),
        help="port to bind, 0 for a free one (default: HEALTH_PORT, else 8080)",
    )
    parser.add_argument("--instance-id", default="health", help="name on the page")
    parser.add_argument(
        "--redis-url",
        default=os.environ.get("REDIS_URL", "redis://localhost:6379/0"),
        help="Redis to look at (default: REDIS_URL, else redis://localhost:6379/0)",
    )
    parser.add_argument("--stream", help="stream to look at")
    parser.add_argument("--group", help="its consumer group")
    return parser


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
