"""What consumers send. Each command is compared with what the model says it must do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeGuard

from protocol_model.messages import LEASE, MAX_CRASHES, OWN_IDLE, Ending, Place
from protocol_model.recovery import Recovery, Step
from protocol_model.world import TICK_MS, Consumer, Side, World
from shared_sync.protocol import progress
from shared_sync.protocol.messages import (
    DONE,
    Address,
    Answer,
    Bury,
    Entry,
    Fault,
    Finish,
    Outcome,
    Output,
    Park,
)
from shared_sync.protocol.progress import Report
from shared_sync.protocol.replies import parse_reported
from shared_sync.protocol.scan import Found, Position, Predecessor


def answer(number: int, status: str) -> Answer:
    """Return the result of a message."""
    return Answer([b"number", b"%d" % number, b"status", status.encode()])


def ending(world: World, side: Side, end: Ending) -> Finish:
    """Return what a consumer sends for it."""
    caller = {"waits": side.replies, "gone": "{jobs}:replies:gone"}.get(end.caller)
    number = b"%d" % end.number
    return Finish(
        world.ids[end.number],
        answer(end.number, end.status).items,
        status=end.status,
        address=Address(caller, may_create=False) if caller else None,
        outputs=[Output(side.outputs, [b"number", number])] * end.outputs,
    )


def lines(failures: Sequence[str]) -> str:
    """Return failures as the history has them."""
    return "".join(f"{line}\n" for line in failures)


# --- reading ---


def read(world: World, consumer: Consumer, count: int, reply: str) -> None:
    act = partial(_read, world, consumer, count)
    _admit(world, consumer, world.send(consumer, act, reply, outlives_its_sender=True))


def _read(world: World, consumer: Consumer, count: int) -> list[Entry]:
    entries: list[Entry] = []

    def real() -> list[int]:
        entries.extend(consumer.worker.read(count))
        return [world.number_of(entry) for entry in entries]

    expected = partial(consumer.side.model.read, consumer.name, count)
    world.compare(f"{consumer.name} reads {count}", expected, real)
    return entries


def _admit(world: World, consumer: Consumer, entries: Sequence[Entry] | None) -> None:
    """Put what came in flight, unless it is in flight already."""
    for entry in entries or ():
        number = world.number_of(entry)
        if number not in consumer.in_flight:
            consumer.in_flight[number] = entry.deliveries
            consumer.side.model.messages[number].received_by = consumer


# --- settling ---


def settle(world: World, consumer: Consumer, outcomes: Mapping[int, Outcome], reply: str) -> None:
    """Send outcomes as an outbox does: those whose replies have not come go along."""
    consumer.unsettled.update(outcomes)
    for numbers in _together(consumer.unsettled):
        of_numbers = {number: consumer.unsettled[number] for number in numbers}
        is_finishing = all(
            isinstance(one, Finish) and one.status == DONE for one in of_numbers.values()
        )
        act = partial(_settle, world, consumer, of_numbers)
        if world.send(consumer, act, reply, outlives_its_sender=is_finishing) is not None:
            for number in numbers:
                del consumer.unsettled[number]
                del consumer.in_flight[number]


def _together(outcomes: Mapping[int, Outcome]) -> list[list[int]]:
    """Return the numbers of the outcomes that one command settles."""

    def of(kind: type[Outcome], *, has_answer: bool = True) -> list[int]:
        return [
            number
            for number, one in outcomes.items()
            if isinstance(one, kind)
            and not _has_ending(one)
            and (not isinstance(one, Finish) or bool(one.items) is has_answer)
        ]

    buried = [[number] for number in of(Bury)]
    ending = [number for number, one in outcomes.items() if _has_ending(one)]
    together = [of(Finish, has_answer=False), of(Finish), ending, of(Park), *buried, of(Fault)]
    return [numbers for numbers in together if numbers]


def _has_ending(outcome: Outcome) -> TypeGuard[Finish]:
    return isinstance(outcome, Finish) and outcome.special is not None


def _ending_of(side: Side, number: int, finish: Finish) -> Ending:
    address = finish.address
    caller = "" if address is None else "waits" if address.stream == side.replies else "gone"
    return Ending(number, finish.status, len(finish.outputs), caller)


def _settle(world: World, consumer: Consumer, outcomes: Mapping[int, Outcome]) -> list[int]:
    group, name = consumer.side.model, consumer.name
    numbers = list(outcomes)
    first = outcomes[numbers[0]]

    def real() -> list[int]:
        if isinstance(first, Finish) and not first.items:
            return [consumer.worker.done(*(one.id for one in outcomes.values()))]
        return consumer.worker.settle(*outcomes.values())

    def expected() -> list[int]:
        if _has_ending(first):
            ends = [
                _ending_of(consumer.side, n, one) for n, one in outcomes.items() if _has_ending(one)
            ]
            return group.end(name, ends)
        if isinstance(first, Finish):
            if first.items:
                return group.finish_with_results(numbers)
            return [group.finish(numbers)]
        if isinstance(first, Bury):
            return [group.bury(name, numbers[0], first.failure)]
        if isinstance(first, Fault):
            return [group.fault(name, number) for number in numbers]
        return [
            group.park(name, n, one.delivery, one.failure, one.delay_ms // TICK_MS)
            for n, one in outcomes.items()
            if isinstance(one, Park)
        ]

    kind = type(first).__name__.lower()
    settled: list[int] = world.compare(f"{name}: {kind} {numbers}", expected, real)
    return settled


def report(world: World, consumer: Consumer, number: int, reply: str) -> None:
    """Report progress of a message."""
    world.reports += 1
    delivery = consumer.in_flight[number]
    world.send(consumer, partial(_report, world, consumer, number, delivery, world.reports), reply)


def _report(world: World, consumer: Consumer, number: int, delivery: int, sequence: int) -> None:
    process, worker = f"{consumer.name}x{consumer.born}", consumer.worker
    kept = progress.store(None, {})
    reported = Report(world.ids[number], delivery, process, sequence, kept, Answer())

    def real() -> str:
        reply = parse_reported(worker.connection.call(*worker.commands.report(reported)))
        return "sent" if reply.is_sent else "sent before" if reply.is_owned else "not owned"

    expected = partial(
        consumer.side.model.report, consumer.name, number, delivery, process, sequence
    )
    what = f"{consumer.name} reports progress of {number} in delivery {delivery}: {sequence}"
    world.compare(what, expected, real)


def drop_progress(world: World, consumer: Consumer) -> None:
    """Forget the progress of messages that have ended."""
    worker = consumer.worker

    def real() -> list[int]:
        dropped: list[int] = worker.connection.call(*worker.commands.drop_progress(world.reports))
        return dropped

    def act() -> None:
        what = f"{consumer.name} drops progress"
        world.compare(what, consumer.side.model.drop_progress, real)

    world.send(consumer, act, "received")


def hand_back(world: World, consumer: Consumer, numbers: Sequence[int], reply: str) -> None:
    """Return messages, without waiting for the reply."""
    for number in numbers:
        del consumer.in_flight[number]
    expected = partial(consumer.side.model.hand_back, consumer.name, list(numbers))
    real = partial(consumer.worker.hand_back, *(world.ids[number] for number in numbers))
    what = f"{consumer.name} hands back {numbers}"
    world.send(consumer, partial(world.compare, what, expected, real), reply)


def leave(world: World, consumer: Consumer, reply: str) -> None:
    world.send(consumer, partial(_leave, world, consumer), reply)


def _leave(world: World, consumer: Consumer) -> list[int]:
    side, age = consumer.side, world.stream.now - consumer.born

    def expected() -> list[int]:
        is_foreign = consumer.predecessor_is_foreign
        return side.model.leave(consumer.name, age, predecessor_is_foreign=is_foreign)

    def real() -> list[int]:
        return consumer.worker.leave(_since_ms(side, age), _predecessor(consumer))

    left: list[int] = world.compare(f"{consumer.name} leaves", expected, real)
    return left


def _since_ms(side: Side, age: int) -> int:
    """Return when a process of this age has claimed its name: within that tick."""
    return side.admin.now_ms() - age * TICK_MS - TICK_MS // 2


def _predecessor(consumer: Consumer) -> Predecessor:
    is_foreign = consumer.predecessor_is_foreign
    return Predecessor.FOREIGN if is_foreign else Predecessor.READ_SEVERAL


# --- recovery ---


def recover(
    world: World,
    consumer: Consumer,
    *,
    startable_crashes: int = MAX_CRASHES,
    most: int = 1,
    due_comes_last: bool = False,
    foreign_idle: int = LEASE,
    reply: str = "received",
) -> Found | None:
    """Take one step of recovery from where the consumer's last one ended."""
    position = consumer.position
    step = Step(
        consumer.name,
        age=world.stream.now - consumer.born,
        foreign_idle=foreign_idle,
        predecessor_is_foreign=consumer.predecessor_is_foreign,
        startable_crashes=startable_crashes,
        most=most,
        in_flight=frozenset(consumer.in_flight),
        due_comes_last=due_comes_last,
        again=consumer.lost.pop(0) if consumer.lost else None,
        due_rank=position.due_rank,
        is_whole=replace(position, dead_rank=0) == Position(),
    )
    act = partial(_recover, world, consumer, step, position)
    found: Found | None = world.send(consumer, act, reply, outlives_its_sender=True)
    if found is not None:
        consumer.position = found.position
        named = (world.ids.index(one.id) for one in found.lost)
        consumer.lost += (number for number in named if number not in consumer.lost)
        _admit(world, consumer, found.entries)
    return found


