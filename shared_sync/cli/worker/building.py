"""Makes the parts of a worker process from the configuration."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from shared_sync import Batching, RedisStreamConsumer, RetryPolicy, WorkerMetrics
from shared_sync.cli import actions_option
from shared_sync.cli.options import read_token
from shared_sync.cli.redis_options import PasswordFile
from shared_sync.cli.worker import targets
from shared_sync.cli.worker.configuration import Configuration
from shared_sync.cli.worker.kinds import NONE
from shared_sync.cli.worker.setting import BATCHING, CONSUMER, RETRY, SERVER
from shared_sync.cli.worker.settings import SETTINGS
from shared_sync.errors import ConfigurationError
from shared_sync.redis_consumer.identity import unique_name

if TYPE_CHECKING:
    from shared_sync import HealthServer
    from shared_sync.group_actions import GroupActions

_BATCH_PARTS: Final = ("batch_wait_seconds", "batch_cost", "batch_max_cost")


def worker_name(configuration: Configuration) -> str:
    """Return the chosen name of this worker, or a unique one."""
    name: str | None = configuration["consumer_id"]
    return unique_name(configuration["group"]) if name is None else name


def make_metrics(configuration: Configuration, name: str) -> Any:
    """Return the metrics of the program, or else new ones."""
    path = configuration["metrics"]
    if path is None:
        return WorkerMetrics(name)
    metrics = targets.load(path, configuration.source("metrics"))
    if isinstance(metrics, WorkerMetrics):
        metrics.instance_id = name  # one module serves several workers, which must differ
    return metrics


def make_consumer(configuration: Configuration, name: str, metrics: object) -> RedisStreamConsumer:
    """Return the consumer, which was not connected yet.

    Imports the modules of the program, and raises what they raise, and `ConfigurationError` for
    what cannot work.
    """
    arguments = _values(configuration, CONSUMER)
    in_child = configuration["isolation"] == "process"
    arguments |= {
        "consumer_id": name,
        "logger": logging.getLogger(configuration["logger"]),
        "metrics": metrics,
        "retry": _retry(configuration),
        "batch": _batching(configuration),
        "credential_provider": make_credentials(configuration),
        "circuit_breakers": [
            targets.load(path, configuration.source("circuit_breakers"))
            for path in configuration["circuit_breakers"]
        ],
        "fatal_errors": [
            targets.load(error, configuration.source("fatal_errors")) if ":" in error else error
            for error in configuration["fatal_errors"]
        ],
        "message_processor": None,
        "processor_factory": None,
    }
    target = targets.load_processor(
        configuration["processor"],
        is_factory=configuration["factory"],
        takes_batches=configuration["batch"] is not None,
        in_child=in_child,
    )
    arguments[target.argument] = target.given
    return RedisStreamConsumer(**arguments)


def make_actions(configuration: Configuration) -> GroupActions | None:
    """Return what acts on the group for the page, if that is wanted. Does not connect."""
    if not configuration["actions"]:
        return None
    return actions_option.make(
        configuration["redis_url"],
        stream=configuration["stream"],
        group=configuration["group"],
        token=read_token(configuration["token_file"]),
        credential_provider=make_credentials(configuration),
    )


def make_server(
    configuration: Configuration,
    name: str,
    *,
    consumer: Any,
    metrics: Any,
    actions: GroupActions | None,
    checks: Mapping[str, Callable[[], object]],
    port: int,
) -> HealthServer:
    """Return the health server, which was not started yet, with these checks beside its own."""
    from shared_sync import HealthServer  # noqa: PLC0415 - the workers of a supervisor have none

    arguments = _values(configuration, SERVER)
    if arguments["cors"] == [NONE]:
        arguments["cors"] = None
    server = HealthServer(
        **{
            **arguments,
            "instance_id": name,
            "port": port,
            "logger": logging.getLogger(configuration["logger"]),
            "consumer": consumer,
            "metrics": metrics,
            "actions": actions,
            "token": read_token(configuration["token_file"]),
        }
    )
    for check, function in checks.items():
        # What is checked says itself whether it is ready: an alert alone fails no probe.
        server.add_check(check, function, readiness=False, startup=True, period_seconds=1.0)
    return server


def _values(configuration: Configuration, taker: str) -> dict[str, Any]:
    """Return the arguments of a class, as far as the settings are their values."""
    return {
        setting.argument or name: configuration[name]
        for name, setting in SETTINGS.items()
        if setting.to == taker
    }


def _retry(configuration: Configuration) -> RetryPolicy | None:
    path = configuration["retry"]
    parts = [name for name, setting in SETTINGS.items() if setting.to == RETRY]
    given = [name for name in parts if configuration.is_given(name)]
    if path is None:
        return RetryPolicy(**_values(configuration, RETRY))
    if given:
        raise ConfigurationError(
            f"{configuration.source(given[0])} and {configuration.source('retry')} exclude each "
            "other: a RetryPolicy of the program has all of its parts"
        )
    policy: RetryPolicy = targets.load(path, configuration.source("retry"))
    return policy


def _batching(configuration: Configuration) -> Batching | None:
    if configuration["batch"] is None:
        given = [name for name in _BATCH_PARTS if configuration.is_given(name)]
        if given:
            raise ConfigurationError(f"{configuration.source(given[0])} needs --batch N")
        return None
    arguments = _values(configuration, BATCHING)
    if (path := configuration["batch_cost"]) is not None:
        arguments["size"] = targets.load(path, configuration.source("batch_cost"))
    return Batching(**arguments)


def make_credentials(configuration: Configuration) -> Any:
    """Return what is asked for user and password at each connect; None for what the URL has."""
    path, user = configuration["credential_provider"], configuration["redis_user"]
    file = configuration["redis_password_file"]
    if file is None and user is not None:
        raise ConfigurationError(
            f"{configuration.source('redis_user')} needs --redis-password-file"
        )
    if path is not None and file is not None:
        raise ConfigurationError(
            "--credential-provider and --redis-password-file exclude each other; give one of them"
        )
    if path is None:
        return None if file is None else PasswordFile(file, user)
    provider = targets.load(path, configuration.source("credential_provider"))
    is_made = hasattr(provider, "get_credentials") and not isinstance(provider, type)
    return provider if is_made else provider()
