"""What consumers do, and what happens to them: each with a weight, that is, how often it is drawn.

Each event is a function of the world. `EVENTS` has them all, with the condition under which it is
possible and the details that hypothesis draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from protocol_client import KEYS

from protocol_model import commands
from protocol_model.messages import LEASE, OWN_IDLE, Ending, Place
from protocol_model.world import GROUPS, TICK_MS, Consumer, World
from shared_sync.protocol import dead_letter_commands, publishing
from shared_sync.protocol.keys import PARKED
from shared_sync.protocol.messages import Answer, Bury, Fault, Finish, Park

T = TypeVar("T")

STRANGER = "stranger"
"""A consumer of another library."""

WHO = st.integers(0, 3)
WHICH = st.integers(0, 5)
REPLY = st.sampled_from(["received", "received", "received", "lost", "late", "doubled", "echoed"])
"""What becomes of a command and its reply. Late: the sender takes it for lost, and it may arrive
yet. Doubled: the first reply is lost, and the second is received. Echoed: the reply to the
second sending is received before the first sending arrives."""


@dataclass(frozen=True)
class Event:
    """Something that may happen, and how often beside the others."""

    weight: int
    is_possible: Callable[[World], bool]
    happen: Callable[..., None]
    details: SearchStrategy[dict[str, Any]]


EVENTS: dict[str, Event] = {}


def event(
    weight: int,
    is_possible: Callable[[World], bool] = lambda _: True,
    **details: SearchStrategy[Any],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a function be an event."""

    def register(happen: Callable[..., None]) -> Callable[..., None]:
        drawn = st.fixed_dictionaries(details)
        EVENTS[happen.__name__] = Event(weight, is_possible, happen, drawn)
        return happen

    return register


