"""What a message that runs needs of whoever runs it, in a thread or in a child process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class CancelledEvent(Protocol):
    """Says whether a message is cancelled. Any thread may call its methods."""

    def is_set(self) -> bool:
        """Return whether the message is cancelled."""

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the message is cancelled, or for so many seconds; return whether it is."""


class JobControl(Protocol):
    """What stands behind a `Message` that runs: its methods and properties go here.

    Any thread may call any method.
    """

    @property
    def cancelled(self) -> CancelledEvent:
        """Is set once the message is cancelled."""

    @property
    def resume_data(self) -> dict[str, Any] | None:
        """The last progress of an earlier attempt."""

    @property
    def reply_to(self) -> str:
        """The stream of the one who waits for the result, or ''."""

    @property
    def traceparent(self) -> str:
        """The trace that the message belongs to, or ''."""

    @property
    def expires_at(self) -> float | None:
        """When the message expires, in seconds since 1970 by the server's clock."""

    def report_progress(self, value: float | None, fields: Mapping[str, object]) -> None:
        """Send progress, as `Message.report_progress()` says."""

    def emit(self, stream: str, fields: Mapping[str, object], *, forward_reply: bool) -> None:
        """Keep a message to publish, as `Message.emit()` says."""


class ControlSource(Protocol):
    """Finds what stands behind messages: most are never asked for more than their fields."""

    def control(self, message_id: str) -> JobControl:
        """Return what stands behind the message of this id. Any thread may call it."""
