"""How an attempt failed, in words that can be kept: type, text, and where it happened."""

from __future__ import annotations

from typing import Final, NamedTuple

from shared_sync.common.exceptions import text_of, traceback_of
from shared_sync.isolation.error_description import type_of
from shared_sync.isolation.errors import RemoteError

DEADLINE: Final = "deadline"
"""What stands as the type of the error if a message ran past its deadline."""

CRASH: Final = "crash"
"""The type of the error that is counted, and that stands in a dead letter, if a message crashed."""

MAX_ERROR_CHARS = 500
MAX_TRACEBACK_CHARS = 4000


class Failure(NamedTuple):
    """How one attempt failed."""

    error_type: str
    error: str
    raised: BaseException | None = None
    """What the processor raised, if it is known here as an object."""
    stack: str = ""
    """Where the processor is, if it has not returned."""
    remote_traceback: str = ""
    """The traceback of what was raised in a child process."""
    counted: BaseException | type[BaseException] | str = ""
    """What the metrics count: the error or, if it is not known here as an object, its type or the
    name of that."""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Return the failure that an error of the processor is."""
        text = _short_text(error)
        if isinstance(error, RemoteError):
            kind = type_of(error.base_names) if error.base_names else error.type_name
            return cls(error.type_name, text, None, "", error.traceback_text, kind)
        cause = error.__cause__  # a directive of a child's processor was made anew here
        traceback_text = cause.traceback_text if isinstance(cause, RemoteError) else ""
        return cls(type(error).__name__, text, error, "", traceback_text, error)

    def trace(self) -> str:
        """Return the end of what shows where it happened."""
        text = self.remote_traceback or self.stack
        if not text and self.raised is not None:
            text = traceback_of(self.raised)
        return text.encode(errors="replace").decode()[-MAX_TRACEBACK_CHARS:]

    def for_log(self) -> tuple[str, BaseException | None]:
        """Return the traceback as text or as an error, whichever is known, for a line in a log."""
        if self.remote_traceback:
            return f"\n{self.remote_traceback.rstrip()}", None
        return "", self.raised


NO_FAILURE: Final = Failure("", "")


def _short_text(error: BaseException) -> str:
    """Return the error's text, shortened; always valid Unicode."""
    return text_of(error).encode(errors="replace").decode()[:MAX_ERROR_CHARS]
