"""Guarded: no span is worth a message, so what making one raises is only logged."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from shared_sync.common.guarded import Logger
from shared_sync.common.log_once import LogOnce

T = TypeVar("T")


class Guarded:
    """Calls what makes spans. Any thread may call it."""

    def __init__(self, logger: Logger) -> None:
        # Fixed after construction.
        self._log_error = LogOnce(logger, logging.ERROR)

    def guard(self, act: Callable[[], T]) -> T | None:
        """Return what a function returns; None if it raises, which is logged the first time.

        OpenTelemetry itself raises nothing, but samplers and span processors of the program may.
        """
        try:
            return act()
        except Exception as error:  # noqa: BLE001 - of any kind, as above
            self._log_error(
                "a span could not be made (%s: %s); this is logged once, and costs no message",
                type(error).__name__,
                error,
            )
            return None
