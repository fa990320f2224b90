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
from shared_sync.protocol.keys import Keys

LONGEST_TEXT: Final = 500
LONGEST_NAME: Final = 200
"""Longer texts and names are cut, in characters."""

_KIND: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")


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

    @property
    def at_ms(self) -> int:
        """When it was recorded, by the server's clock."""
        return int(self.id.partition("-")[0])


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

Fields = Mapping[str, str]


def parse_event(entry: Any) -> Event | None:
    """Return an event from an entry of the stream, or None if it is none."""
    try:
        raw_id, items = entry
        entry_id = raw_id.decode()
        int(entry_id.partition("-")[0])
        fields = {
            _text(name, LONGEST_NAME): _text(value, LONGEST_TEXT)
            for name, value in zip(items[::2], items[1::2], strict=True)
        }
    except (ValueError, TypeError, AttributeError):
        return None
    kind = fields.get("kind", "")
    if not _KIND.fullmatch(kind):
        return None
    worker, who = (fields.get(name, "")[:LONGEST_NAME] for name in ("worker", "who"))
    return Event(entry_id, kind, worker, who, fields.get("text", ""))


def _text(raw: bytes, longest: int) -> str:
    return raw[: 4 * longest].decode(errors="replace")[:longest]
