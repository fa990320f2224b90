"""What a consumer reports of itself, without asking Redis."""

from __future__ import annotations

import time
from typing import Any

from shared_sync.redis_consumer import health
from shared_sync.redis_consumer.health import ConsumerHealth
from shared_sync.redis_consumer.lifecycle import Lifecycle
from shared_sync.redis_consumer.options import Options
from shared_sync.redis_consumer.state import State
from shared_sync.redis_consumer.watchdog import NOTHING_SEEN, Snapshot


class Report:
    """Reads the state of one consumer. Any thread may call any method; none blocks long."""

    def __init__(self, options: Options, life: Lifecycle) -> None:
        self._options = options
        self._life = life
        self._pool = life.pool

    def health(self) -> ConsumerHealth:
        """Return whether the consumer is live and ready, and the reasons if it is not."""
        return self._judge(self._life.state, self._snapshot())

    @property
    def redis_connected(self) -> bool:
        """Whether Redis answers."""
        return self._redis_answers(self._snapshot())

    def health_data(self) -> dict[str, Any]:
        """Return what `RedisStreamConsumer.get_health_data()` promises."""
        state = self._life.state
        is_here = state is not State.ELSEWHERE
        queue = self._pool.heartbeat.heartbeat.queue if is_here else None
        snapshot = self._snapshot()
        health = self._judge(state, snapshot)
        running = [job.running for job in snapshot.jobs]
        loops = self._pool.reader_loops
        return {
            **health.data(),
            "live": health.live,
            "ready": health.ready,
            "started": not is_here or self._has_started(state),
            "redis_connected": self._redis_answers(snapshot) if is_here else None,
            "consumer_state": state.value,
            **self._pool.group_pause.health_data(),
            "readers_alive": sum(loop.thread.is_alive() for loop in loops),
            "readers_stuck": sum(job.given_up for job in running),
            "jobs_late": snapshot.jobs_late,
            "jobs_in_flight": len(running),
            "longest_job_seconds": round(max((job.seconds for job in running), default=0.0), 3),
            "jobs_unsettled": self._pool.unsettled if is_here else 0,
            "queue_depth": queue.backlog if queue else None,
            "queue_waiting": queue.waiting if queue else None,
            "jobs_parked": queue.parked if queue else None,
            "dead_letters": queue.dead if queue else None,
        }

    def readers(self) -> dict[str, Any]:
        """Return what a dashboard shows: what each reader does, and the jobs that run.

        `batches` is there if any reader runs batches, and `circuit_breakers` if there are any.
        """
        named = {"stream": self._options.stream_name, "group": self._options.consumer_group}
        more = {
            "batches": self._pool.batches.rows(),
            "circuit_breakers": self._pool.circuit_breakers.rows(),
        }
        shown = {name: rows for name, rows in more.items() if rows}
        tables = self._snapshot().tables()
        if self._life.state is State.RUNNING and self._pool.pauses.is_held:
            for reader in tables["readers"]:
                if reader["state"] == "waiting":
                    reader["state"] = "paused"
        return {**named, **tables, **shown}

    def _snapshot(self) -> Snapshot:
        """Return a snapshot of the threads; an empty one if they run in another process."""
        if self._life.state is State.ELSEWHERE:
            return NOTHING_SEEN
        return self._pool.watchdog.check()

    def _judge(self, state: State, snapshot: Snapshot) -> ConsumerHealth:
        judged = health.judge(
            state,
            snapshot,
            availability=self._pool.availability,
            group=f"the group {self._options.consumer_group} of stream {self._options.stream_name}",
            broken=self._life.broken,
            ended=self._life.ended_by_themselves(),
            hazards=self._pool.hazards() if state is State.RUNNING else (),
            pauses=self._pool.pauses.reasons(),
            asks_redis=self._pool.sends_heartbeats,
            waits=self._waits(state),
        )
        if state is State.RUNNING and (errors := self._pool.pauses.errors()):
            judged.details["pauses"] = errors
        for wait in self._pool.name_waits:
            judged.details["name"] = f"{wait.name} is in use by {wait.owner}"
        return judged

    def _has_started(self, state: State) -> bool:
        """Return whether the start has come as far as it can."""
        if self._pool.was_started:
            return self._pool.loading.is_complete
        return bool(self._waits(state))

    def _waits(self, state: State) -> list[str]:
        """Return what the start waits for."""
        if state is not State.STARTING:
            return []
        if self._pool.loading.has_begun:
            return [self._pool.loading.reason]
        if self._pool.availability.failures():
            return ["waiting for Redis"]
        now = time.monotonic()
        return [wait.reason(now) for wait in self._pool.name_waits]

    def _redis_answers(self, snapshot: Snapshot) -> bool:
        if self._life.state is State.ELSEWHERE:
            return False
        is_silent = self._pool.sends_heartbeats and snapshot.redis_is_silent
        return self._pool.availability.connected and not is_silent
