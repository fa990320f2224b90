"""Events: what happened in a group, kept for the people who operate it.

They are a hint and never decide anything. The newest 300 or so are kept, for a week after the last
one. Whatever stands in the stream is data of other processes, perhaps of hostile ones: reading it
never fails, and what makes no sense is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shared_sync.connection import scripts
from shared_sync.connection.connection import Connection
from shared_sync.connection.scripts import Command
from shared_sync.errors import ConfigurationError, RedisAccessDenied, RedisRefused
from shared_sync.protocol.keys import Keys, id_milliseconds
from shared_sync.protocol.worker_reports import ReportedProcess, parse_process

GONE: Final = "gone"
RELEASE: Final = "release"
"""The kinds of events that worker_report.lua records without a text."""

BACK: Final = "back"
"""The kind of the event that a worker which had counted as dead lives."""

LONGEST_TEXT: Final = 500
LONGEST_NAME: Final = 200
"""Longer texts and names are cut, in characters."""

_KIND: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_ID: Final = re.compile(r"[0-9]+-[0-9]+")
_MS: Final = re.compile(r"[0-9]{1,15}")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a group."""

    id: str
    """The id of its entry, which begins with the server's time in ms."""
    kind: str
    """`started`, `left`, `gone`, `paused` and the like."""
    worker: str
    """The consumer that it is about, or that has noticed it; or ''."""
    who: str
    """Who has done it; or ''."""
    text: str
    """What happened, in a sentence."""
    died: ReportedProcess | None = None
    """The worker that is gone, as it was at its last report."""

    @property
    def at_ms(self) -> int:
        """When it was recorded, by the server's clock."""
        return id_milliseconds(self.id)


def record(
    keys: Keys, kind: str, text: str, *, worker: str = "", who: str = "", **more: str
) -> Command:
    """Return the command that records an event. Raises `ConfigurationError` for a wrong `kind`."""
    items = event_items(kind, text, worker=worker, who=who, **more)
    return scripts.call("record_event", [keys.events], *items)


def event_items(
    kind: str, text: str, *, worker: str = "", who: str = "", **more: str
) -> Sequence[bytes]:
    """Return the names and values of the fields of an event, in turn."""
    if not _KIND.fullmatch(kind):
        raise ConfigurationError(
            f"the kind of an event is up to 40 small letters, digits and _, not {kind!r}"
        )
    fields = {"kind": kind, "text": text[:LONGEST_TEXT]}
    names = {"worker": worker, "who": who, **more}
    fields |= {name: value[:LONGEST_NAME] for name, value in names.items() if value}
    items = [item for pair in fields.items() for item in pair]
    return [item.encode(errors="backslashreplace") for item in items]


def record_event(
    connection: Connection, keys: Keys, kind: str, text: str, who: str = "", *, worker: str = ""
) -> bool:
    """Record an event of a group; return whether the server has taken it.

    False for a user who lacks the rights, or if the server is full: what happened has happened all
    the same. `kind` is a short name such as "paused", `text` a sentence in plain English without
    the time, `who` who has done it. One round trip. Raises `RedisUnavailable`, and
    `ConfigurationError` for a wrong `kind`.
    """
    try:
        connection.call(*record(keys, kind, text, worker=worker, who=who))
    except (RedisAccessDenied, RedisRefused):
        return False
    return True


# --- reading ---


def parse_event(entry: Any) -> Event | None:
    """Return an event from an entry of the stream, or None if it is none."""
    try:
        raw_id, items = entry
        entry_id = raw_id.decode()
        fields = dict(zip(items[::2], items[1::2], strict=True))
        kind = _text(fields, b"kind")
        worker, who = (_text(fields, name, LONGEST_NAME) for name in (b"worker", b"who"))
        text = _text(fields, b"text", LONGEST_TEXT)
    except (ValueError, TypeError, AttributeError):
        return None
    if not _KIND.fullmatch(kind) or not _ID.fullmatch(entry_id):
        return None
    if kind == RELEASE and b"release" in fields:
        release, before = (_text(fields, name, LONGEST_NAME) for name in (b"release", b"before"))
        text = f"worker {worker} is the first with release {release}; before it was {before}"
    if kind != GONE:
        return Event(entry_id, kind, worker, who, text)
    died = parse_process(fields.get(b"report", b""))
    reported = _text(fields, b"reported", 20)
    reported_ms = int(reported) if _MS.fullmatch(reported) else None
    text = _death(worker, died, reported_ms, id_milliseconds(entry_id))
    return Event(entry_id, kind, worker, who, text, died)


def _death(worker: str, died: ReportedProcess | None, reported_ms: int | None, at_ms: int) -> str:
    text = f"worker {worker} is gone: its heartbeats ended, and it did not leave the group"
    if reported_ms is not None and reported_ms <= at_ms:
        text += f"; its last report was {(at_ms - reported_ms) / 1000:.0f} s before"
        if died is not None:
            text += f", when it ran {died.running or 'no'} message{'s' * (died.running != 1)}"
    return text


def _text(fields: Mapping[bytes, bytes], name: bytes, longest: int = 100) -> str:
    """Return a text, cut to a length."""
    return fields.get(name, b"")[: 4 * longest].decode(errors="replace")[:longest]
