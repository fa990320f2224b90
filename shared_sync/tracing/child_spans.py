"""Spans of the processor in a child process, which belong to the span of its attempt.

The attempt's span is made in the parent, and its context comes with each job. What the child makes
itself goes to the tracer provider of the child, which the program's own modules set up there.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import Token
from typing import Any

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context

from shared_sync.common.trace_context import TraceContext
from shared_sync.tracing import sdk
from shared_sync.tracing.consumer_spans import emit, ids_of
from shared_sync.tracing.conventions import context_of, tracer_of


class ChildSpans:
    """Lets the spans of the processor belong to the attempt. Its methods belong to the main thread,
    but for `emitted()` and `span_ids()`."""

    def __init__(self, setup: Mapping[str, Any]) -> None:
        # Fixed after construction.
        self._setup = setup
        # Written by the main thread; any thread may read.
        self._running: Context | None = None
        # Owned by the main thread.
        self._token: Token[Context] | None = None

    def set_up(self) -> None:
        """Set up the SDK if the parent has, and if the program has not done so here."""
        sdk.in_child(self._setup)

    def begin(self, travelled: TraceContext) -> None:
        """The processor is about to run in an attempt whose span this is."""
        self._running = context_of(travelled)
        self._token = contexts.attach(self._running)

    def end(self) -> None:
        """The processor has returned or raised."""
        token, self._token = self._token, None
        self._running = None
        if token is not None:
            contexts.detach(token)

    def emitted(self, stream: str) -> TraceContext:
        """Return the context of a message that the processor emits. Any thread may call it."""
        return emit(tracer_of(trace.get_tracer_provider()), stream, self._running)

    def span_ids(self) -> dict[str, str]:
        """Return the ids of trace and span for log records. Any thread may call it."""
        return ids_of(self._running)
