"""Log records of a child: sent as they are logged, and handled by the parent's loggers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeAlias

from shared_sync.common import log_attributes

MAX_CHARS: Final = 64 * 1024
"""The longest text of a record; the rest is cut off."""

_DROPPED: Final = frozenset({"msg", "args", "exc_info", "message"})
_SIMPLE: Final = (str, int, float, bool, type(None))

Levels: TypeAlias = "Mapping[str, int]"
"""The levels that loggers have of their own; the root's name is empty."""


class SendingHandler(logging.Handler):
    """The child's only handler, at its root logger: it passes every record to a function."""

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self._send = send
        self._formatter = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record. Drops one that cannot be formatted or sent, as other handlers do."""
        try:
            self._send(self._describe(record))
        except Exception:  # noqa: BLE001 - the text of a record may be anything
            self.handleError(record)

    def _describe(self, record: logging.LogRecord) -> dict[str, Any]:
        described: dict[str, Any] = {
            name: value
            for name, value in record.__dict__.items()
            if name not in _DROPPED and isinstance(value, _SIMPLE)
        }
        described["msg"] = record.getMessage()[:MAX_CHARS]
        if record.exc_info and not record.exc_text:
            described["exc_text"] = self._formatter.formatException(record.exc_info)[-MAX_CHARS:]
        for name, value in log_attributes.attributes().items():
            described.setdefault(name, value)
        described.setdefault("message_id", None)  # formats of programs may name it
        return described


def handle(described: Mapping[str, Any], own: logging.Logger) -> None:
    """Handle a record of the child in the parent, by the logger of its name. Never raises.

    `own` is the logger that the program gave to the consumer, which need not be known by its name.
    """
    with suppress(Exception):
        record = logging.makeLogRecord({**described, "args": ()})
        if "dropped" in described:
            own.warning("%d log records of a child process were dropped", described["dropped"])
        logger = own if record.name == own.name else logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)


def current_levels(own: logging.Logger) -> dict[str, int]:
    """Return the levels of this process's loggers, for its children."""
    levels = {"": logging.root.getEffectiveLevel(), own.name: own.getEffectiveLevel()}
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and logger.level:
            levels[name] = logger.level
    return levels


def set_levels(levels: Levels) -> None:
    """In the child: log from the same levels on as the parent."""
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
