"""One worker process: a consumer with its metrics and its health server."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, NoReturn

from shared_sync import RedisStreamConsumer
from shared_sync.cli.options import read_token
from shared_sync.cli.output import Output
from shared_sync.cli.worker import building, targets
from shared_sync.cli.worker.configuration import Configuration
from shared_sync.cli.worker.kinds import shown
from shared_sync.common.masking import MASK
from shared_sync.errors import ConfigurationError, ConsumerBroken, LoadingFailed, PortUnavailable
from shared_sync.logging import configure
from shared_sync.tracing import configure as configure_tracing

logger = logging.getLogger(__name__)


def run(configuration: Configuration) -> int:
    """Run the worker in this process until a signal, and return the exit status."""
    prepare(configuration)
    describe(configuration)
    name = building.worker_name(configuration)
    metrics = building.make_metrics(configuration, name)
    consumer = building.make_consumer(configuration, name, metrics)
    with serving(configuration, name, consumer, metrics):
        return consume(consumer)


def show(configuration: Configuration, options: argparse.Namespace) -> None:
    """Print all settings with their values and sources, without secrets, and the warnings."""
    token = read_token(configuration["token_file"])
    rows = [
        *configuration.rows(all_settings=True),
        {
            "name": "token",
            "value": None if token is None else MASK,
            "source": "default" if token is None else configuration.token_source,
        },
    ]
    width = max(len(row["name"]) for row in rows)
    Output(options).show(
        {"settings": rows, "warnings": list(configuration.warnings)},
        *(f"{row['name']:{width}} = {shown(row['value'])}  # {row['source']}" for row in rows),
    )


def check(configuration: Configuration) -> int:
    """Raise what keeps a worker from being made with this configuration."""
    for warning in configuration.warnings:
        print(f"shared-sync: warning: {warning}", file=sys.stderr)
    targets.find_modules_here()
    name = building.worker_name(configuration)
    metrics = building.make_metrics(configuration, name)
    consumer = building.make_consumer(configuration, name, metrics)
    building.make_server(
        configuration,
        name,
        consumer=consumer,
        metrics=metrics,
        actions=building.make_actions(configuration),
        checks={},
        port=0,
    )
    return 0


def prepare(configuration: Configuration) -> None:
    """Set up what a process needs before it imports modules of the program."""
    configure(configuration["log_level"], configuration["log_format"])
    if configuration["tracing"]:
        configure_tracing(configuration["group"])
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)  # until the consumer catches them: nothing was read yet
    targets.find_modules_here()


def describe(configuration: Configuration) -> None:
    """Log what was configured, and what is not as it seems."""
    for warning in configuration.warnings:
        logger.warning("%s", warning)
    chosen = configuration.rows(all_settings=False)
    logger.info(
        "configuration: %s; --print-config shows all",
        ", ".join(f"{row['name']}={shown(row['value'])} ({row['source']})" for row in chosen),
    )


def consume(consumer: RedisStreamConsumer) -> int:
    """Process messages until the consumer is stopped, and return the exit status."""
    try:
        consumer.start_consuming()
    except LoadingFailed as error:
        if isinstance(error.__cause__, ConfigurationError):
            raise ConfigurationError(str(error)) from error
        logger.critical("%s", error, exc_info=error.__cause__)
        return error.exit_code
    except ConsumerBroken as error:
        logger.critical("%s", error)
        return error.exit_code
    return 0


@contextmanager
def serving(
    configuration: Configuration,
    name: str,
    consumer: Any,
    metrics: Any,
    checks: Mapping[str, Callable[[], object]] | None = None,
) -> Iterator[None]:
    """Have the health server run within the block, if there is to be one.

    If nobody has chosen the port and the usual one is taken, as by another worker on a developer's
    machine, it is a free one. Raises `PortUnavailable` for a port that somebody has chosen.
    """
    if configuration["health_port"] is None:
        yield
        return
    actions = building.make_actions(configuration)
    make = partial(
        building.make_server,
        configuration,
        name,
        consumer=consumer,
        metrics=metrics,
        actions=actions,
        checks=checks or {},
    )
    server = make(port=configuration["health_port"])
    try:
        server.start_server()
    except PortUnavailable as error:
        if configuration.is_given("health_port"):
            raise
        logger.warning(
            "%s; the health server takes a free port instead, because no --health-port is given",
            error,
        )
        server = make(port=0)
        server.start_server()
    logger.info("health, metrics and dashboard at %s", server.url)
    try:
        yield
    finally:
        server.stop_server()
        if actions is not None:
            actions.close()


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)
