"""What all spans have in common: the names of attributes, and contexts that travel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, Status, StatusCode, Tracer, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared_sync import __version__
from shared_sync.common.masking import mask_secrets
from shared_sync.common.trace_context import TraceContext

SCHEMA: Final = "https://opentelemetry.io/schemas/1.30.0"

BATCH_SIZE: Final = "messaging.batch.message_count"
CLIENT: Final = "messaging.client.id"
CONVERSATION: Final = "messaging.message.conversation_id"
DESTINATION: Final = "messaging.destination.name"
ERROR: Final = "error.type"
GROUP: Final = "messaging.consumer.group.name"
MESSAGE: Final = "messaging.message.id"
OPERATION: Final = "messaging.operation.name"
TYPE: Final = "messaging.operation.type"

ATTEMPT: Final = "shared_sync.attempt"
OUTCOME: Final = "shared_sync.outcome"

Server = tuple[str, int | None]
"""Address and port of a server. A socket file has no port."""

Value = str | int
Attributes = dict[str, Value]

NOWHERE: Final = Context()
"""A context without a span: one that is made in it begins a trace."""

_propagator: Final = TraceContextTextMapPropagator()


class Error(NamedTuple):
    """How something has failed."""

    type: str
    text: str
    stack: str = ""


def record(error: Error, span: Span) -> None:
    """Add an error to a span, without the secrets that its text may have."""
    span.set_attribute(ERROR, error.type)
    span.set_status(Status(StatusCode.ERROR))
    event = {"exception.type": error.type, "exception.message": mask_secrets(error.text)}
    if error.stack:
        event["exception.stacktrace"] = mask_secrets(error.stack)
    span.add_event("exception", event)


def tracer_of(provider: TracerProvider) -> Tracer:
    """Return the tracer of this library."""
    return provider.get_tracer("shared_sync", __version__, schema_url=SCHEMA)


def common(stream: str, server: Server | None) -> Attributes:
    """Return the attributes of all spans about a stream."""
    attributes: Attributes = {"messaging.system": "redis", DESTINATION: stream}
    if server is not None:
        attributes["server.address"], port = server
        if port is not None:
            attributes["server.port"] = port
    return attributes


def operation(name: str, kind: str = "") -> Attributes:
    """Return the attributes of an operation."""
    return {OPERATION: name, TYPE: kind} if kind else {OPERATION: name}


def context_of(travelled: TraceContext) -> Context:
    """Return the context of a message; `NOWHERE` if it has none that can be read."""
    if not travelled.traceparent:
        return NOWHERE
    carrier = {"traceparent": travelled.traceparent, "tracestate": travelled.tracestate}
    return _propagator.extract(carrier, NOWHERE)


def to_travel(span: Span) -> TraceContext:
    """Return the context of a span in the form that travels with messages."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, trace.set_span_in_context(span, NOWHERE))
    return TraceContext(carrier.get("traceparent", ""), carrier.get("tracestate", ""))


def span_context(context: Context) -> SpanContext | None:
    """Return the span of a context, if it has one."""
    found = trace.get_current_span(context).get_span_context()
    return found if found.is_valid else None


def links_to(context: Context, attributes: Mapping[str, Value] | None = None) -> list[Link]:
    """Return a link to the span of a context, if it has one."""
    found = span_context(context)
    return [] if found is None else [Link(found, attributes)]
