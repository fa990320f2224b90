"""A consumer that sends single commands of the protocol, and access to its group from outside."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import redis
from helpers import eventually

from shared_sync.connection import discovery
from shared_sync.connection.connection import Connection
from shared_sync.connection.scripts import Command
from shared_sync.errors import SharedSyncError
from shared_sync.protocol import publishing
from shared_sync.protocol.commands import GroupCommands
from shared_sync.protocol.groups import ensure_group
from shared_sync.protocol.keys import PARKED, Keys
from shared_sync.protocol.messages import (
    Answer,
    Bury,
    Entry,
    Fault,
    Finish,
    Outcome,
    Park,
    Read,
    parse_read,
)
from shared_sync.protocol.replies import (
    NameClaimed,
    NameInUse,
    QueueMetrics,
    parse_claim,
    parse_heartbeat,
    parse_pending,
    parse_settled,
)
from shared_sync.protocol.scan import (
    START,
    Found,
    Position,
    Predecessor,
    ScanRequest,
    parse_found,
)

KEYS = Keys.of("jobs", "workers")
LEASE_MS = 30_000
HOUR_MS = 3_600_000
NOTHING = Answer()
MOST_STEPS = 20
BEGINNING = Position()
METADATA = [b"dead.id", b"?", b"dead.reason", b"rejected: no"]


@dataclass(frozen=True)
class Recovered:
    """What some steps of recovery found."""

    entry: Entry | None
    lost_bodies: int
    next_due_seconds: float | None


def make_connection(url: str) -> Connection:
    return Connection(discovery.connector(url, key=KEYS.stream, reply_timeout_seconds=10))


def interrupted_wait(connection: Connection, client: redis.Redis) -> Any:
    """What a thread receives that waits for a message over the connection, when it is interrupted.

    The client is one of the same server, which nobody else uses.
    """
    client.xgroup_create(KEYS.stream, KEYS.group, "0", mkstream=True)
    connection.send([GroupCommands(KEYS, "w1", LEASE_MS).read(1, 9000)])
    with ThreadPoolExecutor(1) as other:
        received = other.submit(connection.receive_blocked)
        eventually(lambda: client.info("clients")["blocked_clients"] == 1)
        connection.interrupt()
        return received.result(5)


def result(text: str) -> Answer:
    return Answer(items=[b"text", text.encode()])


def publish(
    connection: Connection, count: int, limit: int | None
) -> tuple[list[str], SharedSyncError | None]:
    """Publish messages up to a limit; return the ids, and why the next one was refused."""
    messages = [[b"n", b"%d" % number] for number in range(count)]
    reply = connection.call(*publishing.publish(KEYS.stream, messages, limit))
    return publishing.parse_published(reply)


class Worker:
    """One consumer of a group: sends the commands of a real one and parses the replies."""

    def __init__(
        self,
        connection: Connection,
        name: str,
        *,
        keys: Keys = KEYS,
        results: str | None = "results",
        lease_ms: int = LEASE_MS,
        identity: str | None = None,
        sends_heartbeat: bool = True,
    ) -> None:
        self.connection = connection
        identity = identity or f"the identity of {name}"
        self.commands = GroupCommands(keys, name, lease_ms, results, identity=identity)
        ensure_group(connection, self.commands)
        if sends_heartbeat:
            self.heartbeat()

    def publish(self, *messages: list[bytes]) -> list[str]:
        command = publishing.publish(self.commands.keys.stream, messages, None)
        ids, error = publishing.parse_published(self.connection.call(*command))
        assert error is None
        return ids

    def read(self, count: int = 10) -> list[Entry]:
        return parse_read(self.connection.call(*self.commands.read(count)))

    def done(self, *ids: str) -> int:
        """End messages without a result; return how many this ended."""
        ended: int = self.connection.call(*self.commands.finish(ids))
        return ended

    def settle(self, *outcomes: Outcome) -> list[int]:
        """Return what each outcome came to; raise the first refusal, which ended the rest."""
        settled: list[int] = []
        for command in commands_for(self.commands, outcomes):
            reply = parse_settled(self.connection.call(*command))
            for refusal in reply.refusals.values():
                raise refusal
            settled += reply.results
        return settled

    def finish(self, message_id: str, answer: Answer = NOTHING) -> int:
        """End a message, with its result if there is one."""
        if answer == NOTHING:
            return self.done(message_id)
        (ended,) = self.settle(Finish(message_id, *answer[:3], address=answer.address))
        return ended

    def park(
        self,
        message_id: str,
        delay_ms: int = HOUR_MS,
        failure: str = '{"n":1}',
        delivery: int | None = None,
    ) -> int:
        """Park a message after a failed delivery; `delivery` None stands for the last one."""
        if delivery is None:
            keys = self.commands.keys
            rows = self.connection.call(
                "XPENDING", keys.stream, keys.group, message_id, message_id, 1
            )
            delivery = rows[0][3] if rows else 1
        (parked,) = self.settle(Park(message_id, failure, delay_ms, delivery))
        return parked

    def bury(self, message_id: str, failure: str = '{"n":9}', answer: Answer = NOTHING) -> int:
        (buried,) = self.settle(Bury(message_id, failure, METADATA, answer))
        return buried

    def fault(self, message_id: str, delay_ms: int = 0) -> int:
        """Return a message at which this worker broke."""
        (returned,) = self.settle(Fault(message_id, delay_ms))
        return returned

    def hand_back(self, *ids: str) -> list[int]:
        reply: list[int] = self.connection.call(*self.commands.hand_back(ids))
        return reply

    def scan(
        self,
        *,
        own_idle_ms: int = HOUR_MS,
        since_ms: int = 0,
        foreign_idle_ms: int = LEASE_MS,
        predecessor: Predecessor = Predecessor.READ_SEVERAL,
        max_crashes: int = 3,
        startable_crashes: int = 3,
        most: int = 1,
        apart: Collection[Read] = (),
        in_flight: Sequence[str] = (),
        position: Position = BEGINNING,
        foreign: Sequence[str] | None = None,
        **options: Any,
    ) -> Found:
        """One step of recovery. `foreign` None stands for every consumer of the group."""
        if foreign is None:
            summary = parse_pending(self.connection.call(*self.commands.pending()))
            foreign = [name for name in summary.by_consumer if name != PARKED]
        request = ScanRequest(
            own_idle_ms=own_idle_ms,
            since_ms=since_ms,
            foreign_idle_ms=foreign_idle_ms,
            predecessor=predecessor,
            max_crashes=max_crashes,
            startable_crashes=startable_crashes,
            most=most,
            apart=apart,
            in_flight=in_flight,
            foreign=foreign,
            position=position,
            **options,
        )
        return parse_found(self.connection.call(*self.commands.recover(request)), request)

    def steps(self, count: int, **options: Any) -> Iterator[Found]:
        """Take so many steps of recovery, each from where the last one ended.

        What they take stays in flight, and what they name as lost is asked for again.
        """
        position, in_flight = BEGINNING, list(options.pop("in_flight", ()))
        lost: list[str] = []
        for _ in range(count):
            again = lost.pop(0) if lost else ""
            found = self.scan(position=position, in_flight=in_flight, again=again, **options)
            position = found.position
            lost += (one.id for one in found.lost if one.id not in lost)
            in_flight += (entry.id for entry in found.entries)
            yield found

    def recover(self, **options: Any) -> Recovered:
        """Take steps from the beginning until one finds a message or there is no more."""
        lost_bodies = 0
        for found in self.steps(MOST_STEPS, **options):
            lost_bodies += found.lost_bodies
            if found.entries or not found.more:
                break
        (entry,) = found.entries or (None,)
        return Recovered(entry, lost_bodies, found.next_due_seconds)

    def recover_id(self, **options: Any) -> str | None:
        entry = self.recover(**options).entry
        return entry and entry.id

    def heartbeat(self, **options: Any) -> QueueMetrics:
        """Send a heartbeat; return the sizes of the queue."""
        command = self.commands.heartbeat(**{"restore_from": START, **options})
        heartbeat = parse_heartbeat(self.connection.call(*command))
        assert heartbeat.pending is not None
        pending = heartbeat.pending
        return QueueMetrics(heartbeat.backlog, pending.total, pending.parked, heartbeat.dead)

    def claim(self) -> NameInUse | None:
        """Claim the name; return None if it is this worker's now, or else who has it."""
        reply = parse_claim(self.connection.call(*self.commands.claim(b"")))
        return reply if isinstance(reply, NameInUse) else None

    def claim_reply(self) -> NameClaimed:
        """Claim the name, which must be free."""
        reply = parse_claim(self.connection.call(*self.commands.claim(b"")))
        assert isinstance(reply, NameClaimed)
        return reply

    def leave(
        self, since_ms: int = 0, predecessor: Predecessor = Predecessor.READ_SEVERAL
    ) -> list[int]:
        """Leave in as many steps as needed; return how many went back, and how many were gone."""
        returned = lost_bodies = 0
        more = 1
        while more:
            step, lost, more = self.connection.call(*self.commands.leave(since_ms, predecessor))
            returned += step
            lost_bodies += lost
        return [returned, lost_bodies]


