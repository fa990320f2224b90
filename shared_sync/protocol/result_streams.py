"""Reading streams of results: each entry once and in order, although connections break.

No consumer group is needed, because one thread reads all entries of the stream. It remembers the
ids of the entries that it has delivered. Over a new connection it reads the last entries again and
skips the delivered ones: the new connection may lead to a replica that took over without the last
entries of the old master, and whose clock is behind.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from shared_sync.connection import scripts
from shared_sync.connection.connection import Connection
from shared_sync.connection.scripts import Command
from shared_sync.errors import RedisAccessDenied, RedisRefused
from shared_sync.protocol.keys import NO_ID, id_is_after, id_milliseconds
from shared_sync.protocol.messages import Entry, parse_read

MOST_REMEMBERED: Final = 10_000
"""How many delivered entries are remembered."""

MARGIN_MS: Final = 10_000
"""How far back reading starts over a new connection."""

RENEWALS: Final = 3
"""How often a reply stream is renewed within its time to live."""

CONFIRMED_SECONDS: Final = 1.0
"""How long after a check a reply stream is assumed to exist."""

Report = Callable[..., None]
"""Logs a line: a format and its arguments."""


class ResultSource(Protocol):
    """A stream of results. One thread at a time calls the methods, with its connection."""

    key: str

    def open(self, connection: Connection) -> None:
        """Connect, and find where to start reading, or create the stream."""

    def read(self, connection: Connection, most: int, block_ms: int) -> list[Entry]:
        """Return the next entries that were not delivered yet, up to `most`.

        Blocks up to `block_ms` for the first one, unless the connection is interrupted.
        """

    def delivered(self, entry_id: str) -> None:
        """Note that an entry was delivered, so that it is not read again."""

    def keep(self, connection: Connection) -> None:
        """Do the regular work of `read()` without reading, such as renewing the stream."""

    def leave(self, connection: Connection) -> None:
        """Clean up after the last read."""


class Remembered:
    """The last `most` texts that were added."""

    def __init__(self, most: int = MOST_REMEMBERED) -> None:
        self._most = most
        self._texts: dict[str, None] = {}  # in their order

    def __contains__(self, text: object) -> bool:
        return text in self._texts

    def add(self, text: str) -> str | None:
        """Add a text; if there are too many, remove the oldest and return it."""
        self._texts[text] = None
        if len(self._texts) <= self._most:
            return None
        oldest = next(iter(self._texts))
        del self._texts[oldest]
        return oldest

    def clear(self) -> None:
        """Forget all texts."""
        self._texts.clear()


class SharedStream:
    """A stream that others may read, too, so nothing in it is changed."""

    def __init__(self, key: str, *, after: str | None, report: Report) -> None:
        """Read the entries behind the id `after`; None for entries that are added from now on."""
        # Fixed after construction.
        self.key = key
        self._report = report
        # Owned by the reading thread.
        self._position = after
        self._floor = after or NO_ID
        """No entry up to this id is delivered: it is too old, or was delivered and forgotten."""
        self._delivered = Remembered()
        self._connects = 0
        self._may_ask = True
        """Whether this user has the right to ask for the last id of the stream."""

    def open(self, connection: Connection) -> None:
        connection.open()
        if self._position is None:
            self._position = self._floor = self._newest(connection) or NO_ID
        elif self._connects:
            self._position = self._place(connection, self._position)
        self._connects = connection.connects

    def read(self, connection: Connection, most: int, block_ms: int) -> list[Entry]:
        if not connection.is_open or connection.connects != self._connects:
            self.open(connection)
        connection.send([_read(self.key, self._position or NO_ID, most, block_ms)])
        entries = parse_read(connection.receive_blocked())
        unknown = [entry for entry in entries if entry.id not in self._delivered]
        if entries and not unknown:
            self._position = entries[-1].id
        return unknown

    def delivered(self, entry_id: str) -> None:
        self._position = entry_id
        forgotten = self._delivered.add(entry_id)
        if forgotten is not None and id_is_after(forgotten, self._floor):
            self._floor = forgotten

    def keep(self, connection: Connection) -> None:
        pass

    def leave(self, connection: Connection) -> None:
        pass

    def _place(self, connection: Connection, position: str) -> str:
        """Return the id behind which to read over a new connection."""
        last = self._last_id(connection)
        if last is None:
            if position != NO_ID:
                self._report(
                    "the stream %r of results is gone, perhaps because Redis has lost its data; "
                    "listening continues with the first result of a new stream",
                    self.key,
                )
            self._begin_anew()
        elif id_is_after(position, last):
            self._report(
                "the stream %r ends at %s, before the last result that was received (%s), so Redis "
                "has lost data; listening continues with new results, and some earlier ones may be "
                "received again",
                self.key,
                last,
                position,
            )
            if id_is_after(self._floor, last):
                self._begin_anew()
        else:
            earlier = f"{max(0, id_milliseconds(position) - MARGIN_MS)}-0"
            return earlier if id_is_after(earlier, self._floor) else self._floor
        return self._floor

    def _begin_anew(self) -> None:
        self._delivered.clear()
        self._floor = NO_ID

    def _last_id(self, connection: Connection) -> str | None:
        """Return the id of the entry that was added last; None if there is no stream."""
        if self._may_ask:
            try:
                facts = connection.call("XINFO", "STREAM", self.key)
                last: bytes = dict(zip(facts[::2], facts[1::2], strict=True))[b"last-generated-id"]
                return last.decode()
            except RedisAccessDenied:
                self._may_ask = False
            except RedisRefused as refused:
                if "no such key" in str(refused):
                    return None
                raise
        # If the last entry was removed, the position is ahead of the newest without a loss.
        newest = self._newest(connection)
        return newest if newest else self._position

    def _newest(self, connection: Connection) -> str:
        """Return the id of the newest entry in the stream; empty if it has no entries."""
        entries = connection.call("XREVRANGE", self.key, "+", "-", "COUNT", 1)
        return entries[0][0].decode() if entries else ""


class ExclusiveStream:
    """A stream that nobody else reads: each read also removes what was delivered before.

    It is always read from its beginning, so no entry is missed, whatever its id is.
    """

    def __init__(
        self,
        key: str,
        *,
        ttl_ms: int | None,
        report: Report,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ttl_ms` is the time to live of a reply stream, which its reader creates and deletes.

        None for a stream that others create and that does not expire.
        """
        # Fixed after construction.
        self.key = key
        self._ttl_ms = ttl_ms
        self._report = report
        self._clock = clock
        # Owned by the reading thread.
        self._delivered = Remembered()
        self._to_remove: list[str] = []
        self._connects = 0
        # Whether the upkeep that was sent last renews, and how many entries it removes.
        self._renews = False
        self._removes = 0
        # Written by the reading thread, and by any thread in `confirm()`; an old value is safe.
        self._was_made = False
        self._is_another = False
        """Whether the stream was created again, so that earlier ids may be used again."""
        self._renew_at = 0.0
        self._confirmed_at = -math.inf

    @property
    def is_confirmed(self) -> bool:
        """Whether the stream existed within the last CONFIRMED_SECONDS."""
        return self._clock() - self._confirmed_at < CONFIRMED_SECONDS

    def confirm(self, call: Callable[..., Any]) -> None:
        """Create the reply stream if it does not exist. Any thread may call it.

        `call` sends a command over a connection of the calling thread, and returns the reply.
        """
        if self._ttl_ms is not None:
            self._renewed(call(*self._renewal()))

    def open(self, connection: Connection) -> None:
        connection.open()
        self.confirm(connection.call)
        self._connects = connection.connects

    def read(self, connection: Connection, most: int, block_ms: int) -> list[Entry]:
        self.reopen(connection)
        self.send(connection, [], most, block_ms)
        return self.receive(connection)

    def reopen(self, connection: Connection) -> None:
        """Open the connection, or confirm the stream if the connection was opened since then."""
        if not connection.is_open or connection.connects != self._connects:
            self.open(connection)

    def send(
        self, connection: Connection, before: Sequence[Command], most: int, block_ms: int
    ) -> None:
        """Send the commands `before`, and a read. The caller receives the replies to the former."""
        upkeep = self._upkeep()
        connection.send([*before, *upkeep, _read(self.key, NO_ID, most, block_ms)])

    def receive(self, connection: Connection) -> list[Entry]:
        """Return the entries of the read that was sent, as `read()` does."""
        self._receive_upkeep(connection)
        entries = parse_read(connection.receive_blocked())
        self._forget_former()
        if entries:
            self._confirmed_at = self._clock()
        unknown = [entry for entry in entries if entry.id not in self._delivered]
        if len(unknown) < len(entries):  # otherwise every read would return them
            self._to_remove += [entry.id for entry in entries if entry.id in self._delivered]
        return unknown

    def delivered(self, entry_id: str) -> None:
        self._to_remove.append(entry_id)
        self._delivered.add(entry_id)

    def keep(self, connection: Connection) -> None:
        self.reopen(connection)
        upkeep = self._upkeep()
        if upkeep:
            connection.send(upkeep)
            self._receive_upkeep(connection)

    def leave(self, connection: Connection) -> None:
        if self._ttl_ms is not None and self._was_made:
            connection.call("DEL", self.key)
        elif self._to_remove:
            connection.call("XDEL", self.key, *self._to_remove)

    def _upkeep(self) -> list[Command]:
        """Return the commands that are due; `_receive_upkeep()` receives their replies."""
        self._forget_former()
        commands: list[Command] = []
        self._renews = self._ttl_ms is not None and self._clock() >= self._renew_at
        if self._renews:
            commands.append(self._renewal())
        self._removes = len(self._to_remove)
        if self._removes:
            commands.append(("XDEL", self.key, *self._to_remove))
        return commands

    def _receive_upkeep(self, connection: Connection) -> None:
        if self._renews:
            self._renewed(connection.receive())
        if self._removes:
            connection.receive()
            del self._to_remove[: self._removes]

    def _forget_former(self) -> None:
        if self._is_another:
            self._is_another = False
            self._delivered.clear()
            self._to_remove.clear()

    def _renewal(self) -> Command:
        return scripts.call("open_replies", [self.key], self._ttl_ms)

    def _renewed(self, made: Any) -> None:
        if made and self._was_made:
            self._is_another = True
            self._report(
                "the reply stream %r was gone and is created again; results of that time are lost. "
                "Either Redis has lost its data, or for longer than reply_ttl_seconds Redis was "
                "away, this process stood still, or a handler ran",
                self.key,
            )
        self._was_made = True
        self._confirmed_at = now = self._clock()
        self._renew_at = now + (self._ttl_ms or 0) / 1000 / RENEWALS


def _read(key: str, after: str, most: int, block_ms: int) -> Command:
    return ("XREAD", "COUNT", most, "BLOCK", block_ms, "STREAMS", key, after)
