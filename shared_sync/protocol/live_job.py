"""A message that runs: what its processor has asked for, and what others tell the processor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from shared_sync.connection.key_slots import slot_of
from shared_sync.errors import ConfigurationError, ConsumerStateError
from shared_sync.message import encode_fields
from shared_sync.protocol.job_options import OPTIONS, JobOptions, check_names, options_of
from shared_sync.protocol.keys import (
    Keys,
    age_seconds,
    check_stream_name,
    hash_tag,
    id_milliseconds,
)
from shared_sync.protocol.messages import Entry, Output
from shared_sync.protocol.progress import parse

SHORTEST_EXPIRY_SECONDS = 0.001
"""What is left to a message that is emitted when its time is over."""


class ProgressSink(Protocol):
    """Takes the progress that messages report. Any thread may call it."""

    def report(self, job: LiveJob, value: float | None, fields: Mapping[str, object]) -> None:
        """Send progress of a message, or drop it. Never waits for Redis.

        Raises `InvalidMessage` for what cannot be stored.
        """


@dataclass(frozen=True, slots=True)
class JobContext:
    """What the messages of one subscription need besides themselves."""

    keys: Keys
    is_cluster: bool
    server_time: Callable[[], float]
    """Returns the server's time, in seconds since 1970."""
    progress: ProgressSink | None = None
    max_age_seconds: float | None = None
    """After how long every message expires; None for never."""

    def check_target(self, stream: str, *, forward_reply: bool) -> None:
        """Raise `ConfigurationError` if a message of the stream cannot be written in the step that
        settles one of this subscription."""
        check_stream_name(stream)
        own = self.keys.stream
        tag = f"{{{hash_tag(own)}}}"
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
    """One message from when somebody first asks for it until its attempt has ended.

    It is the `JobControl` of its message. Any thread may call any method.
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
        """Has one event once somebody needs it. Only `setdefault()` changes this, which is atomic:
        an event takes three times as long to make as all the rest."""
        # Set by the reader's thread, before the processor runs.
        self.context = context
        # Changed by the threads of the processor; read by the reader's thread when that has ended.
        self.outputs: list[Output] = []
        """What it has emitted, in order; only `append()` changes it."""
        self.forwards_reply = False
        """Whether another message answers the caller in this one's place."""
        self._options: JobOptions | None = None
        # Set by the reader's thread.
        self.has_ended = False
        """Whether its attempt has ended, so that nothing more is taken."""

    def control(self, message_id: str) -> LiveJob:
        """Return this job: it stands behind its message."""
        del message_id
        return self

    @property
    def cancelled(self) -> threading.Event:
        """Is set by whoever learns that the message is cancelled."""
        event = self._cancelled.get(None)
        return self._cancelled.setdefault(None, threading.Event()) if event is None else event

    @property
    def is_cancelled(self) -> bool:
        """Whether the message is cancelled."""
        event = self._cancelled.get(None)
        return event is not None and event.is_set()

    @property
    def options(self) -> JobOptions:
        """The options of the message. Those that cannot be read have let no message run."""
        options = self._options
        if options is None:
            options = self._options = options_of(self.entry.items)
        return options

    @property
    def reply_to(self) -> str:
        """The stream of the one who waits for the result, or ''."""
        return self.options.reply_to

    @property
    def traceparent(self) -> str:
        """The trace that the message belongs to, or ''."""
        return self.options.traceparent

    @property
    def expires_at(self) -> float | None:
        """When the message expires, in seconds since 1970 by the server's clock."""
        context = self.context
        if context is None:
            return None
        return self._expires_at(context, self.options.expires_seconds, context.max_age_seconds)

    def _expires_at(self, context: JobContext, *limits: float | None) -> float | None:
        """When the first of these limits has passed, counted from the time in the message's id."""
        known = [limit for limit in limits if limit is not None]
        if not known or age_seconds(self.entry.id, context.server_time()) is None:
            return None  # the publisher has chosen an id that is no time, or there is no limit
        return id_milliseconds(self.entry.id) / 1000 + min(known)

    @property
    def resume_data(self) -> dict[str, Any] | None:
        """The last progress of an earlier attempt."""
        stored = self.entry.progress
        return parse(stored) if stored else None

    def report_progress(self, value: float | None, fields: Mapping[str, object]) -> None:
        """Send progress, as `Message.report_progress()` says."""
        context = self._running_context("report_progress()")
        if context.progress is not None:
            context.progress.report(self, value, fields)

    def emit(self, stream: str, fields: Mapping[str, object], *, forward_reply: bool) -> None:
        """Keep a message to publish, as `Message.emit()` says."""
        context = self._running_context("emit()")
        context.check_target(stream, forward_reply=forward_reply)
        check_names(fields)
        items = encode_fields(fields)
        options = self._forwarded(context) if forward_reply else self._traced()
        if options != JobOptions():
            items += (OPTIONS.encode(), options.to_item())
        self.outputs.append(Output(stream, items))
        if forward_reply:
            self.forwards_reply = True

    def end(self) -> None:
        """Take nothing more: the processor has returned, or has raised an error."""
        self.has_ended = True

    def _forwarded(self, context: JobContext) -> JobOptions:
        """The options of a message that answers the caller in this one's place."""
        own = self.options
        left, expires_at = None, self._expires_at(context, own.expires_seconds)
        if expires_at is not None:
            left = max(SHORTEST_EXPIRY_SECONDS, round(expires_at - context.server_time(), 3))
        return JobOptions(own.reply_to, own.id or self.entry.id, left, own.traceparent)

    def _traced(self) -> JobOptions:
        return JobOptions(traceparent=self.traceparent)

    def _running_context(self, method: str) -> JobContext:
        if self.has_ended or self.context is None:
            raise ConsumerStateError(
                f"call {method} while the processor runs; message {self.entry.id} has ended"
            )
        return self.context
