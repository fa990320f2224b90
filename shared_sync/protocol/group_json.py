"""The tables of a group as JSON, for the page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final

from shared_sync.errors import RedisAccessDenied, RedisRefused, SharedSyncError
from shared_sync.protocol.fingerprint import fingerprint
from shared_sync.protocol.group_tables import (
    ConsumerRow,
    DeadLetterRow,
    GroupTables,
    ParkedRow,
    Table,
)
from shared_sync.protocol.keys import Keys, id_milliseconds
from shared_sync.protocol.process_identity import ProcessIdentity

ShowRow = Callable[[Any, int], dict[str, Any]]

_RIGHTS: Final = {
    "consumers": "+xinfo|consumers",
    "parked messages": "what a worker needs",
    "dead letters": "+xrevrange",
}
_OWN_REASON: Final = re.compile(r"failed \d+ times|crashed: its process died \d+ times")
_REASON_WITH_TEXT: Final = re.compile(r"(rejected|bad input): (.*)", re.DOTALL)
_TYPE_NAME: Final = re.compile(r"[\w.]{1,100}")
_NUMBER: Final = re.compile(r"\d{1,9}")


def to_json(keys: Keys, tables: GroupTables) -> dict[str, Any]:
    """Return the tables as JSON, with `reasons` if Redis refused some of them."""
    view: dict[str, Any] = {"stream": keys.stream, "group": keys.group}
    reasons: list[str] = []
    of_page: tuple[tuple[str, str, Table[Any] | SharedSyncError, ShowRow], ...] = (
        ("consumers", "consumers", tables.consumers, _show_consumer),
        ("parked", "parked messages", tables.parked, _show_parked),
        ("dead_letters", "dead letters", tables.dead_letters, _show_dead_letter),
    )
    for key, title, table, show in of_page:
        if isinstance(table, Table):
            view[key] = [show(row, tables.now_ms) for row in table.rows]
            view[f"{key}_total"] = table.total
        else:
            reasons.append(_why_not_shown(title, table))
    return view | ({"reasons": reasons} if reasons else {})


def _why_not_shown(table: str, error: SharedSyncError) -> str:
    """Return the reason in our own words, since those of the server have the user's name."""
    if isinstance(error, RedisAccessDenied):
        return f"{table} are not shown: grant this Redis user {_RIGHTS[table]}"
    code = error.code if isinstance(error, RedisRefused) else "ERR"
    if code == "TOOMANY":
        return f"{table} are not shown: there are too many in this group"
    return f"{table} are not shown: Redis refused it ({code})"


def _show_consumer(row: ConsumerRow, now_ms: int) -> dict[str, Any]:
    lease_ms = None if row.lease_end_ms is None else row.lease_end_ms - now_ms
    identity = ProcessIdentity.parse(_text(row.identity))
    return {
        "name": _text(row.name),
        "present": None if lease_ms is None else lease_ms > 0,
        "lease_seconds_left": None if lease_ms is None else max(0, lease_ms) / 1000,
        "pending": row.pending,
        "idle_seconds": None if row.idle_ms is None else row.idle_ms / 1000,
        "host": identity.host if identity else None,
        "pid": identity.pid if identity else None,
    }


def _show_parked(row: ParkedRow, now_ms: int) -> dict[str, Any]:
    error_type, error = _last_failure(row.last_failure)
    return {
        "message_id": row.id,
        "due_in_seconds": (row.due_ms - now_ms) / 1000,
        "failures": row.failures,
        "error_type": _type_name(error_type),
        "details": error,
    }


def _last_failure(line: bytes) -> tuple[str, str]:
    """Return type and text of a failure; both are empty if this library did not record it."""
    try:
        failure = json.loads(line)
        return str(failure["error_type"]), str(failure["error"])
    except (ValueError, TypeError, KeyError):
        return "", ""


def _show_dead_letter(row: DeadLetterRow, now_ms: int) -> dict[str, Any]:
    error_type, error = _text(row.error_type), _text(row.error)
    reason, text = _split_reason(_text(row.reason))
    attempts = _text(row.attempts)
    return {
        "id": row.id,
        "message_id": _text(row.message_id),
        "reason": reason,
        "error_type": _type_name(error_type),
        "fingerprint": fingerprint(error_type, reason, error or text),
        "attempts": int(attempts) if _NUMBER.fullmatch(attempts) else None,
        "seconds_ago": max(0, now_ms - id_milliseconds(row.id)) / 1000,
        "details": error or text,
    }


def _split_reason(reason: str) -> tuple[str, str]:
    """Return the reason without words of others, and those words."""
    if _OWN_REASON.fullmatch(reason):
        return reason, ""
    if found := _REASON_WITH_TEXT.fullmatch(reason):
        return found[1], found[2]
    return "unknown", reason


def _type_name(text: str) -> str | None:
    """Return the text if it is the name of a type; others may have written the dead letter."""
    return text if _TYPE_NAME.fullmatch(text) else None


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")
