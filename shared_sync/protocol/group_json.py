"""The tables of a group as JSON, for the page."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from shared_sync.errors import RedisAccessDenied, RedisRefused, SharedSyncError
from shared_sync.protocol import dead_letter_rows
from shared_sync.protocol.dead_letter_rows import DeadLetterRow, type_name
from shared_sync.protocol.group_tables import (
    ConsumerRow,
    GroupTables,
    ParkedRow,
    Table,
)
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.process_identity import ProcessIdentity
from shared_sync.protocol.replies import text_of

ShowRow = Callable[[Any, int], dict[str, Any]]

MOST_CAUSES: Final = 100

_RIGHTS: Final = {"consumers": "+xinfo|consumers", "dead letters": "+xrevrange"}
_WORKERS_RIGHTS: Final = "what a worker needs"


def to_json(
    keys: Keys, tables: GroupTables, *, gone: Sequence[ConsumerRow], most_letters: int
) -> dict[str, Any]:
    """Return the tables as JSON, with `reasons` if Redis refused some of them.

    `gone` are consumers that died and are not in the group any more. Of the dead letters the newest
    `most_letters` are shown, and the causes of all are counted.
    """
    view: dict[str, Any] = {"stream": keys.stream, "group": keys.group}
    reasons: list[str] = []
    of_page: tuple[tuple[str, str, Table[Any] | SharedSyncError, ShowRow], ...] = (
        ("consumers", "consumers", tables.consumers, _show_consumer),
        ("parked", "parked messages", tables.parked, _show_parked),
        ("dead_letters", "dead letters", tables.dead_letters, DeadLetterRow.to_json),
    )
    for key, title, table, show in of_page:
        if isinstance(table, Table):
            rows = table.rows[:most_letters] if key == "dead_letters" else table.rows
            view[key] = [show(row, tables.now_ms) for row in rows]
            view[f"{key}_total"] = table.total
        else:
            reasons.append(why_not_shown(title, table))
    if gone and "consumers" in view:
        view["consumers_gone"] = [_show_consumer(row, tables.now_ms) for row in gone]
    letters = tables.dead_letters
    if isinstance(letters, Table) and letters.rows:
        causes = dead_letter_rows.causes(letters.rows, tables.now_ms)
        view["dead_letters_counted"] = len(letters.rows)
        view["dead_letter_causes"] = causes[:MOST_CAUSES]
        view["dead_letter_causes_total"] = len(causes)
    return view | ({"reasons": reasons} if reasons else {})


def why_not_shown(table: str, error: SharedSyncError) -> str:
    """Return the reason in our own words, since those of the server have the user's name."""
    if isinstance(error, RedisAccessDenied):
        return f"{table} are not shown: grant this Redis user {_RIGHTS.get(table, _WORKERS_RIGHTS)}"
    code = error.code if isinstance(error, RedisRefused) else "ERR"
    if code == "TOOMANY":
        return f"{table} are not shown: there are too many in this group"
    return f"{table} are not shown: Redis refused it ({code})"


def _show_consumer(row: ConsumerRow, now_ms: int) -> dict[str, Any]:
    lease_ms = None if row.lease_end_ms is None else row.lease_end_ms - now_ms
    identity = ProcessIdentity.parse(text_of(row.identity))
    gone = {} if lease_ms is None or lease_ms > 0 else {"gone_seconds": -lease_ms / 1000}
    return {
        "name": text_of(row.name),
        "present": None if lease_ms is None else lease_ms > 0,
        **gone,
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
        "crashes": row.crashes,
        "error_type": type_name(error_type),
        "details": error,
    }


def _last_failure(line: bytes) -> tuple[str, str]:
    """Return type and text of a failure; both are empty if this library did not record it."""
    try:
        failure = json.loads(line)
        return str(failure["error_type"]), str(failure["error"])
    except (ValueError, TypeError, KeyError):
        return "", ""
