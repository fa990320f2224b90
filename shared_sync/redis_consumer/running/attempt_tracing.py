"""The spans of the attempts of one reader, from the wait before to the settling after.

Imported with tracing only: it loads OpenTelemetry.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from shared_sync.common.guarded import Logger
from shared_sync.common.trace_context import TraceContext
from shared_sync.errors import JobCancelled, SharedSyncError
from shared_sync.protocol.job_options import options_of
from shared_sync.protocol.keys import age_seconds
from shared_sync.protocol.messages import Bury, Entry, Finish, Outcome, Park
from shared_sync.redis_consumer.failures import Failure
from shared_sync.redis_consumer.running.runner import AttemptHook
from shared_sync.redis_consumer.server_clock import ServerClock
from shared_sync.redis_consumer.settling.parcels import Parcel
from shared_sync.redis_consumer.slot import Attempt
from shared_sync.tracing.consumer_spans import (
    ConsumerSpans,
    ProcessSpan,
    TracedMessage,
    ids_of,
)
from shared_sync.tracing.conventions import Error
from shared_sync.tracing.guarded import Guarded

_OUTCOMES: Final[dict[type[Any], str]] = {Park: "retry", Bury: "dead"}
_HANDED_BACK: Final = "handed back"


class AttemptTracing(Guarded, AttemptHook):
    """Makes the spans of one reader. Its thread calls all methods but `emitted` and `span_ids`.

    No method raises: what a sampler or an exporter of the program raises is logged once.
    """

    def __init__(
        self, spans: ConsumerSpans, server_clock: ServerClock, logger: Logger, *, is_batch: bool
    ) -> None:
        """`is_batch` says that the program has asked for batches; several messages always are."""
        super().__init__(logger)
        # Fixed after construction.
        self._spans = spans
        self._server_clock = server_clock
        self._is_batch = is_batch
        # Written by the reader's thread; any thread may read.
        self._running: ProcessSpan | None = None
        # Owned by the reader's thread.
        self._unsettled: dict[str, ProcessSpan] = {}
        """By the id of each message that has run and is not settled."""
        self._sent_ns = 0
        """When outcomes were last sent, in ns since 1970."""

    def before_attempt(self, attempt: Attempt) -> None:
        """Begin the span of an attempt, and let those of the processor belong to it."""

        def begin() -> None:
            now = attempt.started_at + self._server_clock.offset_seconds
            messages = [self._message(one, now, attempt) for one in attempt.entries]
            several = self._is_batch or len(messages) > 1
            self._running = running = self._spans.process(messages, is_batch=several)
            running.attach()

        self.guard(begin)

    def after_attempt(self, attempt: Attempt, error: BaseException | None) -> None:
        """End it, with the error that the processor has raised."""
        running, self._running = self._running, None
        if running is None:
            return

        def end() -> None:
            is_recorded = running.span.is_recording()
            running.end(_described(error))
            if is_recorded:
                for message in running.messages:
                    self._unsettled[message.id] = running

        self.guard(end)

    after_repeat = after_attempt

    def to_travel(self) -> TraceContext | None:
        """Return the context of the attempt that runs, for a child process."""
        running = self._running
        return None if running is None else running.to_travel()

    def emitted(self, stream: str) -> TraceContext:
        """Return the context of a message that the processor emits. Any thread may call it."""
        running = self._running
        context = None if running is None else running.context
        return self.guard(partial(self._spans.emit, stream, context)) or TraceContext()

    def span_ids(self) -> dict[str, str]:
        """Return the ids of trace and span for log records. Any thread may call it."""
        running = self._running
        return ids_of(None if running is None else running.context)

    # --- settling ---

    def sending(self) -> None:
        """Outcomes are about to be sent to Redis."""
        self._sent_ns = time.time_ns()

    def settled(self, parcel: Parcel, refused: SharedSyncError | None) -> None:
        """Redis has confirmed the outcomes of a parcel, or has refused one of them."""
        if self._unsettled:
            self.guard(partial(self._settle, parcel, refused))

    def broke_off(self, parcels: Sequence[Parcel], error: SharedSyncError) -> None:
        """The connection broke before Redis has confirmed these; they will be sent again."""
        for parcel in parcels if self._unsettled else ():
            self.guard(partial(self._settle, parcel, error))

    def all_are_settled(self) -> None:
        """Nothing is left that waits to be settled."""
        self._unsettled.clear()

    def _settle(self, parcel: Parcel, error: SharedSyncError | None) -> None:
        attempts: dict[int, tuple[ProcessSpan, dict[str, str]]] = {}
        for message_id, outcome in _outcomes_of(parcel):
            span = self._unsettled.get(message_id)
            if span is None:
                continue
            if error is None:
                del self._unsettled[message_id]
            attempts.setdefault(id(span), (span, {}))[1][message_id] = outcome
        described = None if error is None else Error(type(error).__name__, str(error), "")
        for span, outcomes in attempts.values():
            self._spans.settle(span, outcomes, self._sent_ns, described)

    # --- inside ---

    def _message(self, entry: Entry, now: float, attempt: Attempt) -> TracedMessage:
        options = options_of(entry.items)
        is_first = entry.deliveries == 1 and not attempt.is_repeat
        return TracedMessage(
            entry.id,
            entry.deliveries,
            options.id,
            options.trace,
            age_seconds(entry.id, now) if is_first else None,
        )


def _described(error: BaseException | None) -> Error | None:
    if error is None or isinstance(error, JobCancelled):
        return None
    failure = Failure.of(error)
    return Error(failure.error_type, failure.error, failure.trace())


def _outcomes_of(parcel: Parcel) -> list[tuple[str, str]]:
    if not parcel.outcomes:
        return [(one, parcel.label) for one in parcel.ids]
    return [(one.id, _name_of(one)) for one in parcel.outcomes]


def _name_of(outcome: Outcome) -> str:
    if isinstance(outcome, Finish):
        return outcome.status
    return _OUTCOMES.get(type(outcome), _HANDED_BACK)