def _recover(world: World, consumer: Consumer, step: Step, position: Position) -> Found:
    side = consumer.side
    # A command may arrive late, and says since when its process has the name, not for how long.
    step = replace(step, age=world.stream.now - consumer.born)
    found: list[Found] = []
    world.order_due_times(side)

    def real() -> tuple[list[int], int, int | None]:
        recovered = consumer.worker.scan(
            own_idle_ms=OWN_IDLE * TICK_MS,
            since_ms=_since_ms(side, step.age),
            foreign_idle_ms=step.foreign_idle * TICK_MS,
            predecessor=_predecessor(consumer),
            max_crashes=MAX_CRASHES,
            startable_crashes=step.startable_crashes,
            most=step.most,
            in_flight=tuple(world.ids[number] for number in step.in_flight),
            due_comes_last=step.due_comes_last,
            again="" if step.again is None else world.ids[step.again],
            position=position,
        )
        found.append(recovered)
        taken = [world.number_of(entry) for entry in recovered.entries]
        seconds = recovered.next_due_seconds
        ticks = None if seconds is None else round(seconds * 1000 / TICK_MS)
        return taken, recovered.lost_bodies, ticks

    def expected() -> tuple[list[int], int, int | None]:
        entries = found[0].entries if found else ()
        taken = [world.number_of(entry) for entry in entries]
        were_pending = {n for n in taken if n in side.model.of(Place.PENDING)}
        recovery = Recovery(side.model, step, pending_numbers(world, side))
        named = {world.ids.index(one.id) for one in found[0].lost} if found else set()
        recovery.check(taken, named)
        for number, entry in zip(taken, entries, strict=True):
            _check_entry(side, number, entry)
            assert (entry.left_by is not None) is (number in were_pending)
        return taken, recovery.lost, recovery.next_due

    what = f"{consumer.name} recovers {step.most} beside {sorted(step.in_flight)} from {position}"
    world.compare(what, expected, real)
    return found[0]


