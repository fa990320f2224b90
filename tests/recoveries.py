"""The recovery of one pool, and the replies to its scans."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from helpers import Clock, Figures
from protocol_client import KEYS

from shared_sync.common.guarded import GuardedLogger
from shared_sync.protocol.messages import Entry, LostEntry, Read
from shared_sync.protocol.scan import Position, ScanRequest
from shared_sync.redis_consumer.in_flight import InFlight
from shared_sync.redis_consumer.recovery import Recovery

LOGGER = GuardedLogger(logging.getLogger("tests.recovery"))
LEFT = Read(b"dead", 1000)


class Commands:
    """Stands in for the commands of a consumer: the request itself is sent."""

    consumer = "w1"
    keys = KEYS

    def recover(self, request: ScanRequest) -> tuple[ScanRequest]:
        return (request,)


@dataclass
class Reply:
    """What a scan finds: nothing, unless something is said."""

    taken: Sequence[Entry] = ()
    lost_bodies: int = 0
    next_due_ms: int = -1
    position: Position = field(default_factory=Position)
    foreign_done: int = 0
    more: bool = False
    lost: Sequence[LostEntry] = ()

    def wire(self) -> list[Any]:
        at = self.position
        return [
            [_row(entry) for entry in self.taken],
            self.lost_bodies,
            self.next_due_ms,
            at.due_rank,
            at.own_from.encode(),
            at.dead_rank,
            at.dead_from.encode(),
            at.foreign_from.encode(),
            self.foreign_done,
            int(self.more),
            [[id.encode(), count, notes or None, at] for id, count, notes, at in self.lost],
            [],
            None,
        ]


def _row(entry: Entry) -> list[Any]:
    left_by = entry.left_by or ()
    return [entry.id.encode(), entry.items, entry.deliveries, entry.history or None, *left_by]


class Scene:
    """A recovery, and what it is asked and replied."""

    def __init__(
        self, clock: Clock, *, max_crashes: int = 3, foreign_idle_seconds: float = 30.0
    ) -> None:
        self.clock = clock
        self.in_flight = InFlight()
        self.figures = Figures()
        self.requests: list[ScanRequest] = []
        self.chance = 0.0
        self.given_up: list[LostEntry] = []
        self.recovery = Recovery(
            commands=Commands(),  # type: ignore[arg-type]
            in_flight=self.in_flight,
            own_idle_seconds=6.0,
            foreign_idle_seconds=foreign_idle_seconds,
            max_crashes=max_crashes,
            recorder=self.figures,
            logger=LOGGER,
            clock=clock,
            chance=lambda: self.chance,
        )

    def exchange(self, reply: Reply | BaseException) -> Callable[[tuple[Any, ...]], Any]:
        def send(command: tuple[Any, ...]) -> Any:
            (request,) = command
            self.requests.append(request)
            if isinstance(reply, BaseException):
                raise reply
            return reply.wire()

        return send

    def scan(self, reply: Reply | BaseException = Reply(), most: int = 1) -> list[Entry]:  # noqa: B008
        with self.recovery.scan(self.exchange(reply), most=most) as found:
            self.given_up += found.given_up
            return list(found.entries)

    def turn(self, reply: Reply = Reply()) -> list[Entry]:  # noqa: B008
        """Scan in a turn, which must be there."""
        assert self.recovery.take_turn()
        return self.scan(reply)

    def next_turn_in(self) -> float:
        """How long a reader that could wait for ever would wait."""
        waiter = object()
        seconds = self.recovery.wait_seconds(waiter, 1e9)
        self.recovery.woke(waiter)
        return seconds
