"""python -m shared_sync.health serve: the health of a Redis, a stream and a group over HTTP.

The command inspects them from outside, so one process can watch what many workers share. /health is
unhealthy while Redis does not answer, and degraded while the group does not exist or its messages
make no progress (`group_health.py` says when). /metrics has the queue's metrics, and the dashboard
the whole group. Answers come from values that are a few seconds old at most: no request ever waits
for Redis.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import NoReturn

from shared_sync.cli.group_health import Limits
from shared_sync.cli.monitor import PERIOD_SECONDS, Monitor
from shared_sync.cli.options import Parser, add_token_file, read_token
from shared_sync.cli.redis_options import add_redis, read_credentials
from shared_sync.common import arguments
from shared_sync.errors import ConfigurationError
from shared_sync.health_server import HealthServer
from shared_sync.metrics import WorkerMetrics
from shared_sync.protocol.keys import Keys

LONGEST_SECONDS = 30 * 86_400


def main(command_line: Sequence[str]) -> NoReturn:
    """Parse the command line and serve until SIGTERM or SIGINT, which exit with status 0.

    Raises a `SharedSyncError` for what cannot work.
    """
    options = _parser().parse_args(command_line)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if bool(options.stream) != bool(options.group):
        raise ConfigurationError("--stream and --group go together; give both or neither")
    _serve(options, logging.getLogger("shared_sync.health"))


def _serve(options: argparse.Namespace, logger: logging.Logger) -> NoReturn:
    keys = Keys.of(options.stream, options.group) if options.stream else None
    limits = Limits(options.max_wait_seconds, options.growth_seconds, options.max_dead_share)
    metrics = WorkerMetrics(options.instance_id)
    monitor = Monitor(
        options.redis_url,
        keys,
        metrics,
        logger,
        limits=limits,
        credential_provider=read_credentials(options),
    )
    server = _make_server(options, monitor, keys, logger)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)
    monitor.start()
    try:
        with server:
            logger.info("serving %s/health and %s/metrics", server.url, server.url)
            while True:
                signal.pause()
    finally:
        monitor.stop()


def _make_server(
    options: argparse.Namespace, monitor: Monitor, keys: Keys | None, logger: logging.Logger
) -> HealthServer:
    server = HealthServer(
        options.instance_id,
        options.port,
        logger,
        consumer=monitor,
        metrics=monitor,
        host=options.host,
        cors=None if options.cors == "none" else _names(options.cors) or "",
        allowed_hosts=_names(options.allowed_hosts),
        token=read_token(options.token_file),
        details=options.details,
    )
    server.add_check("redis", monitor.check_redis, period_seconds=PERIOD_SECONDS)
    if keys is not None:
        server.add_check(
            "group",
            monitor.check_group,
            critical=False,
            readiness=False,
            period_seconds=PERIOD_SECONDS,
        )
    if monitor.group_view is not None:
        server.add_view("group", monitor.group_view.read)
    return server


def _parser() -> Parser:
    parser = Parser(
        prog="python -m shared_sync.health",
        usage="%(prog)s [serve] [options] | check ... | advise ...",
        description="Serve /health, /metrics and a dashboard of a Redis, a stream and a group. "
        "'check --help' and 'advise --help' describe the other commands: ask such a page, and "
        "print probes for Kubernetes and Compose.",
    )
    parser.add_argument("--host", help="address to bind (default: all, IPv6 and IPv4)")
    parser.add_argument(
        "--port",
        type=partial(arguments.port, "--port, or HEALTH_PORT,"),
        default=os.environ.get("HEALTH_PORT") or "8080",
        help="port to bind, 0 for a free one (default: HEALTH_PORT, else 8080)",
    )
    parser.add_argument("--instance-id", default="health", help="name on the page")
    add_redis(parser)
    parser.add_argument("--stream", help="stream to inspect")
    parser.add_argument("--group", help="its consumer group")
    for option, metavar, largest, default, text in (
        (
            "--max-wait-seconds",
            "SECONDS",
            LONGEST_SECONDS,
            300.0,
            "the oldest message waits longer",
        ),
        (
            "--growth-seconds",
            "SECONDS",
            LONGEST_SECONDS,
            300.0,
            "more messages arrive than end for so long",
        ),
        ("--max-dead-share", "SHARE", 1.0, 0.1, "a larger share of messages becomes dead letters"),
    ):
        parser.add_argument(
            option,
            type=_limit(option, largest),
            default=default,
            metavar=metavar,
            help=f"degraded if {text}; 0 for no limit (default: %(default)g)",
        )
    _add_access(parser)
    return parser


def _add_access(parser: Parser) -> None:
    """Add the options that say who may read what."""
    add_token_file(parser)
    parser.add_argument(
        "--cors",
        default="*",
        metavar="ORIGINS",
        help="whose pages may read the answers: origins, with commas between them; * for all, "
        "which concerns only /health and /metrics; or none (default: %(default)s)",
    )
    parser.add_argument(
        "--allowed-hosts",
        default=os.environ.get("HEALTH_ALLOWED_HOSTS") or "",
        metavar="NAMES",
        help="names, with commas between them, under which a browser may open the page, such as "
        "stt.example.com or *.example.com; addresses and names without a dot always may "
        "(default: HEALTH_ALLOWED_HOSTS, else none)",
    )
    parser.add_argument(
        "--details",
        action="store_true",
        help="show texts of errors too, which may contain parts of messages",
    )


def _limit(option: str, largest: float) -> Callable[[str], float | None]:
    def read(text: str) -> float | None:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value <= largest:
            raise ConfigurationError(
                f"{option} must be a number from 0 to {largest:g}, not {text!r}"
            )
        return value or None

    return read


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _exit(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)
