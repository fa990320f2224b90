"""Random lives of a group of consumers, each step compared with what must be.

Three consumers of one group, and one of a second, read, finish, fail, crash, freeze, drain and
come back in every order that hypothesis thinks of, while replies are lost, commands arrive late,
hints and bodies are deleted and groups destroyed. `model.py` says what each step must come to.
At the end one survivor processes what is left.

`MODEL_EXAMPLES=500 pytest tests/protocol/test_model.py` tries that many lives.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from typing import Any, TypeVar

import pytest
import redis
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from hypothesis.strategies import SearchStrategy
from model import (
    DELIVERED,
    LEASE,
    MAX_CRASHES,
    NEEDED,
    OWN_IDLE,
    Group,
    NoGroup,
    Place,
    Process,
    Scan,
    Stream,
)
from protocol_client import KEYS, Looker, Worker

from shared_sync.connection.connection import Connection
from shared_sync.connection.scripts import Command
from shared_sync.errors import GroupMissing, SharedSyncError
from shared_sync.protocol import commands as group_commands
from shared_sync.protocol import publishing
from shared_sync.protocol.groups import ensure_group
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.messages import Answer, Bury, Entry, Finish, Outcome, Park
from shared_sync.protocol.scan import Found

EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "60"))
STEPS = 50
TICK_MS = 3_600_000
"""So long that the time which an example really takes does not count."""

GROUP_OF = {"w1": "workers", "w2": "workers", "w3": "workers", "x1": "second"}
GROUPS = ("workers", "second")

T = TypeVar("T")

WHO = st.integers(0, 3)
WHICH = st.integers(0, 5)
REPLY = st.sampled_from(["seen", "seen", "seen", "lost", "late", "doubled", "echoed"])
"""What becomes of a command and its reply. Late: the sender takes it for lost, and it may yet come
to the server. Doubled: the first reply is lost, the second is seen. Echoed: the first sending is
late, and the second is seen before it comes."""


@dataclass(eq=False)
class Side:
    """One group: what must be, and what is."""

    group: Group
    keys: Keys
    look: Looker

    def has(self, *places: Place) -> bool:
        return bool(self.group.of(*places))


@dataclass(eq=False)
class Consumer(Process):
    """A process of the model, and what it sends with."""

    side: Side = field(kw_only=True)
    worker: Worker = field(kw_only=True)
    unsettled: dict[int, Outcome] = field(default_factory=dict)
    """Outcomes to which no reply was seen; these messages are in hand still."""

    @property
    def undecided(self) -> list[int]:
        return [number for number in self.held if number not in self.unsettled]

    @property
    def is_awake(self) -> bool:
        return not self.dead and not self.frozen

    @property
    def fetches(self) -> bool:
        return self.is_awake and not self.draining

    @property
    def is_at_work(self) -> bool:
        return self.is_awake and bool(self.undecided)

    @property
    def idles(self) -> bool:
        """Whether its end would be of little interest."""
        return not self.side.group.owned_by(self.name)


@dataclass(frozen=True)
class Happening:
    """Something that may happen in a step, and how often beside the others."""

    weight: int
    is_possible: Callable[[Lives], bool]
    happen: Callable[..., None]
    details: SearchStrategy[dict[str, Any]]


HAPPENINGS: dict[str, Happening] = {}


def happening(
    weight: int,
    is_possible: Callable[[Lives], bool] = lambda _: True,
    **details: SearchStrategy[Any],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a method be something that may happen."""

    def note_it(happen: Callable[..., None]) -> Callable[..., None]:
        drawn = st.fixed_dictionaries(details)
        HAPPENINGS[happen.__name__] = Happening(weight, is_possible, happen, drawn)
        return happen

    return note_it


