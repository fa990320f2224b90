"""Sending batches: repeating them if that is safe, and waiting for room."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from shared_sync.common import backoff
from shared_sync.connection import remedies
from shared_sync.connection.driver_errors import NotRun
from shared_sync.connection.pool import ConnectionPool
from shared_sync.connection.scripts import Command
from shared_sync.errors import QueueFull, RedisAccessDenied, RedisUnavailable, SharedSyncError
from shared_sync.protocol import publishing, slowest_group
from shared_sync.protocol.keys import StreamKeys
from shared_sync.protocol.slowest_group import SlowestGroup
from shared_sync.redis_producer.batches import Batch

SHORTEST_PAUSE_SECONDS: Final = 0.02
LONGEST_PAUSE_SECONDS: Final = 0.25
"""Limits of the random pause between two tries, which keeps processes from trying at once."""

FRESH_SECONDS: Final = 1.0
"""How long the slowest group is remembered. Finding it takes a round trip, and a full stream may
refuse a gateway many times a second."""

_UNKNOWN: Final = SlowestGroup("", None, None)


class Sender:
    """Sends the batches of a producer. Safe from any thread."""

    def __init__(
        self,
        connections: ConnectionPool,
        keys: StreamKeys,
        *,
        max_queue_depth: int | None,
        timeout_seconds: float,
    ) -> None:
        # Fixed after construction.
        self._connections = connections
        self._keys = keys
        self._max_queue_depth = max_queue_depth
        self._timeout_seconds = timeout_seconds
        # Replaced as a whole by any thread.
        self._slowest: tuple[float, SlowestGroup | None] = (-math.inf, None)
        """When the slowest group was found, and which it was."""

    def send(
        self,
        batch: Batch,
        published: list[str],
        *,
        wait_until: float,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        """Publish all messages of a batch, and add their ids to `published`.

        Calls `meanwhile` once, while the server works on the first try. Waits for room until
        `wait_until` on the monotonic clock. Raises as `publish_many()` does.
        """
        tries = 0
        while batch.messages:
            command = batch.command(self._keys, self._max_queue_depth)
            ids, refusal = self._exchange(command, batch.remembered_seconds(), meanwhile)
            published += ids
            if refusal is not None:
                raise remedies.explain(refusal, command)
            if len(ids) == len(batch.messages):
                return
            # The stream is full.
            tries = 1 if ids else tries + 1
            batch, meanwhile = batch.behind(len(ids)), lambda: None
            left = wait_until - time.monotonic()
            if left <= 0:
                raise self._queue_full()
            time.sleep(min(_pause(tries), left))

    def _queue_full(self) -> QueueFull:
        """Return the error for a full stream, which names the group that keeps it full."""
        assert self._max_queue_depth is not None  # noqa: S101 - else all were accepted
        now = time.monotonic()
        found_at, slowest = self._slowest
        if now - found_at > FRESH_SECONDS:
            try:
                with self._connections.connection() as connection:
                    slowest = slowest_group.find(connection, self._keys.stream)
            except SharedSyncError:
                slowest = _UNKNOWN
            self._slowest = (now, slowest)
        if slowest is None:
            return QueueFull(self._keys.stream, self._max_queue_depth, group="")
        return QueueFull(
            self._keys.stream,
            self._max_queue_depth,
            group=slowest.name or None,
            entries=slowest.entries,
            oldest_seconds=slowest.oldest_seconds,
        )

    def _exchange(
        self, command: Command, remembered_seconds: float, meanwhile: Callable[[], object]
    ) -> tuple[list[str], SharedSyncError | None]:
        """Send a command that publishes, and return the ids and the refusal, if any.

        If all messages have a `deduplicate_key`, the command is repeated after a lost reply: at
        least once, and until the producer's timeout has passed since the first try.
        """
        began, tries = time.monotonic(), 0
        while True:
            try:
                return self._exchange_once(command, meanwhile)
            except RedisAccessDenied:
                raise
            except RedisUnavailable:
                tries, pause = tries + 1, _pause(tries + 1)
                again_after = time.monotonic() - began + pause
                if again_after >= remembered_seconds or (
                    tries > 1 and again_after >= self._timeout_seconds
                ):
                    raise
            time.sleep(pause)

    def _exchange_once(
        self, command: Command, meanwhile: Callable[[], object]
    ) -> tuple[list[str], SharedSyncError | None]:
        # Lent for one round trip only, because the iteration over the messages may publish as well.
        with self._connections.connection() as connection:
            connection.send([command])
            meanwhile()
            try:
                reply = connection.receive()
            except NotRun:
                reply = connection.call(*command)  # nothing was published
        return publishing.parse_published(reply)


def _pause(tries: int) -> float:
    """Return the seconds to wait after this many failed tries."""
    return backoff.exponential(
        tries,
        base_seconds=SHORTEST_PAUSE_SECONDS,
        max_seconds=LONGEST_PAUSE_SECONDS,
        jitter=0.5,
    )
