"""A metrics registry that cannot hurt: what it raises is logged once and goes no further."""

from __future__ import annotations

import logging
from collections.abc import Callable

from shared_sync._delivery import Recorder


class GuardedRecorder:
    """Passes every figure on to a recorder, if there is one. Safe from any thread."""

    def __init__(self, recorder: Recorder | None, logger: logging.Logger) -> None:
        self._recorder = recorder
        self._logger = logger
        self._told = False

    def increment_counter(self, name: str, value: float = 1) -> None:
        if self._recorder is not None:
            self._guard(self._recorder.increment_counter, name, value)

    def record_duration(self, name: str, seconds: float) -> None:
        if self._recorder is not None:
            self._guard(self._recorder.record_duration, name, seconds)

    def set_gauge(self, name: str, value: float) -> None:
        if self._recorder is not None:
            self._guard(self._recorder.set_gauge, name, value)

    def _guard(self, record: Callable[[str, float], None], name: str, value: float) -> None:
        try:
            record(name, value)
        except Exception as error:  # noqa: BLE001 - a figure is never worth a message
            if not self._told:
                self._told = True
                self._logger.warning(
                    "metrics refuse %s (%s); this is said once, messages go on", name, error
                )
