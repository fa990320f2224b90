"""Settles outcomes one by one after the connection broke: a result of one of them may be why."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from shared_sync.connection.connection import Connection
from shared_sync.errors import RedisRefused, RedisUnavailable, SharedSyncError
from shared_sync.protocol.commands import GroupCommands
from shared_sync.protocol.messages import Finish
from shared_sync.redis_consumer.settling.breaks import Breaks
from shared_sync.redis_consumer.settling.parcels import Parcel
from shared_sync.redis_consumer.slot import Activity


class OneByOne:
    """Settles each parcel in a round trip of its own. For one thread.

    Redis closes the connection at a result that is too large for it, and the others must not wait
    for that one.
    """

    def __init__(
        self,
        connection: Connection,
        commands: GroupCommands,
        activity: Activity,
        *,
        open_connection: Callable[[], None],
        settle: Callable[[Parcel], SharedSyncError | None],
        give_up: Callable[[Finish, str], object],
    ) -> None:
        """`settle` sends a parcel and returns why it was refused, `open_connection` connects.

        `give_up` is called with a result that Redis will never take, and why.
        """
        # Fixed after construction.
        self._connection = connection
        self._commands = commands
        self._activity = activity
        self._open = open_connection
        self._settle = settle
        self._give_up = give_up
        # Owned by the using thread.
        self._breaks = Breaks()

    def settle(self, parcels: Sequence[Parcel]) -> tuple[SharedSyncError | None, bool]:
        """Return the last error, if any, and whether the connection broke at a parcel.

        Raises what the connection raises if Redis is away.
        """
        failure: SharedSyncError | None = None
        broke = False
        for parcel in parcels:
            self._open()
            began = time.monotonic()
            try:
                failure = self._settle(parcel) or failure
            except RedisUnavailable as error:
                self._check_availability(time.monotonic() - began)
                why = self._breaks.count(parcel.result, error)
                if why and parcel.result is not None:
                    self._give_up(parcel.result, why)
                failure, broke = error, True
        if failure is None:
            self._breaks.clear()
        return failure, broke

    def _check_availability(self, broke_after_seconds: float) -> None:
        """Raise what the connection raises, unless Redis answers and the next connection lasts.

        Blocks for `Breaks.check_seconds()`, a second at most, also while the consumer drains: a
        break that was not checked would not count, and the drain would not get past the result.
        """
        self._activity.receives = True
        try:
            self._open()
            time.sleep(self._breaks.check_seconds(broke_after_seconds))
            with suppress(RedisRefused):
                self._connection.call(*self._commands.pending())
        except RedisUnavailable:
            self._breaks.clear()
            raise
        finally:
            self._activity.receives = False
