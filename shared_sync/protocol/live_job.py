"""LiveJob: the state of a running message, and what its processor can do with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from shared_sync.common.trace_context import TraceContext
from shared_sync.connection.key_slots import slot_of
from shared_sync.errors import ConfigurationError, ConsumerStateError
from shared_sync.message import encode_fields
from shared_sync.protocol.job_options import OPTIONS, JobOptions, check_names, options_of
from shared_sync.protocol.keys import (
    Keys,
    check_stream_name,
    expires_at,
    hash_tag,
    is_reserved,
)
from shared_sync.protocol.messages import Entry, Output
from shared_sync.protocol.progress import parse

SHORTEST_EXPIRY_SECONDS = 0.001
"""The expiry of a forwarded message whose time is already over."""


class ProgressSink(Protocol):
    """Takes the reports of running messages. Any thread may call it."""

    def report(self, job: LiveJob, value: float | None, fields: Mapping[str, object]) -> None:
        """Send a report of a message, or drop it. Never waits for Redis.

        Raises `InvalidMessage` for what cannot be stored.
        """


@dataclass(frozen=True, slots=True)
class JobContext:
    """What all messages of one subscription share."""

    keys: Keys
    is_cluster: bool
    server_time: Callable[[], float]
    """Returns the server's time, in seconds since 1970."""
    progress: ProgressSink | None = None
    max_age_seconds: float | None = None
    """After how long every message expires; None for never."""
    trace_output: Callable[[str], TraceContext] | None = None
    """Returns the trace context of a message that is emitted to a stream; None without tracing."""

    def check_target(self, stream: str, *, forward_reply: bool) -> None:
        """Raise `ConfigurationError` if a processor of this subscription cannot emit there."""
        check_stream_name(stream)
        own = self.keys.stream
        tag = f"{{{hash_tag(own)}}}"
        if stream != own and is_reserved(own, stream):
            raise ConfigurationError(
                f"emit() cannot write to {stream!r}: this may be the name of a key of the library; "
                "choose another name"
            )
        if forward_reply and hash_tag(stream) != hash_tag(own):
            raise ConfigurationError(
                f"emit() cannot forward the reply to stream {stream!r}: a reply stays within the "
                f"hash tag of its first stream, which is {tag}; use a stream such as "
                f"'{tag}:{stream}', or leave out forward_reply"
            )
        if self.is_cluster and slot_of(stream) != slot_of(own):
            raise ConfigurationError(
                f"emit() cannot write to stream {stream!r}, which is in another slot of the "
                f"cluster than {own!r}; use a stream with the same hash tag, such as "
                f"'{tag}:{stream}'"
            )


class LiveJob:
    """The `JobControl` of one message in one attempt. Made when it is first needed.

    Any thread may call any method.
    """

    __slots__ = (
        "_cancelled",
        "_options",
        "context",
        "entry",
        "forwards_reply",
        "has_ended",
        "outputs",
    )

    def __init__(self, entry: Entry, context: JobContext | None = None) -> None:
        # Fixed after construction.
        self.entry = entry
        self._cancelled: dict[None, threading.Event] = {}
        """Holds one event once it is needed, because an event takes three times as long to make as
        the rest of this object. Only `setdefault()` changes this, which is atomic."""
        # Set by the reader's thread, before the processor runs.
        self.context = context
        # Changed by threads of the processor; read by the reader's thread after it has returned.
        self.outputs: list[Output] = []
        """The emitted messages, in order; only `append()` changes the list."""
        self.forwards_reply = False
        """Whether the result of an emitted message goes to the caller instead of this one's."""
        self._options: JobOptions | None = None
        # Set by the reader's thread.
        self.has_ended = False
        """Whether the attempt has ended, so that the message can do nothing more."""

    def control(self, message_id: str) -> LiveJob:
        """Return this object, as a `ControlSource` for its only message."""
        del message_id
        return self

    @property
    def cancelled(self) -> threading.Event:
        """The event that is set once the message is cancelled."""
        event = self._cancelled.get(None)
        return self._cancelled.setdefault(None, threading.Event()) if event is None else event

    @property
    def is_cancelled(self) -> bool:
        """Whether the message is cancelled."""
        event = self._cancelled.get(None)
        return event is not None and event.is_set()

    @property
    def options(self) -> JobOptions:
        """The options of the message. They can be read: otherwise it would be a dead letter."""
        options = self._options
        if options is None:
            options = self._options = options_of(self.entry.items)
        return options

    @property
    def reply_to(self) -> str:
        """The reply stream of the caller, or ''."""
        return self.options.reply_to

    @property
    def traceparent(self) -> str:
        """The trace of the message, or ''."""
        return self.options.traceparent

    @property
    def expires_at(self) -> float | None:
        """When the message expires, in seconds since 1970 by the server's clock."""
        context = self.context
        if context is None:
            return None
        limits = (self.options.expires_seconds, context.max_age_seconds)
        return expires_at(self.entry.id, context.server_time(), *limits)

    @property
    def resume_data(self) -> dict[str, Any] | None:
        """The last progress of an earlier attempt."""
        stored = self.entry.progress
        return parse(stored) if stored else None

    def report_progress(self, value: float | None, fields: Mapping[str, object]) -> None:
        """Send a report, as `Message.report_progress()` says."""
        context = self._running_context("report_progress()")
        if context.progress is not None:
            context.progress.report(self, value, fields)

    def emit(self, stream: str, fields: Mapping[str, object], *, forward_reply: bool) -> None:
        """Keep a message until it is published, as `Message.emit()` says."""
        context = self._running_context("emit()")
        context.check_target(stream, forward_reply=forward_reply)
        if forward_reply and self.forwards_reply:
            raise ConsumerStateError(
                f"message {self.entry.id} is forwarded already, and its caller gets only one "
                "result; call emit() once with forward_reply=True"
            )
        items = encode_fields(fields)  # first: this refuses what is no mapping
        check_names(fields)
        traced = context.trace_output
        trace = self.options.trace if traced is None else traced(stream)
        if forward_reply:
            options = self._forwarded(context, trace)
        else:
            options = JobOptions(traceparent=trace.traceparent, tracestate=trace.tracestate)
        if options != JobOptions():
            items += (OPTIONS.encode(), options.to_item())
        self.outputs.append(Output(stream, items))
        if forward_reply:
            self.forwards_reply = True

    def end(self) -> None:
        """Note that the processor has returned or raised, so the message can do nothing more."""
        self.has_ended = True

    def _forwarded(self, context: JobContext, trace: TraceContext) -> JobOptions:
        """Return the options of a message whose result goes to the caller of this one."""
        own = self.options
        left, now = None, context.server_time()
        ends_at = expires_at(self.entry.id, now, own.expires_seconds)
        if ends_at is not None:
            left = max(SHORTEST_EXPIRY_SECONDS, round(ends_at - now, 3))
        return JobOptions(own.reply_to, own.id or self.entry.id, left, *trace)

    def _running_context(self, method: str) -> JobContext:
        if self.has_ended or self.context is None:
            raise ConsumerStateError(
                f"call {method} while the processor runs; message {self.entry.id} has ended"
            )
        return self.context