def act_of(
    condition: Callable[[Consumer], bool], weight: int, **details: SearchStrategy[Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a method be what a consumer may do, or what may befall it, if it meets the condition."""

    def able(lives: Lives) -> list[Consumer]:
        return [consumer for consumer in lives.consumers.values() if condition(consumer)]

    def note_it(act: Callable[..., None]) -> Callable[..., None]:
        @wraps(act)
        def of_one(lives: Lives, who: int, **drawn: Any) -> None:
            consumers = able(lives)
            act(lives, consumers[who % len(consumers)], **drawn)

        happening(weight, lambda lives: bool(able(lives)), who=WHO, **details)(of_one)
        return act

    return note_it


@dataclass(frozen=True)
class Late:
    """A command that is on its way."""

    sender: Consumer
    act: Callable[[], object]
    sent_at: int
    outlives_its_sender: bool


@dataclass(frozen=True)
class SeenGroup:
    """What is in Redis for one group, in the words of the model."""

    read_up_to: tuple[int, ...]
    pending: dict[int, tuple[str, int]]
    presence: dict[str, int]
    due: dict[int, int]
    history: dict[int, str]
    results: list[tuple[int, str]]
    letters: list[tuple[int, str]]


@dataclass(frozen=True)
class Seen:
    """What is in Redis."""

    bodies: set[int]
    groups: dict[str, SeenGroup]


class Lives(RuleBasedStateMachine):
    """The consumers, the server they share, and the model beside it."""

    def __init__(
        self, client: redis.Redis, connection: Connection, keeps_lost_bodies: bool
    ) -> None:
        super().__init__()
        client.flushall()
        self.client = client
        self.connection = connection
        self.ids: list[str] = []
        self.texts: list[bytes] = []
        self.stream = Stream()
        self.failures = 0
        self.broken = False
        self.late: list[Late] = []
        self.sides: dict[str, Side] = {}
        for name in GROUPS:
            group = Group(self.stream, name, keeps_lost_bodies=keeps_lost_bodies)
            keys = Keys.of(KEYS.stream, name)
            self.sides[name] = Side(group, keys, Looker(client, keys))
        self.began_ms = self.sides["workers"].look.now_ms()
        self.consumers: dict[str, Consumer] = {}
        for name, group_name in GROUP_OF.items():
            self.consumers[name] = self._start(name, group_name)

    @rule(data=st.data())
    def something_happens(self, data: st.DataObject) -> None:
        """One rule for all, so that they can be weighed.

        Hypothesis likes the beginning of a list, so every kind of happening is found there.
        """
        possible = {name: one for name, one in HAPPENINGS.items() if one.is_possible(self)}
        heaviest = max(one.weight for one in possible.values())
        names = [
            name for turn in range(heaviest) for name, one in possible.items() if one.weight > turn
        ]
        chosen = possible[data.draw(st.sampled_from(names))]
        details = data.draw(chosen.details)
        with self._judged():
            chosen.happen(self, **details)

    # --- messages ---

    @happening(4, lambda lives: lives.stream.has_room, count=st.integers(1, 3))
    def publish(self, count: int) -> None:
        texts = [b"%d" % (self.stream.published + n) for n in range(count)]
        reply = self.connection.call(
            *publishing.publish(KEYS.stream, ([b"text", one] for one in texts), None)
        )
        ids, refusal = publishing.parse_published(reply)
        assert (len(ids), refusal) == (count, None)
        self.ids += ids
        self.texts += texts
        note(f"published {[self.stream.publish() for _ in ids]}")

    @act_of(
        lambda one: one.fetches and one.side.has(Place.UNREAD),
        8,
        count=st.integers(1, 4),
        reply=REPLY,
    )
    def reads(self, consumer: Consumer, count: int, reply: str) -> None:
        act = partial(self._read, consumer, count)
        self._admit(consumer, self._send(consumer, act, reply, outlives_its_sender=True))

    def _read(self, consumer: Consumer, count: int) -> list[Entry]:
        entries: list[Entry] = []

        def real() -> list[int]:
            entries.extend(consumer.worker.read(count))
            return [self._number_of(entry) for entry in entries]

        expected = partial(consumer.side.group.read, consumer.name, count)
        self._ask(f"{consumer.name} reads {count}", expected, real)
        return entries

    @act_of(
        lambda one: one.is_at_work,
        8,
        which=WHICH,
        count=st.integers(1, 4),
        results=st.sampled_from([True, True, True, False]),
        reply=REPLY,
    )
    def finishes(
        self, consumer: Consumer, which: int, count: int, results: bool, reply: str
    ) -> None:
        numbers = _some(consumer.undecided, which, count)
        answers = {n: _answer(n, "done") if results else Answer() for n in numbers}
        outcomes = {n: Finish(self.ids[n], answer) for n, answer in answers.items()}
        self._settle(consumer, outcomes, reply)

    @act_of(
        lambda one: one.is_at_work,
        10,
        which=WHICH,
        delay=st.sampled_from([0, 0, 1, 5, 30]),
        reply=REPLY,
    )
    def fails(self, consumer: Consumer, which: int, delay: int, reply: str) -> None:
        (number,) = _some(consumer.undecided, which, 1)
        delay_ms = delay * TICK_MS
        outcome = Park(self.ids[number], self._failure(), delay_ms, consumer.held[number])
        self._settle(consumer, {number: outcome}, reply)

    @act_of(lambda one: one.is_at_work, 3, which=WHICH, reply=REPLY)
    def gives_up(self, consumer: Consumer, which: int, reply: str) -> None:
        (number,) = _some(consumer.undecided, which, 1)
        metadata = [b"dead.id", self.ids[number].encode()]
        outcome = Bury(self.ids[number], self._failure(), metadata, _answer(number, "dead"))
        self._settle(consumer, {number: outcome}, reply)

    @act_of(lambda one: one.is_awake and bool(one.unsettled), 10, reply=REPLY)
    def settles_again(self, consumer: Consumer, reply: str) -> None:
        self._settle(consumer, {}, reply)

    def _failure(self) -> str:
        self.failures += 1
        return f'{{"failure":{self.failures}}}'

    def _settle(self, consumer: Consumer, outcomes: Mapping[int, Outcome], reply: str) -> None:
        """Send outcomes as a reader does: those whose replies it has not seen go along."""
        consumer.unsettled.update(outcomes)
        for numbers in self._together(consumer.unsettled):
            of_numbers = {number: consumer.unsettled[number] for number in numbers}
            finishing = isinstance(of_numbers[numbers[0]], Finish)
            act = partial(self._settle_now, consumer, of_numbers)
            if self._send(consumer, act, reply, outlives_its_sender=finishing) is not None:
                for number in numbers:
                    del consumer.unsettled[number]
                    del consumer.held[number]

    def _together(self, outcomes: Mapping[int, Outcome]) -> list[list[int]]:
        """The numbers of the outcomes that one command settles."""

        def of(kind: type[Outcome], *, has_answer: bool = True) -> list[int]:
            return [
                number
                for number, one in outcomes.items()
                if isinstance(one, kind)
                and (not isinstance(one, Finish) or bool(one.answer.items) is has_answer)
            ]

        buried = [[number] for number in of(Bury)]
        together = [of(Finish, has_answer=False), of(Finish), of(Park), *buried]
        return [numbers for numbers in together if numbers]

    def _settle_now(self, consumer: Consumer, outcomes: Mapping[int, Outcome]) -> list[int]:
        group, name = consumer.side.group, consumer.name
        numbers = list(outcomes)
        first = outcomes[numbers[0]]

        def real() -> list[int]:
            if isinstance(first, Finish) and not first.answer.items:
                return [consumer.worker.done(*(one.id for one in outcomes.values()))]
            return consumer.worker.settle(*outcomes.values())

        def expected() -> list[int]:
            if isinstance(first, Finish):
                if first.answer.items:
                    return group.finish_with_results(numbers)
                return [group.finish(numbers)]
            if isinstance(first, Bury):
                return [group.bury(name, numbers[0], first.failure)]
            return [
                group.park(name, n, one.delivery, one.failure, one.delay_ms // TICK_MS)
                for n, one in outcomes.items()
                if isinstance(one, Park)
            ]

        kind = type(first).__name__.lower()
        settled: list[int] = self._ask(f"{name}: {kind} {numbers}", expected, real)
        return settled

    @act_of(
        lambda one: one.fetches and one.side.has(Place.PENDING, Place.PARKED),
        12,
        startable_crashes=st.sampled_from([2, 2, 1, 0]),
        most=st.sampled_from([1, 1, 2, 4]),
        due_comes_last=st.booleans(),
        reply=REPLY,
    )
    def recovers(
        self,
        consumer: Consumer,
        startable_crashes: int,
        most: int,
        due_comes_last: bool,
        reply: str,
    ) -> None:
        self._recover(consumer, startable_crashes, most, due_comes_last, reply)

    def _recover(
        self,
        consumer: Consumer,
        startable_crashes: int = MAX_CRASHES,
        most: int = 1,
        due_comes_last: bool = False,
        reply: str = "seen",
    ) -> Found | None:
        scan = Scan(
            consumer.name,
            age=self.stream.now - consumer.born,
            startable_crashes=startable_crashes,
            most=most,
            in_flight=frozenset(consumer.held),
            due_comes_last=due_comes_last,
        )
        act = partial(self._recover_now, consumer, scan)
        found: Found | None = self._send(consumer, act, reply, outlives_its_sender=True)
        if found is not None:
            self._admit(consumer, found.entries)
        return found

    def _recover_now(self, consumer: Consumer, scan: Scan) -> Found:
        group = consumer.side.group
        found: list[Found] = []
        scan = replace(scan, taken=[])
        self._steady(consumer.side)

        def real() -> tuple[list[int], int, int | None]:
            recovered = consumer.worker.scan(
                own_idle_ms=OWN_IDLE * TICK_MS,
                since_ms=consumer.side.look.now_ms() - scan.age * TICK_MS - TICK_MS // 2,
                max_crashes=MAX_CRASHES,
                startable_crashes=scan.startable_crashes,
                most=scan.most,
                in_flight=tuple(self.ids[number] for number in scan.in_flight),
                due_comes_last=scan.due_comes_last,
            )
            found.append(recovered)
            taken = [self._number_of(entry) for entry in recovered.entries]
            seconds = recovered.next_due_seconds
            ticks = None if seconds is None else round(seconds * 1000 / TICK_MS)
            return taken, recovered.lost_bodies, ticks

        def expected() -> tuple[list[int], int, int | None]:
            entries = found[0].entries if found else ()
            taken = [self._number_of(entry) for entry in entries]
            were_parked = {n for n in taken if n in group.of(Place.PARKED)}
            lost = group.recover(scan, taken, self._pending(consumer.side))
            for number, entry in zip(taken, entries, strict=True):
                message = group.messages[number]
                assert entry.deliveries == message.deliveries
                assert entry.history.decode() == _lines(group.notes.get(number, ()))
                unnoted = message.failures - group.noted(number)
                assert entry.crashes == max(0, message.crashes + unnoted)
                assert (entry.left_by is None) is (number in were_parked)
            return taken, lost, scan.next_due

        what = f"{consumer.name} recovers {scan.most}, beside {sorted(scan.in_flight)}"
        self._ask(what, expected, real)
        return found[0]

    def _admit(self, consumer: Consumer, entries: Sequence[Entry] | None) -> None:
        """Take in hand what came, unless it is in hand already."""
        for entry in entries or ():
            number = self._number_of(entry)
            if number not in consumer.held:
                consumer.held[number] = entry.deliveries
                consumer.side.group.messages[number].received_by = consumer

    def _number_of(self, entry: Entry) -> int:
        number = self.ids.index(entry.id)
        assert entry.items == [b"text", self.texts[number]]
        return number

    # --- the life of a consumer ---

    @act_of(lambda one: not one.dead and not one.idles, 4, traceless=st.booleans())
    def dies(self, consumer: Consumer, traceless: bool) -> None:
        note(f"{consumer.name} dies with {list(consumer.held)}")
        consumer.dead = True
        if traceless:
            consumer.side.look.remove_presence(consumer.name)
            consumer.side.group.presence.pop(consumer.name, None)

    @act_of(lambda one: one.dead or one.left, 6)
    def is_started_again(self, former: Consumer) -> None:
        """The next process of a name whose process died or left.

        What that one had sent and what only the holder of a name may do is not carried out late.
        """
        former.dead = True
        self.late = [
            late for late in self.late if late.sender is not former or late.outlives_its_sender
        ]
        self._pass(1)
        note(f"{former.name} starts again")
        self.consumers[former.name] = self._start(former.name, former.side.group.name)

    def _start(self, name: str, group_name: str) -> Consumer:
        side = self.sides[group_name]
        worker = Worker(
            self.connection, name, keys=side.keys, results=_results(side), lease_ms=LEASE * TICK_MS
        )
        side.group.ensure()
        side.group.heartbeat(name)
        return Consumer(name, self.stream.now, side=side, worker=worker)

    @act_of(lambda one: one.is_awake and not one.idles, 4)
    def freezes(self, consumer: Consumer) -> None:
        note(f"{consumer.name} freezes with {list(consumer.held)}")
        consumer.frozen = True

    @act_of(lambda one: one.frozen and not one.dead, 5)
    def thaws(self, consumer: Consumer) -> None:
        note(f"{consumer.name} thaws")
        consumer.frozen = False
        consumer.silent = True

    @act_of(lambda one: one.is_at_work, 3, which=WHICH, count=st.integers(1, 3), reply=REPLY)
    def hands_back(self, consumer: Consumer, which: int, count: int, reply: str) -> None:
        """The first act of draining, after which nothing is fetched any more. Sent only once."""
        consumer.draining = True
        numbers = _some(consumer.undecided, which, count)
        for number in numbers:
            del consumer.held[number]
        expected = partial(consumer.side.group.hand_back, consumer.name, numbers)
        real = partial(consumer.worker.hand_back, *(self.ids[number] for number in numbers))
        act = partial(self._ask, f"{consumer.name} hands back {numbers}", expected, real)
        self._send(consumer, act, reply)

    @act_of(lambda one: one.is_awake and not one.left and not one.idles, 3, reply=REPLY)
    def leaves(self, consumer: Consumer, reply: str) -> None:
        """The last act of draining; what still runs then may be settled even later."""
        consumer.draining = consumer.left = True
        expected = partial(consumer.side.group.leave, consumer.name)
        act = partial(self._ask, f"{consumer.name} leaves", expected, consumer.worker.leave)
        self._send(consumer, act, reply)

    @act_of(lambda one: one.is_awake and not one.left, 3, reply=REPLY)
    def sends_heartbeat(self, consumer: Consumer, reply: str) -> None:
        self._send(consumer, partial(self._heartbeat, consumer), reply, outlives_its_sender=True)

    def _heartbeat(self, consumer: Consumer) -> None:
        def real() -> tuple[int | None, int, int, int | None]:
            queue = consumer.worker.heartbeat()
            return queue.backlog, queue.pending, queue.parked, queue.dead

        consumer.silent = False
        self._ask(
            f"{consumer.name} sends a heartbeat",
            partial(consumer.side.group.heartbeat, consumer.name),
            real,
        )

    # --- what befalls them ---

    @happening(5, lambda lives: bool(lives.late), which=WHICH)
    def something_late_arrives(self, which: int) -> None:
        late = self.late.pop(which % len(self.late))
        note("late:")
        self._attempt(late.act)

    @happening(8, ticks=st.sampled_from([1, 1, OWN_IDLE, LEASE, LEASE, 30]))
    def time_passes(self, ticks: int) -> None:
        note(f"{ticks} ticks pass")
        self._pass(ticks)

    @act_of(lambda one: one.fetches, 3, ticks=st.sampled_from([1, LEASE // 3, LEASE, 30]))
    def returns_first_after_an_outage(self, consumer: Consumer, ticks: int) -> None:
        """Nobody reaches the server for a while, and then one recovers before the others report."""
        self._all_send_heartbeats()
        note(f"{ticks} ticks pass in an outage")
        self._shift(ticks)
        self._recover(consumer)
        self._all_send_heartbeats()

    def _pass(self, ticks: int) -> None:
        """Let time pass, in which the living send heartbeats all along."""
        self._shift(ticks)
        for consumer in self._living():
            side = consumer.side
            side.group.presence[consumer.name] = self.stream.now + LEASE
            lease_end = side.look.now_ms() + LEASE * TICK_MS
            self.client.zadd(side.keys.presence, {consumer.name: lease_end})
        self._all_send_heartbeats()

    def _all_send_heartbeats(self) -> None:
        for consumer in self._living():
            self._send_heartbeat_at_once(consumer)

    def _send_heartbeat_at_once(self, consumer: Consumer) -> None:
        self._send(consumer, partial(self._heartbeat, consumer), "seen")

    def _shift(self, ticks: int) -> None:
        """Move all that the server compares with its clock.

        The idle time of an entry without its body stays: setting it would end the entry. What is
        late gets lost: the network holds nothing back for longer than a reply is waited for.
        """
        self.stream.now += ticks
        self.late = [late for late in self.late if self.stream.now - late.sent_at < OWN_IDLE]
        commands: list[Command] = []
        for side in self.sides.values():
            group, keys = side.group, side.keys
            passed = -ticks * TICK_MS
            commands += [("ZINCRBY", keys.presence, passed, name) for name in group.presence]
            commands += [("ZINCRBY", keys.due, passed, self.ids[number]) for number in group.due]
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

    @happening(2, lambda lives: bool(lives.stream.bodies), which=WHICH)
    def others_delete_a_body(self, which: int) -> None:
        (number,) = _some(sorted(self.stream.bodies), which, 1)
        note(f"the body of {number} is deleted")
        self.client.xdel(KEYS.stream, self.ids[number])
        self.stream.delete_body(number)

    @happening(1, group_name=st.sampled_from(GROUPS))
    def a_group_is_destroyed(self, group_name: str) -> None:
        note(f"group {group_name} is destroyed")
        self.client.xgroup_destroy(KEYS.stream, group_name)
        self.sides[group_name].group.destroy()

    @happening(
        2, group_name=st.sampled_from(GROUPS), hint=st.sampled_from(["due", "history", "presence"])
    )
    def a_hint_is_lost(self, group_name: str, hint: str) -> None:
        """Where it is the presence, the living that work for long say first that they live."""
        note(f"the {hint} of {group_name} is lost")
        side = self.sides[group_name]
        self.client.delete(getattr(side.keys, hint))
        if hint == "due":
            side.group.due.clear()
        elif hint == "history":
            side.group.notes.clear()
        else:
            side.group.presence.clear()
            for consumer in self._living():
                owned = side.group.owned_by(consumer.name)
                if consumer.side is side and any(side.group.idle(n) >= LEASE for n in owned):
                    self._send_heartbeat_at_once(consumer)

    @happening(3, lambda lives: bool(lives.letters()), which=WHICH)
    def a_dead_letter_is_replayed(self, which: int) -> None:
        (side, index), *_ = _some(self.letters(), which, 1)
        letter_id = self.client.xrange(side.keys.dead)[index][0].decode()
        new_id = self.connection.call(*publishing.replay(side.keys, letter_id))
        number, _ = side.group.letters.pop(index)
        self.ids.append(new_id.decode())
        self.texts.append(self.texts[number])
        note(f"{number} is replayed as {self.stream.publish()}")
        assert self.connection.call(*publishing.replay(side.keys, letter_id)) is None

    def letters(self) -> list[tuple[Side, int]]:
        """All dead letters, each by its group and its place there."""
        return [
            (side, index)
            for side in self.sides.values()
            for index in range(len(side.group.letters))
        ]

    # --- sending ---

    def _living(self) -> list[Consumer]:
        return [consumer for consumer in self.consumers.values() if consumer.sends_heartbeats]

    def _send(
        self,
        sender: Consumer,
        act: Callable[[], Any],
        reply: str,
        *,
        outlives_its_sender: bool = False,
    ) -> Any:
        """Carry out an act, now or later. What came of it, or None if the sender does not see."""
        if reply in {"late", "echoed"}:
            self.late.append(Late(sender, act, self.stream.now, outlives_its_sender))
        if reply == "late":
            return None
        if reply == "doubled":
            self._attempt(act)
        seen = self._attempt(act)
        if reply == "lost":
            return None
        if isinstance(seen, NoGroup):
            assert ensure_group(self.connection, sender.worker.commands)
            assert sender.side.group.ensure()
            note(f"{sender.name} creates the group again")
            return None
        return seen

    def _attempt(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except NoGroup as missing:
            return missing

    def _ask(self, what: str, expected: Callable[[], Any], real: Callable[[], Any]) -> Any:
        """What the server answers, which must be what the model answers."""
        try:
            answer = real()
        except GroupMissing:
            note(f"{what}: no group")
            with pytest.raises(NoGroup):
                expected()
            raise NoGroup from None
        note(f"{what}: {answer}")
        assert answer == expected()
        return answer

    @contextmanager
    def _judged(self) -> Iterator[None]:
        """What failed is not to be followed by a teardown that fails in another way."""
        try:
            yield
        except BaseException:
            self.broken = True
            raise

    def _pending(self, side: Side) -> set[int]:
        if not side.group.exists:
            return set()
        return {self.ids.index(entry_id) for entry_id in side.look.pending()}

    # --- what must hold after each step ---

    @invariant()
    def all_is_as_it_must_be(self) -> None:
        with self._judged():
            seen = self._see()
            assert seen.bodies == self.stream.bodies
            everybody_is_there = all(side.group.exists for side in self.sides.values())
            for number in seen.bodies:
                assert self.stream.is_needed(number) or not everybody_is_there
            for name, side in self.sides.items():
                if side.group.exists:
                    self._check_messages(side.group, seen.bodies, seen.groups[name])
                self._check_hints(side.group, seen.groups[name])
                self._check_outcomes(side.group, seen.groups[name])

    def _check_messages(self, group: Group, bodies: set[int], seen: SeenGroup) -> None:
        """Every message is in one place, and its deliveries are accounted for."""
        delivered = {number: group.messages[number] for number in group.of(*DELIVERED)}
        assert seen.pending == {
            number: (message.owner, message.deliveries) for number, message in delivered.items()
        }
        unread = {number for number in bodies if _order(self.ids[number]) > seen.read_up_to}
        assert unread == set(group.of(Place.UNREAD))
        ended = group.of(Place.FINISHED, Place.DEAD, Place.LOST)
        assert len(unread) + len(seen.pending) + len(ended) == self.stream.published
        for number, message in delivered.items():
            begun = message.place is Place.PENDING
            assert message.deliveries == begun + message.crashes + message.failures, number

    def _check_hints(self, group: Group, seen: SeenGroup) -> None:
        """Those of pending messages are exact; those of others may have been swept by now."""
        assert seen.presence == group.presence

        parked = set(group.of(Place.PARKED)) if group.exists else set()
        assert seen.due.items() <= group.due.items()
        assert group.due.keys() & parked == seen.due.keys() & parked
        group.due = dict(seen.due)

        pending = set(group.of(*DELIVERED)) if group.exists else set()
        assert seen.history.items() <= {n: _lines(of) for n, of in group.notes.items()}.items()
        assert group.notes.keys() & pending == seen.history.keys() & pending
        group.notes = {number: group.notes[number] for number in seen.history}

    def _steady(self, side: Side) -> None:
        """Messages due in the same tick are due in their order, so that every run is repeatable."""
        due_ms = self.began_ms - 1000
        self.connection.call_all(
            *(
                (
                    "ZADD",
                    side.keys.due,
                    "XX",
                    due_ms + (tick - self.stream.now) * TICK_MS + number,
                    self.ids[number],
                )
                for number, tick in side.group.due.items()
            )
        )

    def _check_outcomes(self, group: Group, seen: SeenGroup) -> None:
        assert seen.results == group.results
        assert seen.letters == [(number, _lines(noted)) for number, noted in group.letters]
        for number, results in Counter(number for number, _ in seen.results).items():
            assert results <= 1 + group.messages[number].begun_anew

    def _see(self) -> Seen:
        """Look at everything in one round trip."""
        sides = list(self.sides.values())
        commands: list[Command] = [
            ("TIME",),
            ("XRANGE", KEYS.stream, "-", "+"),
            ("XINFO", "GROUPS", KEYS.stream),
        ]
        for side in sides:
            commands += [
                ("XPENDING", KEYS.stream, side.keys.group, "-", "+", 10_000),
                ("ZRANGE", side.keys.presence, 0, -1, "WITHSCORES"),
                ("ZRANGE", side.keys.due, 0, -1, "WITHSCORES"),
                ("HGETALL", side.keys.history),
                ("XRANGE", _results(side), "-", "+"),
                ("XRANGE", side.keys.dead, "-", "+"),
            ]
        (seconds, microseconds), entries, infos, *replies = self.connection.call_all(*commands)
        now_ms = int(seconds) * 1000 + int(microseconds) // 1000
        read_up_to = {}
        for info in infos:
            facts = _pairs(info)
            read_up_to[facts[b"name"].decode()] = _order(facts[b"last-delivered-id"].decode())
        groups = {}
        for side in sides:
            pending, presence, due, history, results, letters = replies[:6]
            del replies[:6]
            groups[side.keys.group] = SeenGroup(
                read_up_to=read_up_to.get(side.keys.group, ()),
                pending={
                    self._number(entry_id): (owner.decode(), deliveries)
                    for entry_id, owner, _, deliveries in (pending if side.group.exists else ())
                },
                presence={
                    name.decode(): self._tick(at, now_ms) for name, at in _pairs(presence).items()
                },
                due={
                    self._number(entry_id): self._tick(at, now_ms)
                    for entry_id, at in _pairs(due).items()
                },
                history={
                    self._number(entry_id): noted.decode()
                    for entry_id, noted in _pairs(history).items()
                },
                results=[
                    (int(fields[b"number"]), fields[b"status"].decode())
                    for fields in (_pairs(items) for _, items in results)
                ],
                letters=[
                    (self._number(fields[b"dead.id"]), fields[b"dead.history"].decode())
                    for fields in (_pairs(items) for _, items in letters)
                ],
            )
        return Seen({self._number(entry_id) for entry_id, _ in entries}, groups)

    def _number(self, entry_id: bytes) -> int:
        return self.ids.index(entry_id.decode())

    def _tick(self, at_ms: bytes, now_ms: int) -> int:
        """The tick that a time stands for; an example takes far less than half of one."""
        return self.stream.now + round((float(at_ms) - now_ms) / TICK_MS + 0.25)

    # --- the end ---

    def teardown(self) -> None:
        """All of them die, and a survivor in each group processes what is left."""
        if self.broken:
            return
        note("all die but one")
        for consumer in self.consumers.values():
            consumer.dead = True
        self._shift(1)
        for side in self.sides.values():
            for name in GROUP_OF:
                side.look.end_lease(name)
                side.group.presence[name] = self.stream.now
        survivors = {
            name: self._start(name, group_name)
            for name, group_name in (("s1", "workers"), ("s2", "second"))
        }
        self.consumers.update(survivors)
        self._pass(100)
        worked = 1
        while worked:
            worked = sum(self._process_some(survivor) for survivor in survivors.values())
            self.all_is_as_it_must_be()
        assert self.stream.bodies == set()
        for side in self.sides.values():
            assert side.group.of(*NEEDED) == []
            assert side.look.pending() == {}
            assert side.look.due() == {}
            # Notes about messages that went with their group may be left.
            assert all(side.group.messages[number].begun_anew for number in side.group.notes)

    def _process_some(self, survivor: Consumer) -> int:
        self._send_heartbeat_at_once(survivor)
        found = self._recover(survivor)
        assert found is not None
        if not found.entries:
            self._admit(survivor, self._read(survivor, 10))
        held = list(survivor.held)
        outcomes = {number: Finish(self.ids[number], _answer(number, "done")) for number in held}
        self._settle(survivor, outcomes, "seen")
        return len(held) + found.lost_bodies


def _some(ones: list[T], which: int, count: int) -> list[T]:
    """A few of them, from somewhere among them."""
    start = which % len(ones)
    return (ones[start:] + ones[:start])[:count]


def _answer(number: int, status: str) -> Answer:
    return Answer([b"number", b"%d" % number, b"status", status.encode()])


def _lines(noted: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in noted)


def _pairs(flat: Sequence[Any]) -> dict[Any, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _results(side: Side) -> str:
    return f"results:{side.group.name}"


def _order(entry_id: str) -> tuple[int, ...]:
    return tuple(int(part) for part in entry_id.split("-"))


def test_whatever_befalls_a_group_no_message_is_lost_and_none_is_answered_twice(
    client: redis.Redis, connection: Connection, look: Looker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commands, "LONGEST_GRACE_MS", LEASE * TICK_MS)
    keeps_lost_bodies = not look.drops_deleted_bodies_on_claim()
    run_state_machine_as_test(
        lambda: Lives(client, connection, keeps_lost_bodies),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize="CI" in os.environ,
            print_blob=True,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
