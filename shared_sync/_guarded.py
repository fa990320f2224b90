"""The user's metrics and logger, wrapped so that they cannot hurt: no message is lost for a figure
or for a line in a log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TypeAlias

Logger: TypeAlias = "logging.Logger | logging.LoggerAdapter[Any]"


class Recorder(Protocol):
    """What the consumer needs of a metrics registry; `WorkerMetrics` is one."""

    def increment_counter(self, name: str, value: float = 1) -> None: ...
    def record_duration(self, name: str, seconds: float) -> None: ...
    def set_gauge(self, name: str, value: float) -> None: ...


class GuardedLogger(logging.LoggerAdapter):  # type: ignore[type-arg]  # not before Python 3.11
    """Passes every record on; what a handler or filter raises goes no further."""

    def __init__(self, logger: Logger) -> None:
        super().__init__(logger, {})

    def log(self, level: int, msg: object, *args: object, **options: Any) -> None:
        with suppress(BaseException):  # of any kind: a line is never worth a message
            super().log(level, msg, *args, stacklevel=2, **options)


class GuardedRecorder:
    """Passes every figure on, if there is a recorder; what that raises is told once.

    Safe from any thread if the recorder is.
    """

    def __init__(self, recorder: Recorder | None, logger: Logger) -> None:
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
        except BaseException as error:  # noqa: BLE001 - of any kind: nor is a figure
            if not self._told:
                self._told = True
                self._logger.warning(
                    "metrics refuse %s (%s); this is said once, messages go on", name, error
                )
