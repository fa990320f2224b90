"""The log of actions: who asked for what, and what became of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from shared_sync.common.guarded import Logger
from shared_sync.errors import SharedSyncError
from shared_sync.health_server.actions.requests import ActionRequest
from shared_sync.health_server.http_log import HttpLog

LOGGED_IDS: Final = 20
"""Ids that a line has; of further ones it has the number."""

_LISTINGS: Final = ("causes", "letters")
"""Logged at the level DEBUG: they change nothing, and show no message as a whole."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Where a request came from."""

    address: str
    """The address of the other end of the connection, a proxy perhaps."""

    forwarded_for: str
    """What the header X-Forwarded-For says, which anybody may write; empty without one."""

    def __str__(self) -> str:
        claimed = f" (X-Forwarded-For {self.forwarded_for!r:.100})" if self.forwarded_for else ""
        return f"{self.address}{claimed}"


class Journal:
    """Writes a line for each action. Any thread may call any method."""

    def __init__(self, logger: Logger, *, stream: str, group: str) -> None:
        # Fixed after construction.
        self._logger = logger
        self._of = f"{stream} · {group}"
        # Anybody may send requests that are refused, so they must not fill the log.
        self._refusals = HttpLog(logger)

    def done(self, request: ActionRequest, asker: Asker, answer: Mapping[str, Any]) -> None:
        """Log an action that was carried out."""
        level = logging.DEBUG if request.name in _LISTINGS else logging.INFO
        self._log(level, request, asker, _outcome(answer))

    def failed(self, request: ActionRequest, asker: Asker, error: Exception) -> None:
        """Log an action that failed, with the traceback if this library does not know the error."""
        known = isinstance(error, SharedSyncError)
        trace = None if known else error
        self._log(logging.WARNING, request, asker, f"failed: {error}", trace)

    def unfinished(self, request: ActionRequest, asker: Asker) -> None:
        """Log that nobody waits for an action any more; another line follows when it ends."""
        self._log(logging.WARNING, request, asker, "takes too long, and may still be carried out")

    def refused(self, name: str, asker: Asker, reason: str) -> None:
        """Log a request that was not carried out."""
        self._refusals.warning("action refused: %.40r from %s: %s", name, asker, reason)

    def _log(
        self,
        level: int,
        request: ActionRequest,
        asker: Asker,
        outcome: str,
        trace: Exception | None = None,
    ) -> None:
        by = f" by {request.by!r} (a name that nobody has verified)" if request.by else ""
        self._logger.log(
            level,
            "%s: action %s%s from %s: %s: %s",
            self._of,
            request.name,
            by,
            asker,
            _what(request.arguments),
            outcome,
            exc_info=trace,
        )


def _what(arguments: Mapping[str, Any]) -> str:
    """Return the arguments in a line. Of fields it has only the names: values may be private."""
    parts = []
    for name, value in arguments.items():
        if name == "by" or value in ("", 0, [], {}):
            continue
        if name == "ids":
            shown = ", ".join(value[:LOGGED_IDS])
            parts.append(f"{len(value)} ids: {shown}{', ...' if value[LOGGED_IDS:] else ''}")
        elif name == "where":
            conditions = {
                key: list(condition) if key == "fields" else condition
                for key, condition in value.items()
            }
            parts.append(f"where {conditions!r:.500}")
        else:
            parts.append(f"{name} {value!r}")
    return ", ".join(parts) or "all"


def _outcome(answer: Mapping[str, Any]) -> str:
    if "done" not in answer:
        return "done"
    missing = f", {answer['missing']} were gone" if answer.get("missing") else ""
    stopped = f", then stopped: {answer['stopped']}" if answer.get("stopped") else ""
    return f"{answer['done']} done{missing}{stopped}"
