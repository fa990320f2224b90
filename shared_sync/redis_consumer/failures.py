"""How an attempt failed, in words that can be kept: type, text, and where it happened."""

from __future__ import annotations

import traceback
from typing import Final, NamedTuple

DEADLINE: Final = "deadline"
"""What stands as the type of the error if a message ran past its deadline."""

CRASH: Final = "crash"
"""The type of the error that is counted if a message is given up on because of its crashes."""

MAX_ERROR_CHARS = 500
MAX_TRACEBACK_CHARS = 4000


class Failure(NamedTuple):
    """How one attempt failed."""

    error_type: str
    error: str
    raised: BaseException | None = None
    """What the processor raised."""
    stack: str = ""
    """Where its reader is, if the processor has not returned."""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Return the failure that an error of the processor is."""
        return cls(type(error).__name__, _text_of(error), error)

    def trace(self) -> str:
        """Return the end of what shows where it happened."""
        text = self.stack if self.raised is None else _traceback_of(self.raised)
        return text.encode(errors="replace").decode()[-MAX_TRACEBACK_CHARS:]


NO_FAILURE: Final = Failure("", "")


def release_memory(error: BaseException) -> None:
    """If memory ran out, drop what the failed call refers to: reporting it needs some."""
    before = error.__context__
    if isinstance(error, MemoryError) or isinstance(before, MemoryError):
        if error.__traceback__ is not None:
            traceback.clear_frames(error.__traceback__.tb_next)  # the first frame is the caller's
        if before is not None:
            traceback.clear_frames(before.__traceback__)


def _text_of(error: BaseException) -> str:
    """Return the error's text, shortened; never raises, and is always valid Unicode."""
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001 - an error whose text fails is still an error
        text = "(its text cannot be read)"
    return text.encode(errors="replace").decode()[:MAX_ERROR_CHARS]


def _traceback_of(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except BaseException:  # noqa: BLE001 - as above
        return ""
