"""Messages that another stream has forwarded, and that those who wait for them have cancelled.

Who waits knows the stream to which the job was published, and cancels it there. That leaves a mark
at that stream, which `reply_to` names.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from shared_sync.common.guarded import Logger
from shared_sync.common.log_once import LogOnce
from shared_sync.connection.scripts import Command
from shared_sync.errors import RedisAccessDenied, RedisRefused
from shared_sync.protocol.commands import GroupCommands
from shared_sync.protocol.job_options import options_of
from shared_sync.protocol.keys import cancelled_where_published
from shared_sync.protocol.messages import Entry
from shared_sync.protocol.replies import parse_marked

Call = Callable[[Command], Any]
"""Sends a command and returns its reply; raises what the connection raises."""

Mark = tuple[str, str]
"""A key with marks of forwarded jobs, and the id of a job there."""


class ForwardedMessages:
    """Says which forwarded messages are cancelled. Safe from any thread.

    Only such messages are asked about.
    """

    def __init__(self, commands: GroupCommands, logger: Logger) -> None:
        # Fixed after construction.
        self._commands = commands
        self._log_refusal = LogOnce(logger, logging.WARNING)
        # Written by any thread, each time as a whole.
        self.were_met = False
        """Whether there were any such messages, and their marks may be read."""
        self._may_ask = True

    def mark_of(self, entry: Entry) -> Mark | None:
        """Return where a message would be marked by the one who waits for it; None for most."""
        options = options_of(entry.items)
        if not (options.id and options.reply_to):
            return None
        key = cancelled_where_published(self._commands.keys.stream, options.reply_to)
        if not key:
            return None
        self.were_met = self._may_ask
        return key, options.id

    def cancelled(self, entries: Iterable[Entry], call: Call) -> frozenset[Mark]:
        """Ask which of these messages are cancelled. Raises what `call` raises for an outage."""
        if not self._may_ask:
            return frozenset()
        asked: defaultdict[str, list[str]] = defaultdict(list)
        for entry in entries:
            if mark := self.mark_of(entry):
                asked[mark[0]].append(mark[1])
        marked: set[Mark] = set()
        for key, ids in asked.items():
            try:
                found, _ = parse_marked(call(self._commands.marked(ids, key=key)))
            except (RedisRefused, RedisAccessDenied) as error:
                self._refused(key, error)
            else:
                marked.update((key, one) for one in found)
        return frozenset(marked)

    def _refused(self, key: str, error: RedisRefused | RedisAccessDenied) -> None:
        if isinstance(error, RedisAccessDenied):
            self._may_ask = self.were_met = False
        self._log_refusal(
            "it is unknown which messages were cancelled after another stream had forwarded them: "
            "%s; grant the worker's user +zscore on %s. This is logged once",
            error,
            key,
        )
