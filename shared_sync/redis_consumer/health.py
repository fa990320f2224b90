"""What a consumer is told to be: live, ready, healthy, and the reasons why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from shared_sync.connection.availability import Availability
from shared_sync.errors import ConsumerBroken, ConsumerIdInUse
from shared_sync.redis_consumer.job_budget import Job
from shared_sync.redis_consumer.state import State
from shared_sync.redis_consumer.watchdog import Sight

_NOT_AT_WORK: Final = {
    State.NEW: "not started",
    State.STARTING: "starting",
    State.DRAINING: "draining",
    State.STOPPED: "stopped",
}
_IDLE: Final = frozenset({"late", "stuck", "stalled", "ended"})
"""States of a reader that takes no message, for all that is known."""


@dataclass(slots=True)
class Verdict:
    """Reasons, by what they mean, in words without addresses and texts of errors."""

    broken: list[str] = field(default_factory=list)
    """Not live: only a restart helps."""

    cut_off: list[str] = field(default_factory=list)
    """Nothing can be done before something outside is well again: unhealthy, and not ready."""

    idle: list[str] = field(default_factory=list)
    """Takes no messages: degraded, and not ready."""

    late: list[str] = field(default_factory=list)
    """Degraded, and goes on."""

    details: dict[str, Any] = field(default_factory=dict)
    """Addresses, texts of errors and places in the program, for those who may see them."""

    @property
    def live(self) -> bool:
        return not self.broken

    @property
    def ready(self) -> bool:
        return not (self.broken or self.cut_off or self.idle)

    def data(self) -> dict[str, Any]:
        """What of it is shown: nothing, where all is well."""
        reasons = [*self.broken, *self.cut_off, *self.idle, *self.late]
        if not reasons:
            return {}
        status = "unhealthy" if self.broken or self.cut_off else "degraded"
        shown: dict[str, Any] = {"status": status, "reasons": reasons}
        return {**shown, "details": self.details} if self.details else shown


def judge(
    state: State,
    sight: Sight,
    *,
    connectivity: Availability,
    group: str,
    broken: ConsumerBroken | None,
    ended: Sequence[str],
) -> Verdict:
    """Say how a consumer is that is in this state and was seen like this.

    `group` is how to call the group, `broken` why it does not go on, and `ended` are the threads
    that have ended by themselves.
    """
    verdict = Verdict()
    if isinstance(broken, ConsumerIdInUse):
        verdict.broken.append("another process has taken this consumer's name")
        verdict.details["name"] = str(broken)
    elif broken is not None:
        verdict.broken.append(str(broken))
    elif ended:
        verdict.broken.append(threads_ended(ended))
    if state is State.RUNNING:
        _judge_loops(verdict, sight)
    else:
        verdict.idle.append(_NOT_AT_WORK[state])
    if state in (State.RUNNING, State.DRAINING):
        _judge_redis(verdict, sight, connectivity, group)
    _judge_jobs(verdict, sight.jobs, may_break=state is State.RUNNING)
    return verdict


def threads_ended(names: Sequence[str]) -> str:
    return f"threads of the pool ended by themselves: {', '.join(names)}"


def _judge_loops(verdict: Verdict, sight: Sight) -> None:
    verdict.broken += [
        f"{name} is stalled: it does not go on, and runs no job" for name in sight.stalled
    ]
    if sight.stalled:
        verdict.details["stalled"] = dict(sight.stalled)
    if sight.readers and all(reader.state in _IDLE for reader in sight.readers):
        verdict.idle.append("no reader is free: nothing is consumed")


def _judge_redis(verdict: Verdict, sight: Sight, connectivity: Availability, group: str) -> None:
    failures = connectivity.failures()
    codes = sorted({failure.code for failure in failures if failure.code is not None})
    if codes:
        verdict.cut_off.append(f"Redis refuses what it is asked ({', '.join(codes)})")
    if sight.redis_is_silent or any(failure.code is None for failure in failures):
        silent = sight.silent_seconds
        for_how_long = f"has not answered for {silent:.0f} s" if silent >= 1 else "does not answer"
        verdict.cut_off.append(f"Redis {for_how_long}")
    if connectivity.group_missing:
        verdict.cut_off.append(f"{group} does not exist")
    if verdict.cut_off:
        verdict.details["redis"] = connectivity.address
        if failures:
            verdict.details["error"] = failures[-1].text


def _judge_jobs(verdict: Verdict, jobs: Sequence[Job], *, may_break: bool) -> None:
    for job in jobs:
        if job.is_over_its_limit and may_break:
            verdict.broken.append(job.reason())
        elif job.state != "running":
            verdict.late.append(job.reason())
