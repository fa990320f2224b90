"""What a page shows of a group: its consumers, what is parked, and its dead letters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from shared_sync.connection import driver_errors, scripts
from shared_sync.connection.scripts import Command
from shared_sync.errors import SharedSyncError
from shared_sync.protocol.keys import NO_ID, Keys

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ConsumerSeen:
    """A consumer of the group, or one that announced itself and has read nothing yet."""

    name: bytes
    lease_end_ms: int | None
    """None for one that never announced itself."""

    pending: int
    idle_ms: int | None
    holder: bytes


@dataclass(frozen=True, slots=True)
class ParkedSeen:
    """A message that waits for its next attempt."""

    id: str
    due_ms: int
    failures: int | None
    last_failure: bytes
    """A line of JSON, or nothing."""


@dataclass(frozen=True, slots=True)
class LetterSeen:
    """A dead letter without the message; its texts are those that are in it, cut."""

    id: str
    message_id: bytes
    reason: bytes
    error_type: bytes
    error: bytes
    attempts: bytes


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest dead letters in one piece, newest first, and how many there are in all."""

    letters: tuple[LetterSeen, ...] = ()
    total: int = 0


@dataclass(frozen=True, slots=True)
class Listed(Generic[T]):
    """The first rows of a table, and how many there are in all."""

    rows: Sequence[T]
    total: int


@dataclass(frozen=True, slots=True)
class GroupTables:
    """What a page shows of a group; in place of a table may stand why it was refused."""

    now_ms: int
    consumers: Listed[ConsumerSeen] | SharedSyncError
    parked: Listed[ParkedSeen] | SharedSyncError
    letters: Newest | SharedSyncError


def view(
    keys: Keys, *, most_consumers: int, most_parked: int, most_letters: int, known: Newest
) -> Command:
    """Look at a group, in one round trip; the reply is for `parse_view()`.

    `known` are the letters of the look before: what is known of them is not read again.
    """
    ends = (known.letters[0].id, known.letters[-1].id) if known.letters else (NO_ID, NO_ID)
    return scripts.call(
        "view",
        [keys.stream, keys.presence, keys.holders, keys.due, keys.history, keys.dead],
        keys.group,
        most_consumers,
        most_parked,
        most_letters,
        len(known.letters),
        *ends,
        known.total,
    )


def parse_view(reply: Any, *, most_letters: int, known: Newest) -> GroupTables:
    now_ms, consumers, parked, letters = reply
    return GroupTables(
        now_ms,
        _refused(consumers) or _listed(consumers, _parse_consumer),
        _refused(parked) or _listed(parked, _parse_parked),
        _refused(letters) or _parse_newest(letters, known, most_letters),
    )


def _refused(table: Any) -> SharedSyncError | None:
    return driver_errors.refusal(table) if isinstance(table, bytes) else None


def _listed(table: Any, parse: Callable[..., T]) -> Listed[T]:
    total, *rows = table
    return Listed([parse(*row) for row in rows], total)


def _parse_consumer(
    name: bytes, lease_end_ms: int, pending: int, idle_ms: int, holder: bytes
) -> ConsumerSeen:
    return ConsumerSeen(
        name,
        None if lease_end_ms < 0 else lease_end_ms,
        pending,
        None if idle_ms < 0 else idle_ms,
        holder,
    )


def _parse_parked(
    message_id: bytes, due_ms: bytes, failures: int, last_failure: bytes
) -> ParkedSeen:
    known = None if failures < 0 else failures
    return ParkedSeen(message_id.decode(), int(float(due_ms)), known, last_failure)


def _parse_newest(table: Any, known: Newest, most: int) -> Newest:
    total, fresh, kept, older = table
    letters = (*map(_parse_letter, fresh), *(known.letters if kept else ()))
    return Newest((*letters, *map(_parse_letter, older))[:most], total)


def _parse_letter(row: Sequence[bytes]) -> LetterSeen:
    letter_id, *facts = row
    return LetterSeen(letter_id.decode(), *facts)
