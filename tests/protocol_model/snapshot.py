"""All that is in Redis in the terms of the model, and what must always hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from protocol_client import KEYS

from protocol_model.commands import lines
from protocol_model.group import Group
from protocol_model.messages import DELIVERED, Place
from protocol_model.world import TICK_MS, Side, World
from shared_sync.connection.scripts import Command

COMMANDS_OF_A_GROUP = 9


@dataclass(frozen=True)
class GroupSnapshot:
    """What is in Redis for one group."""

    read_up_to: tuple[int, ...]
    pending: dict[int, tuple[str, int]]
    presence: dict[str, int]
    holders: set[str]
    due: dict[int, int]
    history: dict[int, str]
    results: list[tuple[int, str]]
    letters: list[tuple[int, str]]
    replies: list[tuple[int, str]]
    outputs: list[int]


@dataclass(frozen=True)
class Snapshot:
    """What is in Redis."""

    bodies: set[int]
    groups: dict[str, GroupSnapshot]


# --- taking it ---


def take(world: World) -> Snapshot:
    """Read everything in one round trip."""
    sides = list(world.sides.values())
    commands: list[Command] = [
        ("TIME",),
        ("XRANGE", KEYS.stream, "-", "+"),
        ("XINFO", "GROUPS", KEYS.stream),
    ]
    for side in sides:
        commands += _commands(side)
    (seconds, microseconds), entries, infos, *replies = world.connection.call_all(*commands)
    now_ms = int(seconds) * 1000 + int(microseconds) // 1000
    read_up_to = {}
    for info in infos:
        facts = _pairs(info)
        read_up_to[facts[b"name"].decode()] = _order(facts[b"last-delivered-id"].decode())
    groups = {}
    for n, side in enumerate(sides):
        of_group = replies[COMMANDS_OF_A_GROUP * n : COMMANDS_OF_A_GROUP * (n + 1)]
        name = side.model.name
        groups[name] = _parse(world, side, of_group, read_up_to.get(name, ()), now_ms)
    return Snapshot({_number(world, entry_id) for entry_id, _ in entries}, groups)


def _commands(side: Side) -> list[Command]:
    return [
        ("XPENDING", KEYS.stream, side.keys.group, "-", "+", 10_000),
        ("ZRANGE", side.keys.presence, 0, -1, "WITHSCORES"),
        ("HKEYS", side.keys.holders),
        ("ZRANGE", side.keys.due, 0, -1, "WITHSCORES"),
        ("HGETALL", side.keys.history),
        ("XRANGE", side.results, "-", "+"),
        ("XRANGE", side.keys.dead, "-", "+"),
        ("XRANGE", side.replies, "-", "+"),
        ("XRANGE", side.outputs, "-", "+"),
    ]


def _parse(
    world: World, side: Side, replies: Sequence[Any], read_up_to: tuple[int, ...], now_ms: int
) -> GroupSnapshot:
    def tick(at_ms: bytes) -> int:
        """Return the tick that a time stands for; an example takes far less than half of one."""
        return world.stream.now + round((float(at_ms) - now_ms) / TICK_MS + 0.25)

    pending, presence, holders, due, history, *entries = replies
    results, letters, answers, outputs = ([_pairs(items) for _, items in one] for one in entries)
    return GroupSnapshot(
        read_up_to=read_up_to,
        pending={
            _number(world, entry_id): (owner.decode(), deliveries)
            for entry_id, owner, _, deliveries in (pending if side.model.exists else ())
        },
        presence={name.decode(): tick(at) for name, at in _pairs(presence).items()},
        holders={name.decode() for name in holders},
        due={_number(world, entry_id): tick(at) for entry_id, at in _pairs(due).items()},
        history={
            _number(world, entry_id): failures.decode().lstrip("\t")  # faults stand in front
            for entry_id, failures in _pairs(history).items()
        },
        results=[_ended(fields) for fields in results],
        letters=[
            (_number(world, fields[b"dead.id"]), fields[b"dead.history"].decode())
            for fields in letters
        ],
        replies=[_ended(fields) for fields in answers],
        outputs=[int(fields[b"number"]) for fields in outputs],
    )


def _ended(fields: dict[bytes, bytes]) -> tuple[int, str]:
    return int(fields[b"number"]), fields[b"status"].decode()


def _number(world: World, entry_id: bytes) -> int:
    return world.ids.index(entry_id.decode())


def _pairs(flat: Sequence[Any]) -> dict[Any, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _order(entry_id: str) -> tuple[int, ...]:
    return tuple(int(part) for part in entry_id.split("-"))


# --- what must hold ---


def check(world: World) -> None:
    """Fail unless all is in Redis as the model says. Hints that were swept leave the model."""
    snapshot = take(world)
    assert snapshot.bodies == world.stream.bodies
    sides = list(world.sides.values())
    all_groups_exist = all(side.model.exists for side in world.sides.values())
    for number in snapshot.bodies:
        is_dropped = any(side.model.messages[number].place is Place.DROPPED for side in sides)
        assert world.stream.is_needed(number) or is_dropped or not all_groups_exist
    for name, side in world.sides.items():
        of_group = snapshot.groups[name]
        if side.model.exists:
            _check_messages(world, side.model, snapshot.bodies, of_group)
        _check_hints(side.model, of_group)
        _check_outcomes(side.model, of_group)


def _check_messages(world: World, group: Group, bodies: set[int], snapshot: GroupSnapshot) -> None:
    """Every message is in one place, and its deliveries are accounted for."""
    delivered = {number: group.messages[number] for number in group.of(*DELIVERED)}
    assert snapshot.pending == {
        number: (message.owner, message.deliveries) for number, message in delivered.items()
    }
    unread = {number for number in bodies if _order(world.ids[number]) > snapshot.read_up_to}
    assert unread == set(group.of(Place.UNREAD))
    ended = group.of(Place.FINISHED, Place.DEAD, Place.LOST, Place.DROPPED)
    assert len(unread) + len(snapshot.pending) + len(ended) == world.stream.published
    for number, message in delivered.items():
        begun = message.place is Place.PENDING
        counted = begun + message.crashes + message.failures
        assert message.deliveries == counted + message.uncounted, number


def _check_hints(group: Group, snapshot: GroupSnapshot) -> None:
    """Those of pending messages are exact; those of others may have been swept by now."""
    assert snapshot.presence == group.presence
    assert snapshot.holders == group.holders

    parked = set(group.of(Place.PARKED)) if group.exists else set()
    assert snapshot.due.items() <= group.due.items()
    assert group.due.keys() & parked == snapshot.due.keys() & parked
    group.due = dict(snapshot.due)

    pending = set(group.of(*DELIVERED)) if group.exists else set()
    assert snapshot.history.items() <= {n: lines(of) for n, of in group.history.items()}.items()
    assert group.history.keys() & pending == snapshot.history.keys() & pending
    group.history = {number: group.history[number] for number in snapshot.history}


def _check_outcomes(group: Group, snapshot: GroupSnapshot) -> None:
    assert snapshot.results == group.results
    assert snapshot.replies == group.replies
    assert snapshot.outputs == group.outputs
    assert snapshot.letters == [(number, lines(failures)) for number, failures in group.letters]
    ended = [*snapshot.results, *snapshot.replies]
    for number, results in Counter(number for number, _ in ended).items():
        message = group.messages[number]
        assert results <= 1 + message.begun_anew + message.left_over
