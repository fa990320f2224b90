"""How a consumer is: live, ready, healthy, and the reasons why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from shared_sync.connection.availability import Availability
from shared_sync.errors import ConsumerBroken, ConsumerIdInUse
from shared_sync.redis_consumer.job_budget import Job
from shared_sync.redis_consumer.state import State
from shared_sync.redis_consumer.watchdog import Snapshot

_NOT_AT_WORK: Final = {
    State.NEW: "not started",
    State.STARTING: "starting",
    State.DRAINING: "draining",
    State.STOPPED: "stopped",
    State.ELSEWHERE: State.ELSEWHERE.value,
}
REDIS_IS_FULL: Final = (
    "Redis is full: finished work is kept here and settled when there is room. Read and delete "
    "results, purge dead letters, or raise its maxmemory"
)
_IDLE: Final = frozenset({"loading", "late", "stuck", "stalled", "ended"})
"""States of a reader that takes no message, for all that is known."""


@dataclass(slots=True)
class ConsumerHealth:
    """Reasons, by what they mean, in words without addresses and texts of errors."""

    broken: list[str] = field(default_factory=list)
    """Not live: only a restart helps."""

    cut_off: list[str] = field(default_factory=list)
    """Nothing can be done before something outside is well again: unhealthy, and not ready."""

    idle: list[str] = field(default_factory=list)
    """Takes no messages: degraded, and not ready."""

    degraded: list[str] = field(default_factory=list)
    """Goes on, and needs attention."""

    details: dict[str, Any] = field(default_factory=dict)
    """Addresses, texts of errors and places in the program, for those who may see them."""

    @property
    def live(self) -> bool:
        """Whether the process makes progress by itself."""
        return not self.broken

    @property
    def ready(self) -> bool:
        """Whether the consumer takes messages."""
        return not (self.broken or self.cut_off or self.idle)

    def data(self) -> dict[str, Any]:
        """Return what a health page shows of it: nothing if all is well."""
        reasons = [*self.broken, *self.cut_off, *self.idle, *self.degraded]
        if not reasons:
            return {}
        status = "unhealthy" if self.broken or self.cut_off else "degraded"
        shown: dict[str, Any] = {"status": status, "reasons": reasons}
        return {**shown, "details": self.details} if self.details else shown


def judge(
    state: State,
    snapshot: Snapshot,
    *,
    availability: Availability,
    group: str,
    broken: ConsumerBroken | None,
    ended: Sequence[str],
    hazards: Sequence[str] = (),
    pauses: Sequence[str] = (),
    asks_redis: bool = True,
    waits: Sequence[str] = (),
) -> ConsumerHealth:
    """Return the health of a consumer that is in this state and of which this snapshot was taken.

    `group` names the group in reasons, `broken` is why the consumer cannot go on, `ended` are the
    threads that have ended by themselves, `hazards` are further reasons to be degraded, and
    `pauses` are why no messages are taken.
    `asks_redis` is whether a thread asks Redis regularly, so that its silence means something;
    `waits` is what a start waits for.
    """
    health = ConsumerHealth()
    if isinstance(broken, ConsumerIdInUse):
        health.broken.append("another process has taken this consumer's name")
        health.details["name"] = str(broken)
    elif broken is not None:
        health.broken.append(broken.reason)
        if broken.reason != str(broken):
            health.details["error"] = str(broken)
    elif ended:
        health.broken.append(threads_ended(ended))
    if state is State.RUNNING:
        _judge_loops(health, snapshot)
        health.idle += pauses
    else:
        health.idle.append(": ".join([_NOT_AT_WORK[state], *waits]))
    if state not in (State.STOPPED, State.ELSEWHERE):
        _judge_redis(health, snapshot, availability, group, is_asked=asks_redis)
    _judge_jobs(health, snapshot.jobs, may_break=state is State.RUNNING)
    health.degraded += hazards
    return health


def threads_ended(names: Sequence[str]) -> str:
    """Return the reason for threads that have ended by themselves."""
    return f"threads of the pool ended by themselves: {', '.join(names)}"


def _judge_loops(health: ConsumerHealth, snapshot: Snapshot) -> None:
    health.broken += [
        f"{name} is stalled: it does not go on, and runs no job" for name in snapshot.stalled
    ]
    if snapshot.stalled:
        health.details["stalled"] = dict(snapshot.stalled)
    if snapshot.readers and all(reader.state in _IDLE for reader in snapshot.readers):
        health.idle.append("no reader is free: nothing is consumed")


def _judge_redis(
    health: ConsumerHealth,
    snapshot: Snapshot,
    availability: Availability,
    group: str,
    *,
    is_asked: bool,
) -> None:
    failures = availability.failures()
    codes = sorted({failure.code for failure in failures if failure.code is not None})
    if "OOM" in codes:
        codes.remove("OOM")
        health.cut_off.append(REDIS_IS_FULL)
    if codes:
        health.cut_off.append(f"Redis refuses what it is asked ({', '.join(codes)})")
    is_silent = is_asked and snapshot.redis_is_silent
    if is_silent or any(failure.code is None for failure in failures):
        silent = snapshot.silent_seconds if is_asked else 0.0
        for_how_long = f"has not answered for {silent:.0f} s" if silent >= 1 else "does not answer"
        health.cut_off.append(f"Redis {for_how_long}")
    if availability.group_missing:
        health.cut_off.append(f"{group} does not exist")
    if health.cut_off:
        health.details["redis"] = availability.address
        if failures:
            health.details["error"] = failures[-1].text


def _judge_jobs(health: ConsumerHealth, jobs: Sequence[Job], *, may_break: bool) -> None:
    for job in jobs:
        if job.is_over_its_limit and may_break:
            health.broken.append(job.reason())
        elif job.state != "running":
            health.degraded.append(job.reason())
