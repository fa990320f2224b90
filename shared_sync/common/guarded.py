"""The user's metrics and logger, wrapped so that their errors never cost a message."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol, TypeAlias

MOST_WARNINGS = 100
"""Metrics whose errors are logged: counters of errors may have any number of names."""

Logger: TypeAlias = "logging.Logger | logging.LoggerAdapter[Any]"


class Recorder(Protocol):
    """What the consumer needs of a metrics registry; `WorkerMetrics` is one.

    More methods are used if the registry has them: `record_error(error)`, with an error or its
    type, instead of the counter `errors.<type>`; `record_batch(counters=..., durations=...)`, which
    records all of its values or, if it raises, none; `record_for_consumer` with the same arguments,
    instead of all calls that count and measure; `record_size(name, size)`, for numbers that are no
    durations, which are dropped otherwise; `record_queue(sizes, stream=..., group=...)`, instead of
    a gauge for each size; `record_circuit_breaker(name, state=..., openings=..., refused=...)`,
    instead of metrics with the name of the breaker behind theirs; `quantile_seconds(name,
    share, min_count=...)`, which returns how long such a duration takes, or None; and
    `recent_durations(name)`, which returns the durations of the last minutes in a form for JSON.
    """

    def increment_counter(self, name: str, value: float = 1) -> None:
        """Add `value` to a counter."""

    def record_duration(self, name: str, seconds: float) -> None:
        """Record that something took so many seconds."""

    def set_gauge(self, name: str, value: float) -> None:
        """Set a gauge to `value`."""


RECORDING: Final = ("increment_counter", "record_duration", "set_gauge")
"""The methods that every recorder has."""


class ErrorRecorder(Recorder, Protocol):
    """A recorder that counts errors."""

    def record_error(self, error: BaseException | type[BaseException] | str) -> None:
        """Count an error, or one of which only the type is known, or the name of that."""


class GuardedLogger(logging.LoggerAdapter):  # type: ignore[type-arg]  # not before Python 3.11
    """Passes every record on, and drops what a handler or a filter raises."""

    def __init__(self, logger: Logger) -> None:
        super().__init__(logger, {})

    def log(self, level: int, msg: object, *args: object, **options: Any) -> None:
        with suppress(BaseException):  # of any kind: no log line is worth a message
            # One such logger may be given to another, which has set the level already.
            super().log(level, msg, *args, **{"stacklevel": 2, **options})

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - as the base class has it
        """Return whether records of this level are passed on; False if the logger raises."""
        try:
            return bool(self.logger.isEnabledFor(level))
        except BaseException:  # noqa: BLE001 - of any kind, as above
            return False


class GuardedRecorder:
    """Passes every value on if there is a recorder, and logs the first error of each metric.

    Any thread may call any method if the recorder allows it.
    """

    def __init__(self, recorder: Recorder | None, logger: Logger) -> None:
        # Fixed after construction.
        self._recorder = recorder
        self._record_error = getattr(recorder, "record_error", None)
        self._record_for_consumer = getattr(recorder, "record_for_consumer", None)
        self._record_batch = self._record_for_consumer or getattr(recorder, "record_batch", None)
        self._record_queue = getattr(recorder, "record_queue", None)
        self._record_size = getattr(recorder, "record_size", None)
        self._record_circuit_breaker = getattr(recorder, "record_circuit_breaker", None)
        self._quantile_seconds = getattr(recorder, "quantile_seconds", None)
        self._recent_durations = getattr(recorder, "recent_durations", None)
        self._logger = logger
        # Only ever added to, by any thread.
        self._warned: set[str] = set()

    @property
    def records(self) -> bool:
        """Whether there is a recorder."""
        return self._recorder is not None

    @property
    def given(self) -> Recorder | None:
        """The recorder itself, if there is one."""
        return self._recorder

    def increment_counter(self, name: str, value: float = 1) -> None:
        """Add `value` to a counter."""
        if self._record_for_consumer is not None:
            self._guard(name, partial(self._record_for_consumer, counters={name: value}))
        elif self._recorder is not None:
            self._guard(name, self._recorder.increment_counter, name, value)

    def record_duration(self, name: str, seconds: float) -> None:
        """Record that something took so many seconds."""
        if self._record_for_consumer is not None:
            self._guard(name, partial(self._record_for_consumer, durations={name: [seconds]}))
        elif self._recorder is not None:
            self._guard(name, self._recorder.record_duration, name, seconds)

    def set_gauge(self, name: str, value: float) -> None:
        """Set a gauge to `value`."""
        if self._recorder is not None:
            self._guard(name, self._recorder.set_gauge, name, value)

    def record_queue(self, sizes: Mapping[str, float | None], *, stream: str, group: str) -> None:
        """Record the sizes of the queue of a stream and group, as far as they are known."""
        if self._record_queue is not None:
            record = partial(self._record_queue, sizes, stream=stream, group=group)
            self._guard("the sizes of the queue", record)
            return
        for name, size in sizes.items():
            if size is not None:
                self.set_gauge(name, size)

    def record_circuit_breaker(self, name: str, *, state: int, openings: int, refused: int) -> None:
        """Record the state of a circuit breaker, and how much its counts have grown."""
        if self._record_circuit_breaker is not None:
            record = partial(
                self._record_circuit_breaker, state=state, openings=openings, refused=refused
            )
            self._guard("the state of a circuit breaker", record, name)
            return
        self.set_gauge(f"circuit_breaker_state.{name}", state)
        self.increment_counter(f"circuit_breaker_openings.{name}", openings)
        self.increment_counter(f"circuit_breaker_refused.{name}", refused)

    def record_error(self, error: BaseException | type[BaseException] | str) -> None:
        """Count an error, or one of which only the type is known, or the name of that."""
        if isinstance(error, str):
            self.increment_counter(f"errors.{error}")
        elif self._record_error is not None:
            self._guard("an error", self._record_error, error)
        else:
            kind = error if isinstance(error, type) else type(error)
            self.increment_counter(f"errors.{kind.__name__}")

    def record_batch(
        self, counters: Mapping[str, float], durations: Mapping[str, Sequence[float]]
    ) -> None:
        """Record many values at once if the recorder can, otherwise one by one."""
        if self._record_batch is not None:
            try:
                self._record_batch(counters=counters, durations=durations)
            except BaseException:  # noqa: BLE001, S110 - of any kind; nothing was recorded
                pass  # then one by one, so that only what is refused is lost
            else:
                return
        for name, value in counters.items():
            self.increment_counter(name, value)
        for name, lengths in durations.items():
            for seconds in lengths:
                self.record_duration(name, seconds)

    def record_sizes(self, sizes: Mapping[str, Sequence[float]]) -> None:
        """Record numbers that are no durations if the recorder can."""
        if self._record_size is not None:
            for name, several in sizes.items():
                for size in several:
                    self._guard(name, self._record_size, name, size)

    def quantile_seconds(self, name: str, share: float, min_count: int) -> float | None:
        """Return a quantile of a duration; None if the recorder has none that makes sense."""
        if self._quantile_seconds is None:
            return None
        seconds = self._guard(
            f"the question how long {name} takes",
            partial(self._quantile_seconds, min_count=min_count),
            name,
            share,
        )
        known = isinstance(seconds, (int, float)) and 0 <= seconds < math.inf
        return float(seconds) if known else None

    def recent_durations(self, name: str) -> Mapping[str, Any] | None:
        """Return the durations of the last minutes in a form for JSON, if the recorder can."""
        if self._recent_durations is None:
            return None
        found = self._guard(f"the question for {name}", self._recent_durations, name)
        return found if isinstance(found, dict) else None

    def _guard(self, what: str, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except BaseException as error:  # noqa: BLE001 - of any kind: no metric is worth a message
            if what not in self._warned and len(self._warned) < MOST_WARNINGS:
                self._warned.add(what)
                self._logger.warning(
                    "metrics refuse %s (%s); this is logged once for each metric, and costs no "
                    "message",
                    what,
                    error,
                )
            return None


class ThreadRecorder:
    """Collects what one thread counts and measures until `flush()`, which records it as one.

    So all messages of a read together cost the registry's lock once. Gauges are recorded at once.
    """

    def __init__(self, recorder: GuardedRecorder) -> None:
        self._recorder = recorder  # fixed after construction
        # Owned by the thread.
        self._counters: dict[str, float] = {}
        self._durations: dict[str, list[float]] = {}
        self._errors: list[BaseException | type[BaseException] | str] = []
        self._sizes: dict[str, list[float]] = {}

    def durations(self, name: str) -> list[float]:
        """Return the list to which to append durations of this name, for good."""
        return self._durations.setdefault(name, [])

    def increment_counter(self, name: str, value: float = 1) -> None:
        """Add `value` to a counter, at the next flush."""
        self._counters[name] = self._counters.get(name, 0) + value

    def record_duration(self, name: str, seconds: float) -> None:
        """Record that something took so many seconds, at the next flush."""
        self._durations.setdefault(name, []).append(seconds)

    def record_size(self, name: str, size: float) -> None:
        """Record a number that is no duration, such as of messages, at the next flush."""
        self._sizes.setdefault(name, []).append(size)

    def set_gauge(self, name: str, value: float) -> None:
        """Set a gauge to `value` at once."""
        self._recorder.set_gauge(name, value)

    def record_error(self, error: BaseException | type[BaseException] | str) -> None:
        """Count an error, at the next flush."""
        self._errors.append(error)

    def flush(self) -> None:
        """Record what has been collected: errors last, after the failures that they belong to."""
        counters, self._counters = self._counters, {}
        durations = {name: seconds.copy() for name, seconds in self._durations.items() if seconds}
        for seconds in self._durations.values():
            seconds.clear()
        if counters or durations:
            self._recorder.record_batch(counters, durations)
        if self._sizes:
            sizes, self._sizes = self._sizes, {}
            self._recorder.record_sizes(sizes)
        errors, self._errors = self._errors, []
        for error in errors:
            self._recorder.record_error(error)
