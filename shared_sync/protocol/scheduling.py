"""Scheduled jobs: publishing them at their time, and listing them."""

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
"""Steps in a row before the heartbeat thread does its other work."""

SHORTEST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 1.0
"""Limits of the pause between two checks. All consumers of a stream check which jobs are due, and
one of them publishes; those that are too late check less often."""

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
        """How often in a row other consumers were faster."""
        self._refusal = ""
        """The last refusal, so that it is logged once."""

    @property
    def interval_seconds(self) -> float:
        """Time until the next check; infinite if nothing is scheduled."""
        return max(0.0, self._next_look - self._clock())

    def check(self, connection: Connection, next_ms: int | None) -> None:
        """Publish the jobs that are due. Blocks as the connection does; raises `RedisUnavailable`.

        `next_ms` is the time from the last heartbeat to the next job; None if there is none. A job
        is published up to a second after its time, and later if the server refuses it.
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
        """Return how much later than the next job to check, because others were faster."""
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
        """Publish the jobs that are due; return the ms until the next job, or None for none."""
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
        """Publish up to STEP jobs that are due.

        Return the number of published jobs, the ms until the next job or -1 for none, the refusal
        of the server, and the ids of jobs whose message is lost.
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
                "Another program has changed this key",
                text_of(job_id),
                self._keys.stream,
                self._keys.scheduled_messages,
            )
        text = "" if refusal is None else str(refusal)
        if text and text != self._refusal:
            self._logger.error(
                "scheduled jobs of stream %s are not published, because Redis refuses them: %s. "
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
    """Return up to 100 jobs with their times in ms, in the order of their times.

    Starts at the time `start_ms`, and skips the first `skip` jobs.
    """
    rows: list[Any] = connection.call(
        *("ZRANGEBYSCORE", keys.scheduled, start_ms, "+inf", "WITHSCORES", "LIMIT", skip, STEP)
    )
    return [(rows[n].decode(), int(float(rows[n + 1]))) for n in range(0, len(rows), 2)]
