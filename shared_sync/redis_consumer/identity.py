"""Claiming the consumer's name: at once if it is free, else when a dead process's lease ends."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from shared_sync.common.guarded import Logger
from shared_sync.connection.connection import Connection
from shared_sync.errors import ConsumerIdInUse
from shared_sync.protocol.commands import GroupCommands
from shared_sync.protocol.process_identity import ProcessIdentity
from shared_sync.protocol.replies import NameClaimed, NameInUse, parse_claim
from shared_sync.redis_consumer.server_clock import ServerClock

POLL_SECONDS = 0.5


def unique_name(group: str) -> str:
    """Return a name that no other consumer has: the group, the host, and something random."""
    return f"{group.lstrip('~')}-{socket.gethostname()}-{secrets.token_hex(4)}"


@dataclass(frozen=True, slots=True)
class NameWait:
    """The wait for a name whose last process may have died."""

    name: str
    owner: str
    """The process that has the name, in words."""
    ends_at: float
    """When its lease ends, by the monotonic clock."""

    def reason(self, now: float) -> str:
        """Return what the consumer waits for, without names of machines."""
        return (
            f"waiting for the name {self.name}: the process that has it may have died, and its "
            f"lease ends in {max(0.0, self.ends_at - now):.0f} s"
        )


def claim(
    connection: Connection,
    commands: GroupCommands,
    logger: Logger,
    *,
    server_clock: ServerClock,
    give_up: Callable[[float], bool],
    has_ended: Callable[[ProcessIdentity], bool] = ProcessIdentity.has_ended,
    on_wait: Callable[[NameWait], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> NameClaimed | None:
    """Claim the name; return None if `give_up`, which waits so many seconds, says so before.

    A process of which `has_ended` says that it has ended loses the name at once. Any other keeps it
    while its lease lasts, so this blocks up to one lease, after a call of `on_wait`. Raises
    `ConsumerIdInUse` as soon as that process sends a heartbeat, and what the connection raises.
    """
    deadline = clock() + commands.lease_ms / 1000 + POLL_SECONDS
    ended = b""
    before: NameInUse | None = None
    while True:
        asked_at = clock()
        reply = parse_claim(connection.call(*commands.claim(ended)))
        if isinstance(reply, NameClaimed):
            server_clock.heard(reply.since_ms, asked_at, clock())
            return reply
        other = ProcessIdentity.parse(reply.identity.decode(errors="replace"))
        if other is not None and reply.identity != ended and has_ended(other):
            logger.info(
                "process %d, which had the name %s, has ended", other.pid, commands.consumer
            )
            ended = reply.identity
            continue
        if clock() >= deadline or (before is not None and _has_sent_heartbeat(before, reply)):
            raise in_use(commands.consumer, other)
        seconds_left = (reply.lease_end_ms - reply.now_ms) / 1000
        if before is None:
            wait = NameWait(
                commands.consumer,
                f"process {other.pid} on {other.host}" if other else "another process",
                clock() + min(seconds_left, commands.lease_ms / 1000),
            )
            on_wait(wait)
            logger.info("%s; %s has it", wait.reason(clock()), wait.owner)
        before = reply
        if give_up(min(POLL_SECONDS, seconds_left + 0.001, max(0.0, deadline - clock()))):
            return None


def in_use(consumer_id: str, other: ProcessIdentity | None) -> ConsumerIdInUse:
    """Return the error that says which process has the name, as far as that is known."""
    if other is None:
        return ConsumerIdInUse(consumer_id, host=None, pid=None)
    return ConsumerIdInUse(consumer_id, host=other.host, pid=other.pid)


def _has_sent_heartbeat(before: NameInUse, now: NameInUse) -> bool:
    """A lease that grew before it had ended was renewed; after that it may have been forgiven."""
    return now.lease_end_ms > before.lease_end_ms >= now.now_ms
