"""JobControl: what a running `Message` needs from the thread or the child process that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class CancelledEvent(Protocol):
    """Says whether a message is cancelled. Any thread may call its methods."""

    def is_set(self) -> bool:
        """Return whether the message is cancelled."""

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the message is cancelled, or until the timeout; return `is_set()`."""


class JobControl(Protocol):
    """Carries out the methods and properties of a running `Message`.

    Any thread may call any method.
    """

    @property
    def cancelled(self) -> CancelledEvent:
        """The event that is set once the message is cancelled."""

    @property
    def resume_data(self) -> dict[str, Any] | None:
        """The last progress of an earlier attempt."""

    @property
    def reply_to(self) -> str:
        """The reply stream of the caller, or ''."""

    @property
    def traceparent(self) -> str:
        """The trace of the message, or ''."""

    @property
    def expires_at(self) -> float | None:
        """When the message expires, in seconds since 1970 by the server's clock."""

    def report_progress(self, value: float | None, fields: Mapping[str, object]) -> None:
        """Send progress, as `Message.report_progress()` says."""

    def emit(self, stream: str, fields: Mapping[str, object], *, forward_reply: bool) -> None:
        """Keep a message until it is published, as `Message.emit()` says."""


class ControlSource(Protocol):
    """Makes the `JobControl` of a message on demand: most processors only use the fields."""

    def control(self, message_id: str) -> JobControl:
        """Return the control of the message with this id. Any thread may call it."""
