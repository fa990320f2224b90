"""Deletes, step by step, entries that only removed groups needed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from shared_sync.common.guarded import Logger
from shared_sync.connection import driver_errors
from shared_sync.connection.connection import Connection
from shared_sync.errors import RedisAccessDenied
from shared_sync.protocol.commands import GroupCommands

SWEEP_SECONDS: Final = 10.0
"""Time between two steps while there is nothing to delete."""


class Sweep:
    """Sweeps one stream. For one thread."""

    def __init__(
        self,
        commands: GroupCommands,
        logger: Logger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Fixed after construction.
        self._commands = commands
        self._logger = logger
        self._clock = clock
        # Owned by the thread.
        self._next_step = clock()
        self._was_empty = False
        self._is_denied = False

    def check(self, connection: Connection, *, is_empty: bool) -> None:
        """Make a step if one is due. Blocks and raises as the connection does.

        `is_empty` is whether the stream has no entry, which is noted the first time: from then on
        the group has read all that there is.
        """
        now = self._clock()
        is_due = now >= self._next_step or (is_empty and not self._was_empty)
        if self._is_denied or not is_due:
            return
        deleted, refused = connection.call(*self._commands.sweep())
        self._was_empty = self._was_empty or is_empty
        self._next_step = now + (0.0 if deleted else SWEEP_SECONDS)
        if deleted:
            self._logger.info(
                "%d entries of stream %s are deleted that every group has finished; the group that "
                "kept them is gone",
                deleted,
                self._commands.keys.stream,
            )
        refusal = driver_errors.refusal(refused)
        if isinstance(refusal, RedisAccessDenied):
            self._is_denied = True
            self._logger.warning(
                "this Redis user lacks +xtrim, so entries that only a removed group needed stay in "
                "the stream; this is logged once"
            )
