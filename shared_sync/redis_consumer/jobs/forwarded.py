"""Cancelled messages that were forwarded from another stream.

The caller knows the stream to which it has published the job, and cancels the job there. The mark
is at that stream, whose name is a part of `reply_to`.
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
"""Sends a command and returns its reply. Raises errors of the connection."""

Mark = tuple[str, str]
"""A key with marks of forwarded jobs, and the id of a job."""


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
        """Return the mark that the caller would set; None for a message that was not forwarded."""
        options = options_of(entry.items)
        if not (options.id and options.reply_to):
            return None
        key = cancelled_where_published(self._commands.keys.stream, options.reply_to)
        if not key:
            return None
        self.were_met = self._may_ask
        return key, options.id

    def cancelled(self, entries: Iterable[Entry], call: Call) -> frozenset[Mark]:
        """Return the marks that exist for these messages. Raises errors of an outage."""
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
            "forwarded messages that were cancelled cannot be recognized and are processed: %s; "
            "grant the worker's user +zscore on %s. This is logged once",
            error,
            key,
        )
