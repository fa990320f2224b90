"""Dead letters and fields of messages as the page shows them: bounded, and without secrets."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from shared_sync.common.masking import MASK, is_secret_name, mask_secrets
from shared_sync.dead_letters import DeadLetter
from shared_sync.dead_letters.letter import row_of
from shared_sync.protocol import progress
from shared_sync.protocol.keys import id_milliseconds
from shared_sync.protocol.message_state import MessageState

MOST_FIELDS: Final = 100
LONGEST_VALUE: Final = 2000
"""Characters of the value of a field that are shown."""

LONGEST_NAME: Final = 200
LONGEST_TRACEBACK: Final = 20_000
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""Characters that texts do not have, and data do."""

MOST_FAILURES: Final = 50
"""Failures of a history that are shown: the last ones."""


def show_row(letter: DeadLetter) -> dict[str, Any]:
    """Return a dead letter without its message."""
    row = row_of(letter).to_json(round(time.time() * 1000))
    return {**row, "crashes": letter.crashes, "worker": letter.worker, "size": letter.size}


def show_letter(letter: DeadLetter) -> dict[str, Any]:
    """Return all that is known about a dead letter."""
    traceback = letter.traceback[-LONGEST_TRACEBACK:]
    return {
        **show_row(letter),
        "reason": letter.reason,
        "error": letter.error[:LONGEST_VALUE],
        "traceback": traceback,
        "time": letter.time or id_milliseconds(letter.id) / 1000,
        "imported_from": letter.imported_from,
        "history": [_show_failure(failure) for failure in letter.history[-MOST_FAILURES:]],
        "failures": len(letter.history),
        **show_fields(letter.fields),
    }


def show_fields(fields: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the fields of a message, the first of many."""
    shown = [_show_field(name, fields[name]) for name in list(fields)[:MOST_FIELDS]]
    return {"fields": shown, "fields_total": len(fields)}


def show_state(found: MessageState) -> dict[str, Any]:
    """Return where a message is, and what is known about it."""
    reported = found.progress or {}
    return {
        "state": found.state,
        "entry_id": found.entry_id,
        "consumer": found.consumer,
        "attempt": found.deliveries,
        "idle_seconds": found.idle_seconds,
        "due_in_seconds": found.due_in_seconds,
        "failures": found.failures,
        "progress": reported.get(progress.VALUE),
        **show_fields(fields_of(found.items)),
    }


def fields_of(items: Sequence[bytes]) -> dict[str, bytes]:
    """Return names and values in turn as a mapping."""
    names = (name.decode(errors="backslashreplace") for name in items[::2])
    return dict(zip(names, items[1::2], strict=True))


def _show_field(name: str, value: bytes) -> dict[str, Any]:
    shown = {"name": name[:LONGEST_NAME], "size": len(value)}
    if is_secret_name(name):
        return shown | {"text": MASK, "cut": False}
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    cut = text[:LONGEST_VALUE]
    if (value and not text) or _CONTROL.search(cut):
        return shown | {"sha256": hashlib.sha256(value).hexdigest()}
    return shown | {"text": mask_secrets(cut), "cut": len(text) > LONGEST_VALUE}


def _show_failure(failure: Mapping[str, Any]) -> dict[str, Any]:
    """Return a failure of the history; others may have written it, so all is text or a number."""
    time_of, attempt = failure.get("time"), failure.get("attempt")
    return {
        "worker": str(failure.get("worker", ""))[:LONGEST_NAME],
        "time": time_of if isinstance(time_of, (int, float)) else None,
        "attempt": attempt if isinstance(attempt, int) else None,
        "error_type": str(failure.get("error_type", ""))[:LONGEST_NAME],
        "error": str(failure.get("error", ""))[:LONGEST_VALUE],
    }
