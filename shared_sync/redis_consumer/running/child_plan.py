"""What the child processes of one reader are started with."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared_sync.errors import ConfigurationError
from shared_sync.isolation.devices import child_device
from shared_sync.isolation.importable import importable
from shared_sync.processors import ProcessorContext, ProcessorSource
from shared_sync.protocol.live_job import JobContext
from shared_sync.redis_consumer.options import Options
from shared_sync.tracing.switch import child_setup


@dataclass(frozen=True, slots=True)
class ChildPlan:
    """What the children of one reader are started with."""

    setup: Mapping[str, Any]
    environment: Mapping[str, str]
    deadline_seconds: float | None
    kill_grace_seconds: float
    max_memory_mb: float | None

    @classmethod
    def of(
        cls,
        options: Options,
        source: ProcessorSource,
        context: ProcessorContext,
        jobs: JobContext,
    ) -> ChildPlan:
        """Return the plan for a reader.

        Raises `ConfigurationError` if a child cannot import what the program gave, or cannot see
        its device.
        """
        if not hasattr(os, "fork"):
            raise ConfigurationError(
                'isolation="process" needs a POSIX system; use isolation="thread" here'
            )
        named = importable(source.given, source.argument)
        device = child_device(context.device, os.environ)
        setup = {
            "argument": source.argument,
            "path": named.path,
            "main_file": named.main_file,
            "reader": context.reader,
            "device": device.device,
            "logger": plain_logger(context.logger).name,
            "stream": jobs.keys.stream,
            "group": jobs.keys.group,
            "consumer": options.consumer_id,
            "is_cluster": jobs.is_cluster,
            "max_age_seconds": jobs.max_age_seconds,
            "binary_fields": list(options.binary_fields),
            "result_stream": options.result_stream,
            "result_channel": options.result_channel,
            "carry_fields": list(options.carry_fields),
            "tracing": child_setup(options.tracing),
        }
        return cls(
            setup,
            device.environment,
            options.job_deadline_seconds,
            options.kill_grace_seconds,
            options.max_memory_mb,
        )


def plain_logger(logger: Any) -> logging.Logger:
    """Return the logger that adapters pass their records on to.

    Raises `ConfigurationError` if there is none.
    """
    while not isinstance(logger, logging.Logger):
        inner = getattr(logger, "logger", None)
        if inner is None:
            raise ConfigurationError(
                'logger must be a logging.Logger, or an adapter of one, with isolation="process", '
                f"whose children log to the loggers of this process by name; not {logger!r}"
            )
        logger = inner
    return logger