def _check_entry(side: Side, number: int, entry: Entry) -> None:
    message = side.model.messages[number]
    assert entry.deliveries == message.deliveries
    assert entry.history.decode().lstrip("\t") == lines(side.model.history.get(number, ()))
    unrecorded = message.failures - side.model.recorded_failures(number)
    assert entry.crashes == max(0, message.crashes + unrecorded)
    stored_by, sequence = side.model.progress.get(number, ("", 0))
    assert entry.progress.split(b" ")[:2] == (
        [stored_by.encode(), b"%d" % sequence] if stored_by else [b""]
    )


def pending_numbers(world: World, side: Side) -> set[int]:
    """Return the messages that the group has pending on the server."""
    if not side.model.exists:
        return set()
    return {world.ids.index(entry_id) for entry_id in side.admin.pending()}


# --- heartbeats ---


def heartbeat(world: World, consumer: Consumer, reply: str = "received") -> None:
    act = partial(_heartbeat, world, consumer)
    world.send(consumer, act, reply, outlives_its_sender=True)


def _heartbeat(world: World, consumer: Consumer) -> None:
    def real() -> tuple[int | None, int, int, int | None]:
        queue = consumer.worker.heartbeat()
        return queue.backlog, queue.pending, queue.parked, queue.dead

    consumer.silent = False
    expected = partial(consumer.side.model.heartbeat, consumer.name)
    world.compare(f"{consumer.name} sends a heartbeat", expected, real)


def all_send_heartbeats(world: World) -> None:
    for consumer in world.living():
        heartbeat(world, consumer)


def pass_time(world: World, ticks: int) -> None:
    """Let time pass, during which the living send heartbeats all along."""
    world.shift(ticks)
    for consumer in world.living():
        side = consumer.side
        side.model.presence[consumer.name] = world.stream.now + LEASE
        side.model.last_heartbeat = world.stream.now
        now_ms = side.admin.now_ms()
        world.client.zadd(side.keys.presence, {consumer.name: now_ms + LEASE * TICK_MS})
        world.client.zadd(side.keys.outage, {"last heartbeat": now_ms})
    all_send_heartbeats(world)
