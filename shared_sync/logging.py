"""Logging of workers: records that say which message they are about, as text or as JSON.

    from shared_sync.logging import configure

    configure(level="INFO", format="json")

During an attempt, each record of the library and of the program's own code has these attributes:
`message_id`, `attempt`, `stream`, `group` and `consumer`; with tracing also `trace_id` and
`span_id`. A record of a batch has `messages`, their number, and `message_ids` instead of
`message_id` and `attempt`.

A filter of the handler adds them, not a record factory: a factory would add them before Python adds
what a program passes as `extra`, and `logging` raises `KeyError` for each `extra` of the same name,
also in libraries that know nothing of this one. The filter leaves what a record has.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, ParamSpec, TextIO, TypeVar, get_args

from shared_sync.common import log_attributes
from shared_sync.common.masking import MASK, is_secret_name, mask_secrets
from shared_sync.errors import ConfigurationError

__all__ = ["AttemptFilter", "Format", "JsonFormatter", "TextFormatter", "configure", "in_attempt"]

Format = Literal["text", "json"]

P = ParamSpec("P")
T = TypeVar("T")

_OWN: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
"""What every record has; all else was added to it."""

_SHOWN: Final = ("message_id", "attempt", "messages")
"""The attributes that a line of text begins with: those of the process are the same in all."""


class AttemptFilter(logging.Filter):
    """Adds to each record what the attempt is about in which it is logged. Passes every record.

    Add it to handlers: `handler.addFilter(AttemptFilter())`. Records of other threads, and of times
    at which no message runs, stay without these attributes, so a `logging.Formatter` with its own
    format needs `defaults={"message_id": "-"}`. With a `QueueHandler`, add it there, because the
    filter must run in the thread that logs.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the attributes that the record does not have."""
        for name, value in log_attributes.attributes().items():
            record.__dict__.setdefault(name, value)
        return True


class TextFormatter(logging.Formatter):
    """One line of text for each record, and the traceback of an error behind it.

    What looks like a password, a token or a key is replaced by `***`.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s%(attempt_shown)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        shown = [f"{name}={record.__dict__[name]}" for name in _SHOWN if record.__dict__.get(name)]
        copy = logging.makeLogRecord(record.__dict__)
        copy.attempt_shown = f" [{' '.join(shown)}]" if shown else ""
        return mask_secrets(super().format(copy))


class JsonFormatter(logging.Formatter):
    """One JSON object in one line for each record.

    It has `time` (UTC), `level`, `logger`, `message` and `thread`; `error`, which is the traceback;
    and whatever else was added to the record, by `AttemptFilter`, by `extra` or by other filters.
    An added attribute that has the name of one of these gets `extra.` in front of it. What looks
    like a password, a token or a key is replaced by `***`, and so is the value of each attribute
    that is named like one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the JSON of a record."""
        content: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}"
            f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": mask_secrets(record.getMessage()),
            "thread": record.threadName,
        }
        error = record.exc_text
        if record.exc_info and not error:
            error = self.formatException(record.exc_info)
        if error:
            content["error"] = mask_secrets(error)
        if record.stack_info:
            content["stack"] = mask_secrets(record.stack_info)
        added = {
            (f"extra.{name}" if name in content else name): _value(name, value)
            for name, value in record.__dict__.items()
            if name not in _OWN and value is not None
        }
        return json.dumps({**content, **added}, ensure_ascii=False, default=_as_text)


def configure(
    level: str | int = "INFO", format: Format = "text", stream: TextIO | None = None
) -> logging.Handler:
    """Have all loggers of the program write to one handler, and return that.

    The handler is one of the root logger, writes to `stream` (None for standard error), and has an
    `AttemptFilter`. Calling it again replaces the handler of the call before; handlers that others
    have added stay. Child processes (`isolation="process"`) need no call: their records are handled
    by the process that has started them.

    Raises `ConfigurationError` for a level or a format that does not exist.
    """
    number = level if isinstance(level, int) else logging.getLevelName(str(level).upper())
    if not isinstance(number, int) or isinstance(level, bool):
        raise ConfigurationError(
            f"level must be DEBUG, INFO, WARNING, ERROR, CRITICAL or a number, not {level!r}"
        )
    if format not in get_args(Format):
        raise ConfigurationError(f'format must be "text" or "json", not {format!r}')
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(TextFormatter() if format == "text" else JsonFormatter())
    handler.addFilter(AttemptFilter())
    handler.set_name(__name__)
    for earlier in [one for one in logging.root.handlers if one.get_name() == __name__]:
        logging.root.removeHandler(earlier)
    logging.root.addHandler(handler)
    logging.root.setLevel(number)
    return handler


def in_attempt(function: Callable[P, T]) -> Callable[P, T]:
    """Return the function for another thread, so that what it logs belongs to this attempt.

        with ThreadPoolExecutor() as pool:
            parts = list(pool.map(in_attempt(transcribe), chunks))

    Call this in the processor. What the function logs has the attributes of the attempt, and with
    tracing its spans belong to the span of the attempt.
    """
    return log_attributes.carried(function)


def _value(name: str, value: object) -> object:
    """Return what stands in JSON for an attribute of a record. Never raises."""
    if is_secret_name(name):
        return MASK
    try:
        return _fit_for_json(value)
    except RecursionError:  # it contains itself
        return _as_text(value)


def _fit_for_json(value: object) -> object:
    if isinstance(value, str):
        return mask_secrets(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {
            str(name): MASK if is_secret_name(str(name)) else _fit_for_json(one)
            for name, one in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_fit_for_json(one) for one in value]
    return value


def _as_text(value: object) -> str:
    return mask_secrets(repr(value))
