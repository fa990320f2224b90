"""The argument `tracing` of consumers and producers. Imports OpenTelemetry only if it is on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from shared_sync.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from shared_sync.common.guarded import Logger
    from shared_sync.tracing.child_spans import ChildSpans
    from shared_sync.tracing.consumer_spans import ConsumerSpans
    from shared_sync.tracing.conventions import Server
    from shared_sync.tracing.producer_spans import ProducerSpans

_REMEDY: Final = "pip install 'shared_sync[otel]'"


def provider_of(tracing: bool | TracerProvider) -> TracerProvider | None:
    """Return the provider that this argument names; None if tracing is off.

    Raises `ConfigurationError` for an argument that cannot work, or without OpenTelemetry.
    """
    if tracing is False:
        return None
    try:
        from opentelemetry import trace  # noqa: PLC0415 - an extra, and off by default
    except ImportError as error:
        raise ConfigurationError(f"tracing needs OpenTelemetry: {_REMEDY}") from error
    if tracing is True:
        return trace.get_tracer_provider()
    if not callable(getattr(tracing, "get_tracer", None)):
        raise ConfigurationError(
            f"tracing must be True, False or a TracerProvider of OpenTelemetry, not {tracing!r}"
        )
    return tracing


def child_setup(tracing: bool | TracerProvider) -> dict[str, Any] | None:
    """Return what child processes set up tracing with; None if it is off."""
    if tracing is False:
        return None
    from shared_sync.tracing import sdk  # noqa: PLC0415 - as above

    return sdk.for_children()


def child_spans(setup: Mapping[str, Any] | None) -> ChildSpans | None:
    """In a child process: return what lets its spans belong to those of its parent."""
    if setup is None:
        return None
    from shared_sync.tracing.child_spans import ChildSpans  # noqa: PLC0415 - as above

    return ChildSpans(setup)


def producer_spans(
    tracing: bool | TracerProvider, stream: str, server: Server | None, logger: Logger
) -> ProducerSpans | None:
    """Return what makes the spans of a producer; None if tracing is off.

    Raises as `provider_of()` does.
    """
    provider = provider_of(tracing)
    if provider is None:
        return None
    from shared_sync.tracing.producer_spans import ProducerSpans  # noqa: PLC0415 - as above

    return ProducerSpans(provider, stream, server, logger)


def consumer_spans(
    tracing: bool | TracerProvider,
    *,
    stream: str,
    group: str,
    consumer: str,
    server: Server | None,
) -> ConsumerSpans | None:
    """Return what makes the spans of a consumer; None if tracing is off.

    Raises as `provider_of()` does.
    """
    provider = provider_of(tracing)
    if provider is None:
        return None
    from shared_sync.tracing.consumer_spans import ConsumerSpans  # noqa: PLC0415 - as above

    return ConsumerSpans(provider, stream=stream, group=group, consumer=consumer, server=server)
