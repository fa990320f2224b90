"""Taking a consumer's name: at once if it is free, else when its dead holder's lease ends."""

from __future__ import annotations

import time
from collections.abc import Callable

from shared_sync.common.guarded import Logger
from shared_sync.connection.connection import Connection
from shared_sync.errors import ConsumerIdInUse
from shared_sync.protocol import commands as stream_commands
from shared_sync.protocol.commands import GroupCommands, NameHeld, NameTaken
from shared_sync.protocol.process_identity import Holder

POLL_SECONDS = 0.5


def take(
    link: Connection,
    commands: GroupCommands,
    logger: Logger,
    *,
    give_up: Callable[[float], bool],
    clock: Callable[[], float] = time.monotonic,
) -> NameTaken | None:
    """Hold the name from now on; None if `give_up`, which waits so many seconds, said so before.

    A holder that is known to have ended loses the name at once. Another one keeps it while its
    lease lasts, so this blocks up to one lease. Raises `ConsumerIdInUse` as soon as the holder
    gives a sign of life meanwhile, and what the link raises.
    """
    deadline = clock() + commands.lease_ms / 1000 + POLL_SECONDS
    gone = b""
    before: NameHeld | None = None
    while isinstance(held := stream_commands.parse_hold(link.call(*commands.hold(gone))), NameHeld):
        holder = Holder.parse(held.holder.decode(errors="replace"))
        if holder is not None and held.holder != gone and holder.is_gone():
            logger.info("process %d, which had the name %s, is gone", holder.pid, commands.consumer)
            gone = held.holder
            continue
        if clock() >= deadline or (before is not None and _has_beaten(before, held)):
            raise in_use(commands.consumer, holder)
        seconds_left = (held.lease_end_ms - held.now_ms) / 1000
        if before is None:
            logger.info(
                "the name %s is held by %s, which may have died; waiting up to %.1f s for the end "
                "of its lease",
                commands.consumer,
                f"process {holder.pid} on {holder.host}" if holder else "another process",
                min(seconds_left, commands.lease_ms / 1000),
            )
        before = held
        if give_up(min(POLL_SECONDS, seconds_left + 0.001, max(0.0, deadline - clock()))):
            return None
    return held


def in_use(consumer_id: str, holder: Holder | None) -> ConsumerIdInUse:
    """The error that says who has the name; None for one that does not tell who it is."""
    if holder is None:
        return ConsumerIdInUse(consumer_id, host=None, pid=None)
    return ConsumerIdInUse(consumer_id, host=holder.host, pid=holder.pid)


def _has_beaten(before: NameHeld, now: NameHeld) -> bool:
    """A lease that grew before it had ended was renewed; after that it may have been forgiven."""
    return now.lease_end_ms > before.lease_end_ms >= now.now_ms
