"""The user's metrics and logger, wrapped so that they cannot hurt: no message is lost for a figure
or for a line in a log."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeAlias

Logger: TypeAlias = "logging.Logger | logging.LoggerAdapter[Any]"


class Recorder(Protocol):
    """What the consumer needs of a metrics registry; `WorkerMetrics` is one.

    Three more methods of it are used where there are any: `record_error(error)`, instead of the
    counter `errors.<type>`; `record_batch(counters=..., durations=...)`, which records all of its
    figures or, if it raises, none; and `quantile_seconds(name, share, min_count=...)`, which tells
    how long such a duration takes, or None.
    """

    def increment_counter(self, name: str, value: float = 1) -> None: ...
    def record_duration(self, name: str, seconds: float) -> None: ...
    def set_gauge(self, name: str, value: float) -> None: ...


class ErrorRecorder(Recorder, Protocol):
    """A recorder that knows what to do with errors."""

    def record_error(self, error: BaseException | str) -> None:
        """Count an error, or one of which there is only the name of its type."""


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
        self._record_error = getattr(recorder, "record_error", None)
        self._record_batch = getattr(recorder, "record_batch", None)
        self._quantile_seconds = getattr(recorder, "quantile_seconds", None)
        self._logger = logger
        self._told = False

    @property
    def records(self) -> bool:
        """Whether there is a recorder."""
        return self._recorder is not None

    def increment_counter(self, name: str, value: float = 1) -> None:
        if self._recorder is not None:
            self._guard(name, self._recorder.increment_counter, name, value)

    def record_duration(self, name: str, seconds: float) -> None:
        if self._recorder is not None:
            self._guard(name, self._recorder.record_duration, name, seconds)

    def set_gauge(self, name: str, value: float) -> None:
        if self._recorder is not None:
            self._guard(name, self._recorder.set_gauge, name, value)

    def record_error(self, error: BaseException | str) -> None:
        if self._record_error is not None and not isinstance(error, str):
            self._guard("an error", self._record_error, error)
        else:
            name = error if isinstance(error, str) else type(error).__name__
            self.increment_counter(f"errors.{name}")

    def record_batch(
        self, counters: Mapping[str, float], durations: Mapping[str, Sequence[float]]
    ) -> None:
        """Record many figures at once if the recorder can, else one after the other."""
        if self._record_batch is not None:
            try:
                self._record_batch(counters=counters, durations=durations)
            except BaseException:  # noqa: BLE001, S110 - of any kind; none of it was recorded
                pass  # then one by one, to lose only those that are refused
            else:
                return
        for name, value in counters.items():
            self.increment_counter(name, value)
        for name, lengths in durations.items():
            for seconds in lengths:
                self.record_duration(name, seconds)

    def quantile_seconds(self, name: str, share: float, min_count: int) -> float | None:
        """What the recorder says of a duration; None if it has nothing to say that makes sense."""
        if self._quantile_seconds is None:
            return None
        told = self._guard(
            f"the question how long {name} takes",
            partial(self._quantile_seconds, min_count=min_count),
            name,
            share,
        )
        return float(told) if isinstance(told, (int, float)) and 0 <= told < math.inf else None

    def _guard(self, what: str, call: Callable[..., Any], *figure: Any) -> Any:
        try:
            return call(*figure)
        except BaseException as error:  # noqa: BLE001 - of any kind: nor is a figure
            if not self._told:
                self._told = True
                self._logger.warning(
                    "metrics refuse %s (%s); this is said once, messages go on", what, error
                )
            return None


class RecorderOfOneThread:
    """Keeps the counters and durations of one thread until `flush()`, which passes them on as one.

    So that a whole read of messages costs the registry's lock once. All but these two are passed
    on at once.
    """

    def __init__(self, recorder: GuardedRecorder) -> None:
        self._recorder = recorder
        self._counters: dict[str, float] = {}
        self._durations: dict[str, list[float]] = {}

    def durations(self, name: str) -> list[float]:
        """Return the list to which to append durations of this name, for good."""
        return self._durations.setdefault(name, [])

    def increment_counter(self, name: str, value: float = 1) -> None:
        self._counters[name] = self._counters.get(name, 0) + value

    def record_duration(self, name: str, seconds: float) -> None:
        self._durations.setdefault(name, []).append(seconds)

    def set_gauge(self, name: str, value: float) -> None:
        self._recorder.set_gauge(name, value)

    def record_error(self, error: BaseException | str) -> None:
        self.flush()  # which has the failure that it belongs to
        self._recorder.record_error(error)

    def flush(self) -> None:
        """Pass on what has been kept."""
        counters, self._counters = self._counters, {}
        durations = {name: seconds.copy() for name, seconds in self._durations.items() if seconds}
        for seconds in self._durations.values():
            seconds.clear()
        if counters or durations:
            self._recorder.record_batch(counters, durations)
