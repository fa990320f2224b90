"""Cancelled messages: reading their marks, and notifying those that run."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

from shared_sync.common.guarded import Logger
from shared_sync.common.log_once import LogOnce
from shared_sync.connection.scripts import Command
from shared_sync.errors import RedisAccessDenied, RedisRefused, SharedSyncError
from shared_sync.protocol.commands import MOST_MARKS, GroupCommands
from shared_sync.protocol.job_options import options_of
from shared_sync.protocol.messages import Entry
from shared_sync.protocol.replies import parse_marked
from shared_sync.redis_consumer.in_flight import InFlight
from shared_sync.redis_consumer.jobs.forwarded import Call, ForwardedMessages, Mark
from shared_sync.redis_consumer.slot import Attempt, Slot

FIRST_READS: Final = 10
"""In so many reads a reader looks for forwarded messages; later only once some were met."""

FRESH_SECONDS: Final = 0.02
"""How long a reader starts messages of its slot before it reads the marks again."""

GAP_SECONDS: Final = 0.005
"""A blocking read that starts so soon after the stream was found empty does not read the marks: a
message that arrives goes to the reader at once, before anybody could cancel it."""


def ids_of(entry: Entry) -> tuple[str, ...]:
    """Return the ids by which a message may be cancelled: that of its entry, or another as well."""
    other = options_of(entry.items).id
    return (entry.id, other) if other else (entry.id,)


class Cancellations:
    """What the threads of a subscription share about cancelled messages. Safe from any thread."""

    def __init__(self, commands: GroupCommands, logger: Logger) -> None:
        # Fixed after construction.
        self.commands = commands
        self.forwarded = ForwardedMessages(commands, logger)
        self._log_refusal = LogOnce(logger, logging.WARNING)
        # Written by any thread, each time as a whole.
        self.is_on = True
        """Whether this user may read the marks, as far as is known."""
        self.exist = False
        """Whether there were marks at the last heartbeat."""

    def refused(self, error: SharedSyncError) -> None:
        """Note that the marks could not be read. If a right is missing, they are not read again."""
        if isinstance(error, RedisAccessDenied):
            self.is_on = self.exist = False
        self._log_refusal(
            "cancelled messages cannot be recognized and are processed: %s; "
            "grant the worker's user +zrange and +zscore on the key. This is logged once",
            error,
        )


class KnownMarks:
    """The marks that a thread knows; without a reader there are none."""

    def __init__(self) -> None:
        # Owned by its thread; read for each message that starts.
        self.ids: Collection[str] = ()
        """Marked ids, with those of all cancelled messages in the slot; nearly always empty."""

    def has(self, entry: Entry) -> bool:
        """Return whether a message is cancelled, as far as is known."""
        return bool(self.ids) and any(one in self.ids for one in ids_of(entry))


class Marks(KnownMarks):
    """The marks that one reader has read last. For its thread.

    They are read together with messages, and by recovery, which costs no additional round trip.
    Another round trip is needed only if there are very many marks, or if messages wait in the slot
    for longer than FRESH_SECONDS.
    """

    def __init__(
        self, shared: Cancellations, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        # Fixed after construction.
        self._shared = shared
        self._clock = clock
        self._command = shared.commands.marks()
        # Owned by the reader's thread.
        self._forwarded: frozenset[Mark] = frozenset()
        """The marks of messages that other streams have forwarded."""
        self._first_reads = FIRST_READS
        self.stale_at = -math.inf
        """When the marks must be read again before a message of the slot starts, on the clock."""
        self._empty_at = -math.inf
        """When the stream was last found empty."""

    @property
    def is_on(self) -> bool:
        """Whether this user may read which messages are cancelled."""
        return self._shared.is_on

    @property
    def look_at_each(self) -> bool:
        """Whether the marks of each waiting message are read, because some were forwarded."""
        return self._shared.forwarded.were_met or self._first_reads > 0

    def has(self, entry: Entry) -> bool:
        if super().has(entry):
            return True
        mark = self._shared.forwarded.mark_of(entry)
        return mark is not None and mark in self._forwarded

    # --- reading marks together with messages ---

    def to_send(self, *, waits: bool) -> Command | None:
        """Return the command to send behind a read; None if none is needed.

        `waits` says that the read blocks for a message. An idle reader then sends nothing.
        """
        shared = self._shared
        if not shared.is_on:
            return None
        if (
            waits
            and not (shared.exist or self.ids)
            and self._clock() - self._empty_at < GAP_SECONDS
        ):
            return None
        return self._command

    def has_read(self, reply: Any, waiting: Sequence[Entry], call: Call, *, brought: bool) -> None:
        """Take the reply to the command behind a read; None if no command was sent.

        `waiting` are the messages in the slot. `brought` says whether the read brought messages.
        """
        now = self._clock()
        if brought and reply == [] and not self.look_at_each:  # as nearly always
            self.ids, self.stale_at = (), now + FRESH_SECONDS
            return
        self.forget()  # until all is known
        if not brought:
            self._empty_at = now
        if isinstance(reply, SharedSyncError):
            self._shared.refused(reply)
            reply = ()
        self._note(reply or (), waiting, call)
        if self.look_at_each:
            self._first_reads = max(0, self._first_reads - brought)
            self._forwarded = self._shared.forwarded.cancelled(waiting, call)
        if not self._shared.is_on:
            self.stale_at = math.inf
        elif brought or reply is not None:
            self.stale_at = now + FRESH_SECONDS

    def forget(self) -> None:
        """Read the marks again before the next message of the slot starts."""
        self.stale_at = -math.inf

    def refresh(self, waiting: Iterable[Entry], call: Call) -> None:
        """Read the marks again, before waiting messages are started."""
        shared = self._shared
        if not shared.is_on:
            self.stale_at = math.inf
            return
        entries = tuple(waiting)
        try:
            reply = call(self._command)
        except (RedisRefused, RedisAccessDenied) as error:
            reply = error
        self.has_read(reply, entries, call, brought=True)

    def _note(self, reply: Sequence[bytes], entries: Sequence[Entry], call: Call) -> None:
        if not reply:
            self.ids = ()
            return
        ids = {one.decode(errors="backslashreplace") for one in reply}
        if len(reply) >= MOST_MARKS and entries:  # there may be more
            asked = [one for entry in entries for one in ids_of(entry)]
            ids.update(parse_marked(call(self._shared.commands.marked(asked)))[0])
        self.ids = ids


class CancelWatch:
    """Notifies running messages that are cancelled, and removes old marks. For one thread."""

    def __init__(self, shared: Cancellations, in_flight: InFlight) -> None:
        # Fixed after construction.
        self._shared = shared
        self._in_flight = in_flight
        # Owned by the heartbeat thread.
        self._tidy_from = 0

    def check(self, marks: int, call: Call) -> None:
        """Check the running messages, if there are `marks`. Raises errors of `call`."""
        shared = self._shared
        shared.exist = marks > 0 and shared.is_on
        if shared.forwarded.were_met:
            self._check_forwarded(call)
        if not shared.exist:
            return
        running = [(*one, ids_of(one[-1])) for one in self._running()]
        asked = [one for *_, ids in running for one in ids]
        try:
            reply = call(shared.commands.marked(asked, tidy_from=self._tidy_from))
        except (RedisRefused, RedisAccessDenied) as error:
            shared.refused(error)
            return
        marked, self._tidy_from = parse_marked(reply)
        for slot, attempt, entry, ids in running:
            if not set(marked).isdisjoint(ids) and slot.attempt is attempt:
                slot.cancel(attempt, entry)

    def _check_forwarded(self, call: Call) -> None:
        forwarded = self._shared.forwarded
        running = self._running()
        marked = forwarded.cancelled([entry for *_, entry in running], call)
        for slot, attempt, entry in running:
            if marked and forwarded.mark_of(entry) in marked and slot.attempt is attempt:
                slot.cancel(attempt, entry)

    def _running(self) -> list[tuple[Slot, Attempt, Entry]]:
        source = self._shared.commands.keys
        return [
            (slot, attempt, entry)
            for slot in self._in_flight.slots
            if slot.source == source and (attempt := slot.attempt) is not None
            for entry in attempt.entries
        ]
