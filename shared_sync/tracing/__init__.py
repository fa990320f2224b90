"""Tracing with OpenTelemetry: spans for publishing, waiting, processing and settling.

    RedisStreamProducer(..., tracing=True)
    RedisStreamConsumer(..., tracing=True)

`tracing` is False (the default: nothing of OpenTelemetry is imported), True for the program's own
tracer provider, or a `TracerProvider`. It needs the extra `otel` and, in the program, an SDK that
exports the spans; `configure()` sets up one from the environment.

The spans follow OpenTelemetry's conventions for messaging, version 1.30.0, which are in the status
"development":
https://github.com/open-telemetry/semantic-conventions/blob/v1.30.0/docs/messaging/messaging-spans.md
Their choices here:

- `publish <stream>` (PRODUCER, type `send`) is the creation context: its ids travel with the
  message. A `traceparent` that the program gives travels unchanged instead; the span then links to
  it and is a CLIENT. `publish_many()` makes one span for all its messages.
- `wait <stream>` (INTERNAL) lasts from the time in the id of the entry until the first attempt
  begins. The conventions know no such span, so it has no `messaging.operation.type`.
- `process <stream>` (CONSUMER) is one attempt. For a single message the creation context is its
  parent and is linked; a batch is a trace of its own that links to the context of each message.
- `settle <stream>` (CLIENT) lasts from sending outcomes to Redis until it has confirmed them. Its
  parent is the span of the attempt; `shared_sync.outcome` says what became of the message.
- `emit <stream>` (PRODUCER, type `create`) is the creation context of an emitted message.
- `messaging.system` is `redis`, `messaging.consumer.group.name` the group, `messaging.client.id`
  the consumer. Attributes without a name in the conventions begin with `shared_sync.`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

__all__ = ["configure"]


def configure(service_name: str | None = None) -> TracerProvider:
    """Set up OpenTelemetry's SDK from the environment, and return the tracer provider.

    `OTEL_TRACES_EXPORTER` names the exporter: `otlp` (the default), `console`, or another one that
    is installed; `none` for none. `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_SERVICE_NAME` (which wins
    over `service_name`), `OTEL_TRACES_SAMPLER` and the other variables of the SDK hold, too. If the
    program has set a provider already, as `opentelemetry-instrument` does, that is returned and
    nothing changes.

    Child processes (`isolation="process"`) call it by themselves if this process has, unless what
    they import sets a provider.

    Raises `ConfigurationError` if the SDK or the exporter is not installed.
    """
    from shared_sync.tracing import sdk  # noqa: PLC0415 - nothing is imported before it is asked

    provider: TracerProvider = sdk.configure(service_name)
    return provider
