"""Serves what a `Monitor` finds over HTTP, for `health serve`."""

from __future__ import annotations

import argparse
import logging
import signal
from types import FrameType
from typing import NoReturn

from shared_sync.cli import actions_option
from shared_sync.cli.limit_options import read_limits
from shared_sync.cli.monitor import PERIOD_SECONDS, Monitor
from shared_sync.cli.options import read_token
from shared_sync.cli.redis_options import read_credentials
from shared_sync.health_server import HealthServer
from shared_sync.logging import configure
from shared_sync.metrics import WorkerMetrics
from shared_sync.protocol.keys import Keys


def serve(options: argparse.Namespace) -> NoReturn:
    """Serve until SIGTERM or SIGINT, which exit with status 0.

    Raises a `SharedSyncError` for what cannot work.
    """
    logger = logging.getLogger("shared_sync.health")
    keys = Keys.of(options.stream, options.group) if options.stream else None
    metrics = WorkerMetrics(options.instance_id)
    monitor = Monitor(
        options.redis_url,
        keys,
        metrics,
        logger,
        limits=read_limits(options),
        credential_provider=read_credentials(options),
    )
    server = _make_server(options, monitor, keys, logger)
    configure(format="json" if options.json else "text")
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
    token = read_token(options.token_file)
    actions = None
    if options.actions:
        actions = actions_option.make(
            options.redis_url,
            stream=options.stream,
            group=options.group,
            token=token,
            credential_provider=read_credentials(options),
        )
    server = HealthServer(
        options.instance_id,
        options.port,
        logger,
        consumer=monitor,
        metrics=monitor,
        host=options.host,
        cors=None if options.cors == "none" else _names(options.cors) or "",
        allowed_hosts=_names(options.allowed_hosts),
        token=token,
        details=options.details,
        actions=actions,
        action_origins=_names(options.action_origins),
    )
    server.add_check("redis", monitor.check_redis, period_seconds=PERIOD_SECONDS)
    if keys is not None:
        server.add_check(
            "group",
            monitor.check_group,
            readiness=False,
            period_seconds=PERIOD_SECONDS,
        )
    if monitor.group_view is not None:
        server.add_view("group", monitor.group_view.read)
    return server


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _exit(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)
