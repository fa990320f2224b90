"""Scheduled jobs: publishing those whose time has come, and listing them."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from shared_sync.common import backoff
from shared_sync.common.guarded import Logger
from shared_sync.connection import driver_errors, scripts
from shared_sync.connection.connection import Connection
from shared_sync.errors import RedisAccessDenied, RedisRefused, SharedSyncError
from shared_sync.protocol.keys import Keys, StreamKeys
from shared_sync.protocol.replies import text_of

STEP: Final = 100
"""The most jobs that are published or listed in one round trip."""

MOST_STEPS: Final = 10
"""Steps that follow each other before the heartbeat thread does its other work."""

SHORTEST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 1.0
"""Of the pauses between two looks at jobs that are due. All consumers of a stream look, and one of
them publishes; those that come too late look more rarely."""

_KEEP_MS: Final = 3_600_000
"""How long the entry of a job that was published can be found by the job's id."""


class ScheduledJobs:
    """Publishes the scheduled jobs of a stream at their time. For the heartbeat thread."""

    def __init__(
        self,
        keys: Keys,
        logger: Logger,
        clock: Callable[[], float] = time.monotonic,
        chance: backoff.Chance = random.random,
    ) -> None:
        # Fixed after construction.
        self._keys = keys
        self._published = StreamKeys.of(keys.stream).published
        self._logger = logger
        self._clock = clock
        self._chance = chance
        # Owned by the thread.
        self._next_look = math.inf
        self._in_vain = 0
        """How often in a row others have published what was due."""
        self._refusal = ""
        """What was refused last, so that it is logged once."""

    @property
    def interval_seconds(self) -> float:
        """How long until the next look; infinite if nothing is scheduled."""
        return max(0.0, self._next_look - self._clock())

    def check(self, connection: Connection, next_ms: int | None) -> None:
        """Publish what is due. Blocks as the connection does; raises `RedisUnavailable`.

        `next_ms` is how long after the heartbeat just before a job is to be published. A job is
        published up to a second after its time, and later if the server refuses it.
        """
        if next_ms is None:
            self._next_look = math.inf
            return
        if next_ms == 0:
            next_ms = self._publish_due(connection)
        elif next_ms >= 1000 * LONGEST_PAUSE_SECONDS:
            self._in_vain = 0
        wait = math.inf if next_ms is None else next_ms / 1000 + self._extra_seconds()
        self._next_look = self._clock() + max(wait, SHORTEST_PAUSE_SECONDS)

    def _extra_seconds(self) -> float:
        """How much later than at the time of a job to look, because others have been faster."""
        if not self._in_vain:
            return 0.0
        return backoff.exponential(
            self._in_vain,
            base_seconds=SHORTEST_PAUSE_SECONDS,
            max_seconds=LONGEST_PAUSE_SECONDS,
            jitter=1.0,
            chance=self._chance,
        )

    def _publish_due(self, connection: Connection) -> int | None:
        """Publish what is due, and return how many ms later the next job is, or None for none."""
        next_ms, count = 0, 0
        for _ in range(MOST_STEPS):
            try:
                published, next_ms, refusal, lost = self._step(connection)
            except (RedisRefused, RedisAccessDenied) as error:
                published, refusal, lost = 0, error, ()
            self._report(refusal, lost)
            count += published
            if refusal or not published or next_ms != 0:
                break
        self._in_vain = 0 if count else self._in_vain + 1
        return None if next_ms < 0 else next_ms

    def _step(
        self, connection: Connection
    ) -> tuple[int, int, SharedSyncError | None, Sequence[bytes]]:
        """Publish a step of what is due.

        Return how many jobs it has published, how many ms later the next one is due or -1 for none,
        what the server has refused, and which jobs have no message.
        """
        keys = self._keys
        first = connection.call("ZRANGE", keys.scheduled, 0, STEP - 1)
        ids = [text_of(one) for one in first]
        names = (keys.stream, keys.scheduled, keys.scheduled_messages, keys.cancelled)
        command = scripts.call("publish_due", [*names, *map(self._published, ids)], _KEEP_MS, *ids)
        count, next_ms, refused, lost = connection.call(*command)
        return count, next_ms, driver_errors.refusal(refused), lost

    def _report(self, refusal: SharedSyncError | None, lost: Sequence[bytes]) -> None:
        for job_id in lost:
            self._logger.error(
                "%s of stream %s is not published: its message in %s is gone or cannot be read. "
                "Something else has changed that key",
                text_of(job_id),
                self._keys.stream,
                self._keys.scheduled_messages,
            )
        text = "" if refusal is None else str(refusal)
        if text and text != self._refusal:
            self._logger.error(
                "scheduled jobs of stream %s are not published, because Redis refuses that: %s. "
                "They stay scheduled and are tried again; this is logged once",
                self._keys.stream,
                text,
            )
        self._refusal = text


def count(connection: Connection, keys: StreamKeys | Keys) -> int:
    """Return how many jobs are scheduled. One round trip; raises what the connection raises."""
    number: int = connection.call("ZCARD", keys.scheduled)
    return number


def read_page(
    connection: Connection, keys: StreamKeys, start_ms: int, skip: int
) -> list[tuple[str, int]]:
    """Return up to 100 jobs with their times in ms, by time, from `start_ms` on.

    Of those at that time it leaves out the first `skip`.
    """
    rows: list[Any] = connection.call(
        *("ZRANGEBYSCORE", keys.scheduled, start_ms, "+inf", "WITHSCORES", "LIMIT", skip, STEP)
    )
    return [(rows[n].decode(), int(float(rows[n + 1]))) for n in range(0, len(rows), 2)]
