"""Reading a whole group from outside: its consumers, parked messages and dead letters."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from shared_sync.connection.connection import Connect, Connection
from shared_sync.connection.scripts import Command
from shared_sync.errors import RedisAccessDenied, RedisRefused, SharedSyncError
from shared_sync.protocol import group_json, group_report, group_tables
from shared_sync.protocol.dead_letter_rows import DeadLetterRow
from shared_sync.protocol.gone_consumers import GoneConsumers
from shared_sync.protocol.group_memory import GroupMemory
from shared_sync.protocol.group_report import GroupReport
from shared_sync.protocol.group_tables import GroupTables, Table
from shared_sync.protocol.keys import Keys

MOST_CONSUMERS: Final = 100
MOST_PARKED: Final = 50
MOST_LETTERS: Final = 50
"""Dead letters that are shown."""

MOST_COUNTED: Final = 1000
"""Dead letters whose causes are counted. Each reading asks Redis for some of them."""

MOST_COUNTED_BYTES: Final = 100_000_000
"""Size of the dead letters whose causes are counted: if they are large, fewer are counted."""

WATCH_SECONDS: Final = 10.0
"""Time between two readings of the consumers while the page is perhaps not open. A death is noticed
if the lease is at least twice as long."""

REPLY_TIMEOUT_SECONDS: Final = 2.0
"""For the connection of a `GroupView`: somebody waits for the page."""


Part = Callable[[Connection], Any]
"""Reads a further part of the page; raises what the connection raises."""


class GroupView:
    """The tables of a group. Safe from any thread; one thread reads at a time.

    Each reading opens a connection and closes it. Only while somebody watches the page are there
    any, so no connection stays open without need. Dead letters are kept from one reading to the
    next, because Redis can only find out what is in them by reading whole messages.
    """

    def __init__(
        self,
        connect: Connect,
        keys: Keys,
        *,
        parts: Mapping[str, Part] = MappingProxyType({}),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`parts` are read over the connection of the tables, and stand beside them by name."""
        # Fixed after construction.
        self._connect = connect
        self._keys = keys
        self._parts = parts
        self._clock = clock
        self._gone = GoneConsumers()
        self._memory = GroupMemory()
        # Set by any thread that adds it to a page.
        self.is_shown = False
        """Whether a page has these tables; otherwise `watch()` does nothing."""
        # Owned by the thread that watches.
        self._next_watch = clock()
        # Guarded by the lock, which is held while Redis is asked.
        self._lock = threading.Lock()
        self._known_letters: Table[DeadLetterRow] = Table()

    def read(self) -> dict[str, Any]:
        """Return the tables of the group as JSON; those of a group that does not exist are empty.

        A table that this user may not read, or that Redis refuses for another reason, is left out,
        and `reasons` says so. Blocks up to the time limits of the connection, and while another
        thread reads. Raises `RedisUnavailable`, and `RedisRefused` if nothing can be read.
        """
        self.is_shown = True
        connection = Connection(self._connect)
        try:
            with self._lock:
                tables, report = self._read_tables(connection)
                parts, reasons = self._read_parts(connection)
        finally:
            connection.close()
        self._note(tables, report)
        view = group_json.to_json(
            self._keys, tables, gone=self._gone.rows(), most_letters=MOST_LETTERS
        )
        reasons = [*view.get("reasons", ()), *reasons]
        parts["report"] = group_report.to_json(report, self._memory)
        return view | parts | ({"reasons": reasons} if reasons else {})

    def _read_tables(self, connection: Connection) -> tuple[GroupTables, _Report]:
        """Return the tables, and what the workers report, in one round trip."""
        known = self._known_letters
        most = MOST_COUNTED
        if sum(row.size for row in known.rows) >= MOST_COUNTED_BYTES:
            most = max(MOST_LETTERS, len(known.rows))
        command = group_tables.read(
            self._keys,
            most_consumers=MOST_CONSUMERS,
            most_parked=MOST_PARKED,
            most_letters=most,
            known=known,
        )
        reply, report = connection.call_with(command, self._report_command())
        if isinstance(report, SharedSyncError) and not isinstance(report, _REFUSALS):
            raise report
        tables = group_tables.parse(reply, most_letters=most, known=known)
        letters = tables.dead_letters
        self._known_letters = letters if isinstance(letters, Table) else Table()
        return tables, _parse_report(report)

    def _report_command(self, most_reports: int = group_report.MOST_WORKERS) -> Command:
        return group_report.read(
            self._keys, known_event=self._memory.newest_event, most_reports=most_reports
        )

    def _read_parts(self, connection: Connection) -> tuple[dict[str, Any], list[str]]:
        """Return the further parts of the page, and why some are not shown."""
        parts, reasons = {}, []
        for name, read_part in self._parts.items():
            try:
                parts[name] = read_part(connection)
            except _REFUSALS as error:
                reasons.append(group_json.why_not_shown(name, error))
        return parts, reasons

    def watch(self, connection: Connection) -> None:
        """Note who lives and what happened, if that is due, so that `read()` can return it.

        For a thread that uses Redis regularly, as the page is perhaps not open. Blocks and raises
        as the connection does. Without the right `+xinfo|consumers` it notes nothing.
        """
        now = self._clock()
        if not self.is_shown or now < self._next_watch:
            return
        self._next_watch = now + WATCH_SECONDS
        command = group_tables.read(
            self._keys, most_consumers=MOST_CONSUMERS, most_parked=1, most_letters=0, known=Table()
        )
        reply, report = connection.call_with(command, self._report_command(most_reports=0))
        tables = group_tables.parse(reply, most_letters=0, known=Table())
        self._note(tables, _parse_report(report))

    def _note(self, tables: GroupTables, report: _Report) -> None:
        if isinstance(tables.consumers, Table):
            self._gone.note(tables.consumers, tables.now_ms)
        if isinstance(report, GroupReport):
            events = () if isinstance(report.events, SharedSyncError) else report.events
            self._memory.note(
                report.now_ms, alive=report.alive, events=events, gone=self._gone.rows()
            )


_Report = GroupReport | SharedSyncError
"""What the workers report; the error if Redis has refused to say anything."""

_REFUSALS: Final = (RedisRefused, RedisAccessDenied)


def _parse_report(reply: Any) -> _Report:
    return reply if isinstance(reply, SharedSyncError) else group_report.parse(reply)
