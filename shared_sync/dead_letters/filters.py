"""DeadLetterFilter: selects dead letters."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from shared_sync.common import arguments
from shared_sync.dead_letters.letter import DeadLetter
from shared_sync.errors import ConfigurationError
from shared_sync.protocol.dead_letter_commands import SHORT_FIELD, Row
from shared_sync.protocol.dead_letter_layout import pairs_of_message
from shared_sync.protocol.keys import id_milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterFilter:
    """Selects the dead letters that meet every given condition.

        letters.iterate(where=DeadLetterFilter(reason="bad input", fields={"client": "42"}))

    Values of up to 256 bytes are compared without reading the messages. For longer values the
    server reads the messages, which takes 30 ms for a message of 10 MB.

    Raises:
        ConfigurationError: An argument cannot work.
    """

    reason: str = ""
    """Text that the reason contains; case is ignored."""

    error: str = ""
    """Text that the type or text of the last error contains; case is ignored."""

    fingerprint: str = ""
    """The cause, as `DeadLetter.fingerprint` and the dashboard have it."""

    older_than_seconds: float | None = None
    """The message was given up on longer ago than this, by the clock of this machine."""

    newer_than_seconds: float | None = None
    """The message was given up on within this time."""

    fields: Mapping[str, str | bytes] = field(default_factory=dict)
    """Names of fields of the message and their exact values, as text or as bytes."""

    message_ids: Collection[str] = ()
    """Ids that the messages had in their stream. One message may have several dead letters."""

    def __post_init__(self) -> None:
        """Raise `ConfigurationError` for an argument that cannot work."""
        for name in ("reason", "error", "fingerprint"):
            if not isinstance(text := getattr(self, name), str):
                raise ConfigurationError(f"{name} must be text, not {text!r}")
        if not isinstance(self.fields, Mapping) or not all(
            isinstance(name, str) and isinstance(value, str | bytes)
            for name, value in self.fields.items()
        ):
            raise ConfigurationError(
                "fields must be a mapping of names to values, both as text (or values as bytes), "
                f"not {self.fields!r}"
            )
        for name in ("older_than_seconds", "newer_than_seconds"):
            if (age := getattr(self, name)) is not None:
                arguments.number(name, age, 0)
        if isinstance(self.message_ids, str):
            raise ConfigurationError(
                f"message_ids must be a collection of ids, not {self.message_ids!r}"
            )

    def matches(self, letter: DeadLetter, now: float) -> bool:
        """Return whether a dead letter matches, apart from its fields. `now` is a Unix time."""
        # What another program has written has no time, but the server's in its id.
        age = now - (letter.time or id_milliseconds(letter.id) / 1000)
        return (
            self.reason.casefold() in letter.reason.casefold()
            and self.error.casefold() in f"{letter.error_type}: {letter.error}".casefold()
            and (self.older_than_seconds is None or age > self.older_than_seconds)
            and (self.newer_than_seconds is None or age <= self.newer_than_seconds)
            and (not self.message_ids or letter.message_id in self.message_ids)
            and (not self.fingerprint or letter.fingerprint == self.fingerprint)
        )

    def matches_fields(self, row: Row) -> bool | None:
        """Return whether the fields match; None if the row lacks the fields that decide."""
        if not self.fields:
            return True
        known = pairs_of_message(row.items)
        undecided = False
        for name, wanted in self.fields.items():
            value = wanted.encode() if isinstance(wanted, str) else wanted
            if name in known:
                if known[name] != value:
                    return False
            elif row.left_out == 0 or (
                row.left_out == 1 and len(name.encode()) + len(value) <= SHORT_FIELD
            ):
                return False
            else:
                undecided = True
        return None if undecided else True