def event_of(
    condition: Callable[[Consumer], bool], weight: int, **details: SearchStrategy[Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a function be an event of one consumer, which must meet the condition."""

    def able(world: World) -> list[Consumer]:
        return [consumer for consumer in world.consumers.values() if condition(consumer)]

    def register(happen: Callable[..., None]) -> Callable[..., None]:
        @wraps(happen)
        def of_one(world: World, who: int, **drawn: Any) -> None:
            consumers = able(world)
            happen(world, consumers[who % len(consumers)], **drawn)

        event(weight, lambda world: bool(able(world)), who=WHO, **details)(of_one)
        return happen

    return register


def some(ones: list[T], which: int, count: int) -> list[T]:
    """Return a few of them, from somewhere among them."""
    start = which % len(ones)
    return (ones[start:] + ones[:start])[:count]


# --- messages ---


@event(4, lambda world: world.stream.has_room, count=st.integers(1, 3))
def publish(world: World, count: int) -> None:
    texts = [b"%d" % (world.stream.published + n) for n in range(count)]
    reply = world.connection.call(
        *publishing.publish(KEYS.stream, ([b"text", one] for one in texts), None)
    )
    ids, refusal = publishing.parse_published(reply)
    assert (len(ids), refusal) == (count, None)
    world.ids += ids
    world.texts += texts
    note(f"published {[world.stream.publish() for _ in ids]}")


@event_of(
    lambda one: one.reads and one.side.has(Place.UNREAD), 8, count=st.integers(1, 4), reply=REPLY
)
def reads(world: World, consumer: Consumer, count: int, reply: str) -> None:
    commands.read(world, consumer, count, reply)


@event_of(
    lambda one: one.is_at_work,
    8,
    which=WHICH,
    count=st.integers(1, 4),
    has_results=st.sampled_from([True, True, True, False]),
    reply=REPLY,
)
def finishes(
    world: World, consumer: Consumer, which: int, count: int, has_results: bool, reply: str
) -> None:
    numbers = some(consumer.undecided, which, count)
    answers = {n: commands.answer(n, "done") if has_results else Answer() for n in numbers}
    outcomes = {n: Finish(world.ids[n], answer.items) for n, answer in answers.items()}
    commands.settle(world, consumer, outcomes, reply)


@event_of(
    lambda one: one.is_at_work,
    6,
    which=WHICH,
    how=st.lists(
        st.tuples(
            st.sampled_from(["done", "done", "expired", "cancelled"]),
            st.integers(0, 2),
            st.sampled_from(["waits", "", "gone"]),
        ),
        min_size=1,
        max_size=4,
    ),
    reply=REPLY,
)
def ends(
    world: World, consumer: Consumer, which: int, how: list[tuple[str, int, str]], reply: str
) -> None:
    """Messages that emit, have a caller, or have not run at all."""
    numbers = some(consumer.undecided, which, len(how))
    endings = [
        Ending(number, status, outputs if status == "done" else 0, caller)
        for number, (status, outputs, caller) in zip(numbers, how, strict=False)
    ]
    finishes = {one.number: commands.ending(world, consumer.side, one) for one in endings}
    commands.settle(world, consumer, finishes, reply)


@event_of(lambda one: one.is_at_work, 5, which=WHICH, reply=REPLY)
def reports_progress(world: World, consumer: Consumer, which: int, reply: str) -> None:
    (number,) = some(consumer.undecided, which, 1)
    commands.report(world, consumer, number, reply)


@event_of(lambda one: one.is_awake and not one.left, 1)
def drops_progress(world: World, consumer: Consumer) -> None:
    """The progress of messages that have ended, of whichever consumer."""
    commands.drop_progress(world, consumer)


@event_of(
    lambda one: one.is_at_work,
    10,
    which=WHICH,
    delay=st.sampled_from([0, 0, 1, 5, 30]),
    reply=REPLY,
)
def fails(world: World, consumer: Consumer, which: int, delay: int, reply: str) -> None:
    (number,) = some(consumer.undecided, which, 1)
    delivery = consumer.in_flight[number]
    failure = _failure(world, delivery, delay * TICK_MS)
    outcome = Park(world.ids[number], failure, delay * TICK_MS, delivery)
    commands.settle(world, consumer, {number: outcome}, reply)


@event_of(lambda one: one.is_at_work, 3, which=WHICH, delay=st.sampled_from([0, 0, 5]), reply=REPLY)
def loses_its_child(world: World, consumer: Consumer, which: int, delay: int, reply: str) -> None:
    """The child process that runs a message dies, and its consumer lives on."""
    (number,) = some(consumer.undecided, which, 1)
    outcome = Park(world.ids[number], "", delay * TICK_MS, consumer.in_flight[number])
    commands.settle(world, consumer, {number: outcome}, reply)


@event_of(lambda one: one.is_at_work, 3, which=WHICH, reply=REPLY)
def breaks(world: World, consumer: Consumer, which: int, reply: str) -> None:
    """A worker breaks at a message, and replaces its child process."""
    (number,) = some(consumer.undecided, which, 1)
    commands.settle(world, consumer, {number: Fault(world.ids[number], 0)}, reply)


@event_of(lambda one: one.is_at_work, 3, which=WHICH, reply=REPLY)
def gives_up(world: World, consumer: Consumer, which: int, reply: str) -> None:
    (number,) = some(consumer.undecided, which, 1)
    metadata = [b"dead.id", world.ids[number].encode()]
    answer = commands.answer(number, "dead")
    failure = _failure(world, consumer.in_flight[number])
    outcome = Bury(world.ids[number], failure, metadata, answer)
    commands.settle(world, consumer, {number: outcome}, reply)


@event_of(lambda one: one.is_awake and bool(one.unsettled), 10, reply=REPLY)
def settles_again(world: World, consumer: Consumer, reply: str) -> None:
    commands.settle(world, consumer, {}, reply)


def _failure(world: World, delivery: int, delay_ms: int = 0) -> str:
    world.failures += 1
    return f'{{"failure": {world.failures}, "attempt": {delivery}, "delay_ms": {delay_ms}}}'


@event_of(
    lambda one: one.reads and one.side.has(Place.PENDING, Place.PARKED),
    12,
    startable_crashes=st.sampled_from([2, 2, 1, 0]),
    most=st.sampled_from([1, 1, 2, 4]),
    due_comes_last=st.booleans(),
    reply=REPLY,
)
def recovers(world: World, consumer: Consumer, **details: Any) -> None:
    commands.recover(world, consumer, **details)


# --- the life of a consumer ---


@event_of(
    lambda one: not one.dead and one.owns_messages,
    4,
    loses=st.sampled_from(["nothing", "nothing", "its lease", "its name"]),
)
def dies(world: World, consumer: Consumer, loses: str) -> None:
    note(f"{consumer.name} dies with {list(consumer.in_flight)} and loses {loses}")
    consumer.dead = True
    group = consumer.side.model
    if loses != "nothing":
        consumer.side.admin.remove_presence(consumer.name)
        group.presence.pop(consumer.name, None)
    if loses == "its name":
        consumer.side.admin.forget_name(consumer.name)
        group.holders.discard(consumer.name)


@event_of(lambda one: one.dead or one.left, 6)
def is_started_again(world: World, former: Consumer) -> None:
    """The name gets its next process.

    Late commands of the former one that only the owner of the name may send are not carried out.
    """
    former.dead = True
    world.late = [
        late for late in world.late if late.sender is not former or late.outlives_its_sender
    ]
    commands.pass_time(world, 1)
    note(f"{former.name} starts again")
    world.consumers[former.name] = world.start(former.name, former.side.model.name)


@event_of(lambda one: one.is_awake and one.owns_messages, 4)
def freezes(world: World, consumer: Consumer) -> None:
    note(f"{consumer.name} freezes with {list(consumer.in_flight)}")
    consumer.frozen = True


@event_of(lambda one: one.frozen and not one.dead, 5)
def thaws(world: World, consumer: Consumer) -> None:
    note(f"{consumer.name} thaws")
    consumer.frozen = False
    consumer.silent = True


@event_of(lambda one: one.is_at_work, 3, which=WHICH, count=st.integers(1, 3), reply=REPLY)
def hands_back(world: World, consumer: Consumer, which: int, count: int, reply: str) -> None:
    """The first command of draining, after which nothing is read any more. Sent only once."""
    consumer.draining = True
    commands.hand_back(world, consumer, some(consumer.undecided, which, count), reply)


@event_of(lambda one: one.is_awake and not one.left and one.owns_messages, 3, reply=REPLY)
def leaves(world: World, consumer: Consumer, reply: str) -> None:
    """The last command of draining. What still runs then may be settled even later."""
    consumer.draining = consumer.left = True
    commands.leave(world, consumer, reply)


@event_of(lambda one: one.is_awake and not one.left, 3, reply=REPLY)
def sends_heartbeat(world: World, consumer: Consumer, reply: str) -> None:
    commands.heartbeat(world, consumer, reply)


# --- another library in the same group ---


@event(2, lambda world: world.sides["workers"].has(Place.UNREAD), count=st.integers(1, 2))
def another_library_reads(world: World, count: int) -> None:
    side = world.sides["workers"]
    if not side.model.exists:
        return
    read = side.model.read(STRANGER, count)
    note(f"{STRANGER} reads {read}")
    world.client.xreadgroup(side.keys.group, STRANGER, {KEYS.stream: ">"}, count=count)


@event(
    2,
    lambda world: world.sides["workers"].has(Place.PENDING, Place.PARKED),
    which=WHICH,
    count=st.integers(1, 2),
)
def another_library_takes(world: World, which: int, count: int) -> None:
    """It takes over what is pending, whoever has it, as libraries do by idle time."""
    side = world.sides["workers"]
    if not side.model.exists:
        return
    for number in some(side.model.of(Place.PENDING, Place.PARKED), which, count):
        message = side.model.messages[number]
        receiver = message.received_by
        if side.model.has_body(number) and not (receiver and receiver.sends_heartbeats):
            note(f"{STRANGER} takes {number} from {message.owner}")
            side.model.deliver_elsewhere(number, STRANGER)
            world.client.xclaim(KEYS.stream, side.keys.group, STRANGER, 0, [world.ids[number]])


# --- what happens to all of them ---


@event(5, lambda world: bool(world.late), which=WHICH)
def something_late_arrives(world: World, which: int) -> None:
    late = world.late.pop(which % len(world.late))
    note("late:")
    world.attempt(late.act)


@event(8, ticks=st.sampled_from([1, 1, OWN_IDLE, LEASE, LEASE, 30]))
def time_passes(world: World, ticks: int) -> None:
    note(f"{ticks} ticks pass")
    commands.pass_time(world, ticks)


@event_of(lambda one: one.reads, 3, ticks=st.sampled_from([1, LEASE // 3, LEASE, 30]))
def returns_first_after_an_outage(world: World, consumer: Consumer, ticks: int) -> None:
    """Nobody reaches the server for a while, and then one recovers before the others report."""
    commands.all_send_heartbeats(world)
    note(f"{ticks} ticks pass in an outage")
    world.shift(ticks)
    commands.recover(world, consumer)
    commands.all_send_heartbeats(world)


@event(2, lambda world: bool(world.stream.bodies), which=WHICH)
def others_delete_an_entry(world: World, which: int) -> None:
    (number,) = some(sorted(world.stream.bodies), which, 1)
    note(f"the entry of {number} is deleted")
    world.client.xdel(KEYS.stream, world.ids[number])
    world.stream.delete_body(number)


@event_of(lambda one: one.side.model.exists and one.owns_messages, 3)
def others_delete_a_consumer(world: World, consumer: Consumer) -> None:
    note(f"{consumer.name} is deleted with {consumer.side.model.owned_by(consumer.name)}")
    world.client.xgroup_delconsumer(KEYS.stream, consumer.side.keys.group, consumer.name)
    consumer.side.model.delete_consumer(consumer.name)


@event(
    1,
    lambda world: any(one.model.exists and one.has(Place.PARKED) for one in world.sides.values()),
)
def others_delete_the_consumer_of_parked_messages(world: World) -> None:
    for side in world.sides.values():
        if side.model.exists and side.has(Place.PARKED):
            note(f"{PARKED} of {side.model.name} is deleted with {side.model.of(Place.PARKED)}")
            world.client.xgroup_delconsumer(KEYS.stream, side.keys.group, PARKED)
            side.model.delete_consumer(PARKED)


@event(1, group_name=st.sampled_from(GROUPS))
def a_group_is_destroyed(world: World, group_name: str) -> None:
    note(f"group {group_name} is destroyed")
    world.client.xgroup_destroy(KEYS.stream, group_name)
    world.sides[group_name].model.destroy()


@event(
    2,
    group_name=st.sampled_from(GROUPS),
    hint=st.sampled_from(["due", "history", "presence", "holders"]),
)
def a_hint_is_lost(world: World, group_name: str, hint: str) -> None:
    """If it is one of names, living consumers with old messages send a heartbeat first."""
    note(f"the {hint} of {group_name} is lost")
    side = world.sides[group_name]
    world.client.delete(getattr(side.keys, hint))
    if hint == "due":
        side.model.due.clear()
    elif hint == "history":
        side.model.history.clear()
    else:
        getattr(side.model, hint).clear()
        for consumer in world.living():
            owned = side.model.owned_by(consumer.name)
            if consumer.side is side and any(side.model.idle(n) >= LEASE for n in owned):
                commands.heartbeat(world, consumer)


@event(3, lambda world: bool(world.letters()), which=WHICH)
def a_dead_letter_is_replayed(world: World, which: int) -> None:
    ((side, index),) = some(world.letters(), which, 1)
    letter_id = world.client.xrange(side.keys.dead)[index][0].decode()
    new_id = dead_letter_commands.replay(
        world.connection, side.keys, letter_id, token=f"one {letter_id}"
    )
    assert new_id is not None
    number, _ = side.model.letters.pop(index)
    world.ids.append(new_id)
    world.texts.append(world.texts[number])
    note(f"{number} is replayed as {world.stream.publish()}")
    assert (
        dead_letter_commands.replay(
            world.connection, side.keys, letter_id, token=f"two {letter_id}"
        )
        is None
    )
