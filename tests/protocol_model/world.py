"""The consumers, the server they share, and the model beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from hypothesis import note
from protocol_client import BEGINNING, KEYS, GroupAdmin, Worker

from protocol_model.group import Group, Stream
from protocol_model.messages import LEASE, OWN_IDLE, TICK_MS, NoGroup, Place, Process
from shared_sync.connection.connection import Connection
from shared_sync.connection.scripts import Command
from shared_sync.errors import GroupMissing, SharedSyncError
from shared_sync.protocol.groups import ensure_group
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.messages import Entry, Outcome
from shared_sync.protocol.scan import Position

GROUPS = ("workers", "second")
GROUP_OF = {"w1": "workers", "w2": "workers", "w3": "workers", "x1": "second"}


@dataclass(eq=False)
class Side:
    """One group: what must be, and what is."""

    model: Group
    keys: Keys
    admin: GroupAdmin

    @property
    def results(self) -> str:
        """The name of its result stream."""
        return f"results:{self.model.name}"

    @property
    def replies(self) -> str:
        """The name of the stream of a caller that waits."""
        return f"{{jobs}}:replies:{self.model.name}"

    @property
    def outputs(self) -> str:
        """The name of the stream that its messages emit to."""
        return f"outputs:{self.model.name}"

    def has(self, *places: Place) -> bool:
        return bool(self.model.of(*places))


@dataclass(eq=False)
class Consumer(Process):
    """A process of the model, and what it sends with."""

    side: Side = field(kw_only=True)
    worker: Worker = field(kw_only=True)
    unsettled: dict[int, Outcome] = field(default_factory=dict)
    """Outcomes to which no reply has come; their messages are still in flight."""
    predecessor_is_foreign: bool = False
    """Whether its name was not on record when it started."""
    lost: list[int] = field(default_factory=list)
    """Messages that recovery has named as lost with a reply, to be asked for again."""
    position: Position = BEGINNING
    """Where its next step of recovery goes on."""

    @property
    def undecided(self) -> list[int]:
        """The messages in flight that have no outcome yet."""
        return [number for number in self.in_flight if number not in self.unsettled]

    @property
    def is_awake(self) -> bool:
        return not self.dead and not self.frozen

    @property
    def reads(self) -> bool:
        return self.is_awake and not self.draining

    @property
    def is_at_work(self) -> bool:
        return self.is_awake and bool(self.undecided)

    @property
    def owns_messages(self) -> bool:
        """Whether it would matter if it died."""
        return bool(self.side.model.owned_by(self.name))


@dataclass(frozen=True)
class Late:
    """A command that is on its way."""

    sender: Consumer
    act: Callable[[], object]
    sent_at: int
    outlives_its_sender: bool


class World:
    """Three consumers of one group and one of a second, and what the model says about them."""

    def __init__(
        self, client: redis.Redis, connection: Connection, *, keeps_lost_bodies: bool
    ) -> None:
        client.flushall()
        self.client = client
        self.connection = connection
        self.ids: list[str] = []
        self.texts: list[bytes] = []
        self.stream = Stream()
        self.failures = 0
        self.reports = 0
        self.late: list[Late] = []
        self.has_failed = False
        """Whether the model and the server differ."""
        self.sides: dict[str, Side] = {}
        for name in GROUPS:
            group = Group(self.stream, name, keeps_lost_bodies=keeps_lost_bodies)
            keys = Keys.of(KEYS.stream, name)
            side = self.sides[name] = Side(group, keys, GroupAdmin(client, keys))
            client.xgroup_create(side.replies, "unused", mkstream=True)
        self.began_ms = self.sides["workers"].admin.now_ms()
        self.consumers: dict[str, Consumer] = {}
        for name, group_name in GROUP_OF.items():
            self.consumers[name] = self.start(name, group_name)

    def start(self, name: str, group_name: str) -> Consumer:
        """Return a new process of that name."""
        side = self.sides[group_name]
        is_known = side.model.is_on_record(name)
        worker = Worker(
            self.connection, name, keys=side.keys, results=side.results, lease_ms=LEASE * TICK_MS
        )
        side.model.ensure()
        side.model.heartbeat(name)
        return Consumer(
            name,
            self.stream.now,
            side=side,
            worker=worker,
            predecessor_is_foreign=not is_known,
        )

    def living(self) -> list[Consumer]:
        return [consumer for consumer in self.consumers.values() if consumer.sends_heartbeats]

    def letters(self) -> list[tuple[Side, int]]:
        """Return all dead letters, each by its group and its place there."""
        return [
            (side, index)
            for side in self.sides.values()
            for index in range(len(side.model.letters))
        ]

    def number_of(self, entry: Entry) -> int:
        number = self.ids.index(entry.id)
        assert entry.items == [b"text", self.texts[number]]
        return number

    # --- sending ---

    def send(
        self,
        sender: Consumer,
        act: Callable[[], Any],
        reply: str,
        *,
        outlives_its_sender: bool = False,
    ) -> Any:
        """Carry out a command, now or later; return what the sender learns of it, or None."""
        if reply in {"late", "echoed"}:
            self.late.append(Late(sender, act, self.stream.now, outlives_its_sender))
        if reply == "late":
            return None
        if reply == "doubled":
            self.attempt(act)
        outcome = self.attempt(act)
        if reply == "lost":
            return None
        if isinstance(outcome, NoGroup):
            assert ensure_group(self.connection, sender.worker.commands)
            assert sender.side.model.ensure()
            note(f"{sender.name} creates the group again")
            return None
        return outcome

    def attempt(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except NoGroup as missing:
            return missing

    def compare(self, what: str, expected: Callable[[], Any], real: Callable[[], Any]) -> Any:
        """Return what the server replies, which must be what the model replies."""
        try:
            reply = real()
        except GroupMissing:
            note(f"{what}: no group")
            with pytest.raises(NoGroup):
                expected()
            raise NoGroup from None
        note(f"{what}: {reply}")
        assert reply == expected()
        return reply

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Note a failure, so that the end of the example does not fail in another way."""
        try:
            yield
        except BaseException:
            self.has_failed = True
            raise

    # --- time ---

    def shift(self, ticks: int) -> None:
        """Move everything that the server compares with its clock.

        The idle time of a message without its entry stays, since setting it would end the message.
        Late commands get lost: the network holds nothing back for longer than a reply is awaited.
        """
        self.stream.now += ticks
        self.late = [late for late in self.late if self.stream.now - late.sent_at < OWN_IDLE]
        commands: list[Command] = []
        for side in self.sides.values():
            group, keys = side.model, side.keys
            passed = -ticks * TICK_MS
            commands += [("ZINCRBY", keys.presence, passed, name) for name in group.presence]
            commands += [("ZINCRBY", keys.due, passed, self.ids[number]) for number in group.due]
            if group.last_heartbeat is not None:
                commands.append(("ZINCRBY", keys.outage, passed, "last heartbeat"))
            if group.outage_until:
                commands.append(("ZINCRBY", keys.outage, passed, "forgiven until"))
            for number in group.of(Place.PENDING) if group.exists else ():
                message = group.messages[number]
                if group.has_body(number):
                    entry = (message.owner, 0, self.ids[number])
                    idle = ("IDLE", group.idle(number) * TICK_MS, "JUSTID")
                    commands.append(("XCLAIM", keys.stream, keys.group, *entry, *idle))
                else:
                    message.delivered_at += ticks
        replies = self.connection.call_all(*commands)
        assert not any(isinstance(reply, SharedSyncError) for reply in replies)

    def order_due_times(self, side: Side) -> None:
        """Make messages that are due in the same tick due in their order, in every run.

        Due times that were swept, as those of messages that are not parked may be, leave the model.
        """
        due_ms = self.began_ms - 1000
        times = [
            (due_ms + (tick - self.stream.now) * TICK_MS + number, self.ids[number])
            for number, tick in side.model.due.items()
        ]
        if times:
            *_, kept = self.connection.call_all(
                *(("ZADD", side.keys.due, "XX", at_ms, entry_id) for at_ms, entry_id in times),
                ("ZRANGE", side.keys.due, 0, -1),
            )
            numbers = {self.ids.index(entry_id.decode()) for entry_id in kept}
            parked = side.model.of(Place.PARKED)
            side.model.due = {
                number: tick
                for number, tick in side.model.due.items()
                if number in numbers or number in parked
            }