def commands_for(commands: GroupCommands, outcomes: Sequence[Outcome]) -> list[Command]:
    """Return the commands that settle the outcomes, in the order of an outbox."""
    finishes = [one for one in outcomes if isinstance(one, Finish)]
    parks = [one for one in outcomes if isinstance(one, Park)]
    buries = [one for one in outcomes if isinstance(one, Bury)]
    faults = [one for one in outcomes if isinstance(one, Fault)]
    plain = [one for one in finishes if one.special is None]
    others = [one for one in finishes if one.special is not None]
    settling = [commands.finish_with_results(plain)] if plain else []
    settling += [commands.finish_with_outputs(others)] if others else []
    settling += [commands.park(parks)] if parks else []
    settling += [commands.bury(one) for one in buries]
    return [*settling, *([commands.fault(faults)] if faults else [])]


class GroupAdmin:
    """A stream and its group from outside: shows what is in Redis, and changes it for a test."""

    def __init__(self, client: redis.Redis, keys: Keys = KEYS) -> None:
        self.client = client
        self.keys = keys

    def bodies(self) -> list[str]:
        return [entry_id.decode() for entry_id, _ in self.client.xrange(self.keys.stream)]

    def pending(self, group: str | None = None) -> dict[str, tuple[str, int]]:
        """Return owner and delivery count of everything pending."""
        rows = self.client.xpending_range(
            self.keys.stream, group or self.keys.group, "-", "+", 10_000
        )
        return {
            row["message_id"].decode(): (row["consumer"].decode(), row["times_delivered"])
            for row in rows
        }

    def due(self) -> dict[str, float]:
        return {
            name.decode(): at
            for name, at in self.client.zrange(self.keys.due, 0, -1, withscores=True)
        }

    def history(self) -> dict[str, str]:
        noted = self.client.hgetall(self.keys.history)
        return {name.decode(): text.decode() for name, text in noted.items()}

    def presence(self) -> dict[str, float]:
        rows = self.client.zrange(self.keys.presence, 0, -1, withscores=True)
        return {name.decode(): at for name, at in rows}

    def consumers(self) -> set[str]:
        rows = self.client.xinfo_consumers(self.keys.stream, self.keys.group)
        return {row["name"].decode() for row in rows}

    def dead(self) -> list[dict[bytes, bytes]]:
        return [fields for _, fields in self.client.xrange(self.keys.dead)]

    def results(self) -> list[dict[bytes, bytes]]:
        return [fields for _, fields in self.client.xrange("results")]

    def everything(self) -> dict[bytes, bytes | None]:
        """Return all keys as the server would save them, the pending list included."""
        return {key: self.client.dump(key) for key in self.client.keys("*")}

    def now_ms(self) -> int:
        seconds, microseconds = self.client.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    def pass_ms(self, ms: int) -> None:
        """Wait until the server's clock has gone on."""
        until = self.now_ms() + ms
        eventually(lambda: self.now_ms() >= until)

    def set_idle(self, message_id: str, owner: str, idle_ms: int) -> None:
        """Make a pending message idle for so long."""
        claimed = self.client.xclaim(
            self.keys.stream, self.keys.group, owner, 0, [message_id], idle=idle_ms, justid=True
        )
        assert claimed == [message_id.encode()]

    def end_lease(self, name: str) -> None:
        self.client.zadd(self.keys.presence, {name: self.now_ms() - 1})

    def set_lease(self, name: str, ms: int) -> None:
        """Make a lease end in so many milliseconds."""
        self.client.zadd(self.keys.presence, {name: self.now_ms() + ms})

    def remove_presence(self, name: str) -> None:
        self.client.zrem(self.keys.presence, name)

    def forget_name(self, name: str) -> None:
        """Leave neither a lease nor a claim of a name, as if another program had it."""
        self.remove_presence(name)
        self.client.hdel(self.keys.holders, name)

    def keep_alive(self, name: str) -> None:
        self.set_lease(name, LEASE_MS)

    def drops_deleted_bodies_on_claim(self) -> bool:
        """Return whether a claim ends messages whose entries are gone; 6.2 keeps them pending."""
        version = str(self.client.info("server")["redis_version"])
        return int(version.partition(".")[0]) >= 7
