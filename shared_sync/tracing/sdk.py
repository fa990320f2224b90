"""Setting up OpenTelemetry's SDK from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Final

from shared_sync.errors import ConfigurationError

_GROUP: Final = "opentelemetry_traces_exporter"
"""Where packages with exporters list them, as OpenTelemetry has agreed."""
_PACKAGES: Final = {
    "otlp_proto_http": "opentelemetry-exporter-otlp-proto-http",
    "otlp_proto_grpc": "opentelemetry-exporter-otlp-proto-grpc",
}


class _Configured:
    """What this process was set up with, for its child processes."""

    has_been = False
    service_name: str | None = None


_configured: Final = _Configured()


def configure(service_name: str | None) -> Any:
    """Set up the SDK, as `shared_sync.tracing.configure()` says."""
    try:
        from opentelemetry import trace  # noqa: PLC0415 - an extra, and off by default

        current = trace.get_tracer_provider()
        if not isinstance(current, trace.ProxyTracerProvider):
            return current
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415 - as above
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - as above
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - as above
    except ImportError as error:
        raise ConfigurationError(
            "configure() needs the SDK of OpenTelemetry: pip install opentelemetry-sdk "
            "opentelemetry-exporter-otlp-proto-http"
        ) from error
    exporters = [_exporter(name) for name in _exporter_names()]
    own = service_name if service_name and not os.environ.get("OTEL_SERVICE_NAME") else None
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: own} if own else None))
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter()))
    trace.set_tracer_provider(provider)
    _configured.has_been, _configured.service_name = True, service_name
    return provider


def for_children() -> dict[str, Any]:
    """Return what `in_child()` is to be called with in child processes."""
    return {"configure": _configured.has_been, "service_name": _configured.service_name}


def in_child(setup: Mapping[str, Any]) -> None:
    """In a child process, once it has loaded its processor: set up the SDK if its parent has."""
    if setup["configure"]:
        configure(setup["service_name"])


def _exporter_names() -> list[str]:
    names = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    return [name for name in map(str.strip, names.split(",")) if name not in ("", "none")]


def _exporter(name: str) -> Any:
    """Return the class of an exporter. Raises `ConfigurationError` if it is not installed."""
    if name == "otlp":
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
            "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"
        )
        name = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    found = list(entry_points(group=_GROUP, name=name))
    if not found:
        known = sorted({one.name for one in entry_points(group=_GROUP)} | {"none"})
        package = _PACKAGES.get(name)
        remedy = f"pip install {package}" if package else f"installed are {', '.join(known)}"
        raise ConfigurationError(
            f"OTEL_TRACES_EXPORTER names the exporter {name!r}, which is not installed: {remedy}"
        )
    return found[0].load()
