"""The tables of a group that a page shows: consumers, parked messages and dead letters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from shared_sync.connection import driver_errors, scripts
from shared_sync.connection.scripts import Command
from shared_sync.errors import SharedSyncError
from shared_sync.protocol import dead_letter_rows
from shared_sync.protocol.dead_letter_rows import DeadLetterRow
from shared_sync.protocol.keys import NO_ID, Keys

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ConsumerRow:
    """A consumer that has read messages or has sent a heartbeat."""

    name: bytes
    lease_end_ms: int | None
    """None for one without a lease."""

    pending: int
    idle_ms: int | None
    """None for one that has read nothing yet."""

    identity: bytes
    """The process that has claimed the name, as it stands in Redis; empty if there is none."""


@dataclass(frozen=True, slots=True)
class ParkedRow:
    """A message that waits for its next attempt."""

    id: str
    due_ms: int
    failures: int | None
    """None if its history was not read, because those before it were too long."""

    crashes: int | None
    """None if the failures are not known."""

    last_failure: bytes
    """A line of JSON, or nothing."""


@dataclass(frozen=True, slots=True)
class Table(Generic[T]):
    """The first rows of a table, and how many there are in all."""

    rows: Sequence[T] = ()
    total: int = 0


@dataclass(frozen=True, slots=True)
class GroupTables:
    """The tables of a group. Where one was refused, the error stands in its place."""

    now_ms: int
    """The time of the server."""

    consumers: Table[ConsumerRow] | SharedSyncError
    parked: Table[ParkedRow] | SharedSyncError
    dead_letters: Table[DeadLetterRow] | SharedSyncError
    """The newest first, without a gap between them."""


def read(
    keys: Keys,
    *,
    most_consumers: int,
    most_parked: int,
    most_letters: int,
    known: Table[DeadLetterRow],
) -> Command:
    """Read the tables of a group in one round trip; the reply is for `parse()`.

    `known` are the dead letters of the last reading, which the server need not read again.
    """
    ends = (known.rows[0].id, known.rows[-1].id) if known.rows else (NO_ID, NO_ID)
    return scripts.call(
        "view",
        [keys.stream, keys.presence, keys.holders, keys.due, keys.history, keys.dead],
        keys.group,
        most_consumers,
        most_parked,
        most_letters,
        len(known.rows),
        *ends,
        known.total,
    )


def parse(reply: Any, *, most_letters: int, known: Table[DeadLetterRow]) -> GroupTables:
    """Return the tables; `most_letters` and `known` as they were given to `read()`."""
    now_ms, consumers, parked, dead_letters = reply
    return GroupTables(
        now_ms,
        _refusal(consumers) or _parse_table(consumers, _parse_consumer),
        _refusal(parked) or _parse_table(parked, _parse_parked),
        _refusal(dead_letters) or _parse_dead_letters(dead_letters, known, most_letters),
    )


def _refusal(table: Any) -> SharedSyncError | None:
    return driver_errors.refusal(table) if isinstance(table, bytes) else None


def _parse_table(table: Any, parse_row: Callable[..., T]) -> Table[T]:
    total, *rows = table
    return Table([parse_row(*row) for row in rows], total)


def _parse_consumer(
    name: bytes, lease_end_ms: int, pending: int, idle_ms: int, identity: bytes
) -> ConsumerRow:
    return ConsumerRow(
        name,
        None if lease_end_ms < 0 else lease_end_ms,
        pending,
        None if idle_ms < 0 else idle_ms,
        identity,
    )


def _parse_parked(
    message_id: bytes, due_ms: bytes, failures: int, last_failure: bytes, deliveries: int
) -> ParkedRow:
    is_known = failures >= 0
    return ParkedRow(
        message_id.decode(),
        int(float(due_ms)),
        failures if is_known else None,
        max(0, deliveries - failures) if is_known else None,
        last_failure,
    )


def _parse_dead_letters(table: Any, known: Table[DeadLetterRow], most: int) -> Table[DeadLetterRow]:
    total, newer, is_known_still_right, older = table
    rows = [dead_letter_rows.parse(row) for row in newer]
    rows += known.rows if is_known_still_right else ()
    rows += [dead_letter_rows.parse(row) for row in older]
    return Table(rows[:most], total)
