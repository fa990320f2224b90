"""The spans of a consumer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextvars import Token
from typing import NamedTuple

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Tracer, TracerProvider

from shared_sync.common.trace_context import TraceContext
from shared_sync.tracing.conventions import (
    ATTEMPT,
    BATCH_SIZE,
    CLIENT,
    CONVERSATION,
    GROUP,
    MESSAGE,
    NOWHERE,
    OUTCOME,
    Attributes,
    Error,
    Server,
    common,
    context_of,
    links_to,
    operation,
    record,
    span_context,
    to_travel,
    tracer_of,
)

NANOSECONDS = 1_000_000_000


class TracedMessage(NamedTuple):
    """What the spans of a message say about it."""

    id: str
    attempt: int
    known_as: str
    """The id by which its publisher knows the job, if that is another one."""
    context: TraceContext
    """The context that it has brought."""
    waited_seconds: float | None
    """How long it has waited in the stream; None for later attempts, and if that is unknown."""


class ProcessSpan:
    """The span of one attempt. The thread of the attempt makes, attaches and ends it."""

    def __init__(
        self, span: Span, messages: Sequence[TracedMessage], creation: Sequence[Context]
    ) -> None:
        # Fixed after construction.
        self.span = span
        self.context = trace.set_span_in_context(span, NOWHERE)
        self.messages = messages
        self.creation = creation
        """The context that each message has brought."""
        self._token: Token[Context] | None = None

    def to_travel(self) -> TraceContext:
        """Return its context in the form that travels, as to a child process."""
        return to_travel(self.span)

    def attach(self) -> None:
        """Let spans of this thread belong to it from now on."""
        self._token = contexts.attach(self.context)

    def end(self, error: Error | None) -> None:
        """End it, with the error of the attempt, if any."""
        token, self._token = self._token, None
        if token is not None:
            contexts.detach(token)
        if error is not None:
            record(error, self.span)
        self.span.end()


class ConsumerSpans:
    """Makes the spans of one consumer. Safe from any thread."""

    def __init__(
        self,
        provider: TracerProvider,
        *,
        stream: str,
        group: str,
        consumer: str,
        server: Server | None,
    ) -> None:
        # Fixed after construction.
        self._tracer = tracer_of(provider)
        self._stream = stream
        self._server = server
        self._common: Attributes = {**common(stream, server), GROUP: group, CLIENT: consumer}

    def process(self, messages: Sequence[TracedMessage], *, is_batch: bool) -> ProcessSpan:
        """Begin the span of an attempt, and make those of the waits before it."""
        creation = [context_of(one.context) for one in messages]
        waits = [
            # In a batch, one without a trace of its publisher would be a trace of nothing else.
            None if is_batch and its is NOWHERE else self._wait(one, its)
            for one, its in zip(messages, creation, strict=True)
        ]
        attributes = {**self._common, **operation("process", "process")}
        parent, links = NOWHERE, list[Link]()
        if is_batch:
            attributes[BATCH_SIZE] = len(messages)
            for one, its in zip(messages, creation, strict=True):
                links += links_to(its, {MESSAGE: one.id, ATTEMPT: one.attempt})
        else:
            attributes.update(_about(messages[0]))
            (parent,) = creation
            links = links_to(parent)
            if not links and waits[0] is not None:
                parent = waits[0]  # nobody has begun a trace before
        span = self._tracer.start_span(
            f"process {self._stream}",
            context=parent,
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            links=links,
        )
        return ProcessSpan(span, messages, creation)

    def _wait(self, message: TracedMessage, creation: Context) -> Context | None:
        if message.waited_seconds is None:
            return None
        now = time.time_ns()
        span = self._tracer.start_span(
            f"wait {self._stream}",
            context=creation,
            attributes={**self._common, **operation("wait"), **_about(message)},
            start_time=now - int(message.waited_seconds * NANOSECONDS),
        )
        span.end(now)
        return trace.set_span_in_context(span, NOWHERE)

    def settle(
        self,
        process: ProcessSpan,
        outcomes: Mapping[str, str],
        began_ns: int,
        error: Error | None = None,
    ) -> None:
        """Make the span of settling messages of one attempt, which ends now.

        `outcomes` has what became of each message, by its id.
        """
        about = [
            (one, its)
            for one, its in zip(process.messages, process.creation, strict=True)
            if one.id in outcomes
        ]
        attributes = {**self._common, **operation("settle", "settle")}
        links: list[Link] = []
        if len(process.messages) == 1:
            attributes.update(_about(process.messages[0]))
            attributes[OUTCOME] = next(iter(outcomes.values()))
        else:
            attributes[BATCH_SIZE] = len(about)
            for one, its in about:
                links += links_to(its, {MESSAGE: one.id, OUTCOME: outcomes[one.id]})
        span = self._tracer.start_span(
            f"settle {self._stream}",
            context=process.context,
            kind=SpanKind.CLIENT,
            attributes=attributes,
            links=links,
            start_time=began_ns,
        )
        if error is not None:
            record(error, span)
        span.end()

    def emit(self, stream: str, running: Context | None) -> TraceContext:
        """Return the context of a message that is emitted to this stream.

        It belongs to the current span or, in a thread that has none, to that of the attempt.
        """
        return emit(self._tracer, stream, running, self._server)


def emit(
    tracer: Tracer, stream: str, running: Context | None, server: Server | None = None
) -> TraceContext:
    """As `ConsumerSpans.emit()`, with any tracer."""
    current = contexts.get_current()
    parent = current if span_context(current) is not None else running
    span = tracer.start_span(
        f"emit {stream}",
        context=NOWHERE if parent is None else parent,
        kind=SpanKind.PRODUCER,
        attributes={**common(stream, server), **operation("emit", "create")},
    )
    span.end()
    return to_travel(span)


def ids_of(running: Context | None) -> dict[str, str]:
    """Return the ids of the current span, or else of the one that runs, for log records."""
    current = contexts.get_current()
    found = span_context(current) or (None if running is None else span_context(running))
    if found is None:
        return {}
    return {
        "trace_id": trace.format_trace_id(found.trace_id),
        "span_id": trace.format_span_id(found.span_id),
    }


def _about(message: TracedMessage) -> Attributes:
    attributes: Attributes = {MESSAGE: message.id, ATTEMPT: message.attempt}
    if message.known_as:
        attributes[CONVERSATION] = message.known_as
    return attributes
