"""The spans of a producer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanKind, TracerProvider

from shared_sync.common.exceptions import text_of
from shared_sync.common.guarded import Logger
from shared_sync.common.trace_context import TraceContext
from shared_sync.tracing.conventions import (
    BATCH_SIZE,
    MESSAGE,
    Error,
    Server,
    common,
    context_of,
    links_to,
    operation,
    record,
    to_travel,
    tracer_of,
)
from shared_sync.tracing.guarded import Guarded


class Publication:
    """What is published within one span. For one thread."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self.context = to_travel(span)
        """What travels with the messages that have no `traceparent` of their own."""

    def published(self, message_id: str) -> None:
        """Note the id of the only message."""
        self._span.set_attribute(MESSAGE, message_id)

    def published_many(self, count: int) -> None:
        """Note how many messages were published together."""
        self._span.set_attribute(BATCH_SIZE, count)


class ProducerSpans(Guarded):
    """Makes the spans of one producer. Safe from any thread."""

    def __init__(
        self, provider: TracerProvider, stream: str, server: Server | None, logger: Logger
    ) -> None:
        super().__init__(logger)
        # Fixed after construction.
        self._tracer = tracer_of(provider)
        self._stream = stream
        self._common = common(stream, server)

    @contextmanager
    def publishing(
        self, name: str = "publish", *, traceparent: str | None = None
    ) -> Iterator[Publication]:
        """Make a span that lasts as long as the block, and ends with its error, if any.

        `traceparent` is what the program gives for the message, which travels in place of the span.
        """
        given = links_to(
            context_of(TraceContext(traceparent if isinstance(traceparent, str) else ""))
        )
        span = self.guard(partial(self._start, name, given)) or INVALID_SPAN
        token = contexts.attach(trace.set_span_in_context(span))
        try:
            yield Publication(span)
        except BaseException as error:
            record(Error(type(error).__name__, text_of(error)), span)
            raise
        finally:
            contexts.detach(token)
            self.guard(span.end)

    def _start(self, name: str, links: Sequence[Link]) -> Span:
        return self._tracer.start_span(
            f"{name} {self._stream}",
            kind=SpanKind.CLIENT if links else SpanKind.PRODUCER,
            attributes={**self._common, **operation(name, "send")},
            links=links,
        )
