"""Drops, counts and logs values that cannot be recorded; a strict registry raises an error."""

from __future__ import annotations

import logging
from collections.abc import Callable

from shared_sync.common.guarded import GuardedLogger, Logger
from shared_sync.errors import ConfigurationError
from shared_sync.metrics.labels import shown


class Rejections:
    """Decides for one registry. Any thread may call any method, but none that holds a lock."""

    def __init__(
        self, *, strict: bool, logger: Logger | None, count: Callable[[object], bool]
    ) -> None:
        """`count` counts a rejection, and returns whether it was the first for this name."""
        # Fixed after construction.
        self.strict = strict
        self._logger = GuardedLogger(logger or logging.getLogger("shared_sync.metrics"))
        self._count = count

    def add(self, name: object, error: ConfigurationError) -> None:
        """Note that a value of this metric was dropped because of `error`; raise it if strict."""
        if self.strict:
            raise error
        if self._count(name):
            self._logger.warning(
                "a value of metric %s cannot be recorded: %s. Such values are dropped and counted "
                "in metrics_rejected; this is logged once for each name",
                shown(name),
                error,
                stack_info=True,  # which call it was
            )
