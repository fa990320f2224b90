"""A group as a page shows it: its consumers, what waits for another attempt, what was given up."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from typing import Any, Final

from shared_sync.connection.connection import Connect, Connection
from shared_sync.errors import RedisAccessDenied, RedisRefused, SharedSyncError
from shared_sync.protocol import group_tables
from shared_sync.protocol.group_tables import (
    ConsumerSeen,
    GroupTables,
    LetterSeen,
    Listed,
    Newest,
    ParkedSeen,
)
from shared_sync.protocol.keys import Keys, id_milliseconds
from shared_sync.protocol.process_identity import ProcessIdentity

MOST_CONSUMERS: Final = 100
MOST_PARKED: Final = 50
MOST_LETTERS: Final = 50

REPLY_TIMEOUT_SECONDS: Final = 2.0
"""For the connection of a look: somebody waits for the page."""

_RIGHTS: Final = {
    "consumers": "+xinfo|consumers",
    "parked messages": "what a worker needs",
    "dead letters": "+xrevrange",
}
_OWN_REASON: Final = re.compile(r"failed \d+ times|crashed: its process died \d+ times")
_REASON_WITH_TEXT: Final = re.compile(r"(rejected|bad input): (.*)", re.DOTALL)
_TYPE_NAME: Final = re.compile(r"[\w.]{1,100}")
_NUMBER: Final = re.compile(r"\d{1,9}")
# What differs between errors of one cause: what is quoted, and words with a digit in them, which
# numbers, ids and addresses are.
_VARYING: Final = re.compile(r"""(?<!\w)b?(?:'[^']*'|"[^"]*"|`[^`]*`)|\b[^\W\d]*\d[\w.]*""")


class GroupView:
    """Looks at a group from outside. Safe from any thread, one look at a time.

    Each look opens a connection and closes it: looks are few, as they are only taken while
    somebody watches, and so nothing is left open behind them. What is known of dead letters is
    kept from look to look, because Redis can only find it out by reading the messages in them.
    """

    def __init__(self, connect: Connect, keys: Keys) -> None:
        # Fixed after construction.
        self._connect = connect
        self._keys = keys
        # Guarded by the lock, which is held during a look.
        self._lock = threading.Lock()
        self._known = Newest()

    def look(self) -> dict[str, Any]:
        """The tables of the group; those of a group that does not exist are empty.

        One that the user may not see, or that Redis refuses for another reason, is left out, and
        `reasons` says so. Blocks up to the time limits of the connection; raises what a link
        raises.
        """
        with self._lock:
            command = group_tables.view(
                self._keys,
                most_consumers=MOST_CONSUMERS,
                most_parked=MOST_PARKED,
                most_letters=MOST_LETTERS,
                known=self._known,
            )
            link = Connection(self._connect)
            try:
                reply = link.call(*command)
            finally:
                link.close()
            tables = group_tables.parse_view(reply, most_letters=MOST_LETTERS, known=self._known)
            self._known = tables.letters if isinstance(tables.letters, Newest) else Newest()
        return _shown(self._keys, tables)


def fingerprint(error_type: str, reason: str, text: str) -> str:
    """8 hex digits that errors of one cause share, whatever numbers, ids and names are in them.

    Made of the texts rather than of tracebacks: these differ from version to version of the same
    program, and what was rejected has none.
    """
    cause = "\n".join((error_type, _VARYING.sub("#", reason), _VARYING.sub("#", text)))
    return hashlib.blake2s(cause.encode(errors="replace"), digest_size=4).hexdigest()


def _shown(keys: Keys, tables: GroupTables) -> dict[str, Any]:
    now_ms, consumers, parked, letters = (
        tables.now_ms,
        tables.consumers,
        tables.parked,
        tables.letters,
    )
    view: dict[str, Any] = {"stream": keys.stream, "group": keys.group}
    reasons: list[str] = []
    if isinstance(consumers, Listed):
        view["consumers"] = [_consumer(row, now_ms) for row in consumers.rows]
        view["consumers_total"] = consumers.total
    else:
        reasons.append(_why_not("consumers", consumers))
    if isinstance(parked, Listed):
        view["parked"] = [_parked(row, now_ms) for row in parked.rows]
        view["parked_total"] = parked.total
    else:
        reasons.append(_why_not("parked messages", parked))
    if isinstance(letters, Newest):
        view["dead_letters"] = [_letter(row, now_ms) for row in letters.letters]
        view["dead_letters_total"] = letters.total
    else:
        reasons.append(_why_not("dead letters", letters))
    return view | ({"reasons": reasons} if reasons else {})


def _why_not(table: str, error: SharedSyncError) -> str:
    """In our own words: the server's have the user's name in them."""
    if isinstance(error, RedisAccessDenied):
        return f"{table} are not shown: grant this Redis user {_RIGHTS[table]}"
    code = error.code if isinstance(error, RedisRefused) else "ERR"
    if code == "TOOMANY":
        return f"{table} are not shown: there are too many in this group"
    return f"{table} are not shown: Redis refused it ({code})"


def _consumer(row: ConsumerSeen, now_ms: int) -> dict[str, Any]:
    lease_ms = None if row.lease_end_ms is None else row.lease_end_ms - now_ms
    holder = ProcessIdentity.parse(_text(row.holder))
    return {
        "name": _text(row.name),
        "present": None if lease_ms is None else lease_ms > 0,
        "lease_seconds_left": None if lease_ms is None else max(0, lease_ms) / 1000,
        "pending": row.pending,
        "idle_seconds": None if row.idle_ms is None else row.idle_ms / 1000,
        "host": holder.host if holder else None,
        "pid": holder.pid if holder else None,
    }


def _parked(row: ParkedSeen, now_ms: int) -> dict[str, Any]:
    error_type, error = _last_failure(row.last_failure)
    return {
        "message_id": row.id,
        "due_in_seconds": (row.due_ms - now_ms) / 1000,
        "failures": row.failures,
        "error_type": _type_name(error_type),
        "details": error,
    }


def _last_failure(line: bytes) -> tuple[str, str]:
    try:
        failure = json.loads(line)
        return str(failure["error_type"]), str(failure["error"])
    except (ValueError, TypeError, KeyError):
        return "", ""


def _letter(row: LetterSeen, now_ms: int) -> dict[str, Any]:
    error_type, error = _text(row.error_type), _text(row.error)
    reason, text = _parted(_text(row.reason))
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


def _parted(reason: str) -> tuple[str, str]:
    """The reason in words of this library alone, and what others said."""
    if _OWN_REASON.fullmatch(reason):
        return reason, ""
    if found := _REASON_WITH_TEXT.fullmatch(reason):
        return found[1], found[2]
    return "unknown", reason


def _type_name(text: str) -> str | None:
    """None for what is no name of a type: anybody may write a dead letter."""
    return text if _TYPE_NAME.fullmatch(text) else None


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")
