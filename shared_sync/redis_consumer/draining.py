"""Stopping a pool: readers end, what is left is handed back, and the groups are left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final

from shared_sync.common.loop import Loop
from shared_sync.redis_consumer.heartbeat_thread import HeartbeatThread
from shared_sync.redis_consumer.interruptions import Interruptions
from shared_sync.redis_consumer.reader import Reader
from shared_sync.redis_consumer.running_jobs import RunningJobs
from shared_sync.redis_consumer.subscription import Subscription

POLL_SECONDS: Final = 0.05
SHUTDOWN_GRACE_SECONDS: Final = 3.0
"""How much longer than its limit stopping may take: to hand back and to leave."""


class Draining:
    """Stops the threads of one pool. Any thread may call any method."""

    def __init__(
        self,
        *,
        readers: Sequence[Reader],
        reader_loops: Sequence[Loop],
        running_jobs: RunningJobs,
        interruptions: Interruptions,
        heartbeat: HeartbeatThread,
        heartbeat_loop: Loop,
        subscriptions: Sequence[Subscription],
        stop_reading: Callable[[], None],
        wake_heartbeat: threading.Event,
        stop_heartbeats: threading.Event,
        abandon: threading.Event,
    ) -> None:
        """`stop_reading` lets no reader begin another pass, nor another attempt, nor load.

        The events are those of the loops: `abandon` has readers settle nothing more.
        """
        # Fixed after construction.
        self._readers = readers
        self._reader_loops = reader_loops
        self._running_jobs = running_jobs
        self._interruptions = interruptions
        self._heartbeat = heartbeat
        self._heartbeat_loop = heartbeat_loop
        self._subscriptions = subscriptions
        self._stop_reading = stop_reading
        self._wake_heartbeat = wake_heartbeat
        self._stop_heartbeats = stop_heartbeats
        self._abandon = abandon

    def drain(self, stop_by: Callable[[], float]) -> tuple[bool, bool]:
        """Stop reading, let what runs finish, hand back the rest, and leave the groups.

        Blocks until the moment (monotonic clock) that `stop_by` returns, which may move, and
        SHUTDOWN_GRACE_SECONDS at most. Returns whether every reader has ended, and whether Redis
        knows all.
        """
        # Reading ends first, so that nothing new arrives while the rest is put in order.
        self._stop_reading()
        for reader in self._readers:
            reader.interrupt()
        # The heartbeat thread hands back what was fetched and not started: now, not after the
        # running messages, and over a connection that is there.
        self._wake_heartbeat.set()
        clean = self._await_readers(stop_by) or self._end_jobs(stop_by)
        self._abandon.set()
        return clean, self.leave(stop_by())

    def _end_jobs(self, stop_by: Callable[[], float]) -> bool:
        """End what still runs in child processes, so that it goes back; return as above."""
        self._interruptions.drain_begins()  # no reader notes it when it stops its own consumer
        ended = [reader.slot.name for reader in self._readers if reader.interrupt_job()]
        if not ended:
            return False
        return self._await_readers(lambda: stop_by() + SHUTDOWN_GRACE_SECONDS / 3, ended)

    def leave(self, stop_by: float) -> bool:
        """Leave the groups; return whether Redis knows."""
        # Heartbeats end last: until here the running messages were this consumer's. One that came
        # after it has left would claim the name again.
        self._stop_heartbeats.set()
        self._wake_heartbeat.set()
        has_ended = self._heartbeat_loop.join(stop_by + 2 * SHUTDOWN_GRACE_SECONDS / 3)
        spare = self._heartbeat.connection if has_ended else None
        seconds_left = stop_by + SHUTDOWN_GRACE_SECONDS - time.monotonic()
        left = [one.leave(seconds_left, spare) for one in self._subscriptions]
        if spare is not None:
            spare.close()
        return all(left)

    def _await_readers(self, stop_by: Callable[[], float], ending: Collection[str] = ()) -> bool:
        """Wait for the readers until the limit; return whether all have ended.

        Those whose jobs ran past their deadline are not waited for, nor those that load a model,
        except for those that are `ending`: they close it when they have it.
        """
        while True:
            running = [loop for loop in self._reader_loops if not loop.join(0.0)]
            if not running:
                return True
            stuck = {job.reader for job in self._running_jobs.check() if job.given_up}
            loading = {reader.slot.name for reader in self._readers if reader.slot.is_loading}
            stuck |= loading.difference(ending)
            if stuck.issuperset(loop.name for loop in running):
                return False
            if time.monotonic() >= stop_by():
                return False
            running[0].join(time.monotonic() + POLL_SECONDS)
