"""The protocol act by act: one consumer's commands, sent and read, and a look from outside."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis
from helpers import eventually

from shared_sync.connection import discovery
from shared_sync.connection.connection import Connection
from shared_sync.protocol import commands as stream_commands
from shared_sync.protocol.commands import (
    Answer,
    Bury,
    Entry,
    Finish,
    GroupCommands,
    Keys,
    NameHeld,
    Outcome,
    Park,
    QueueFigures,
    Read,
    Recovered,
)

KEYS = Keys.of("jobs", "workers")
LEASE_MS = 30_000
HOUR_MS = 3_600_000
NOTHING = Answer()
METADATA = [b"dead.id", b"?", b"dead.reason", b"rejected: no"]


def make_link(url: str) -> Connection:
    return Connection(discovery.connector(url, key=KEYS.stream, reply_timeout_seconds=10))


def interrupted_wait(link: Connection, client: redis.Redis) -> Any:
    """What a thread receives that waits for a message over the link, when that is ended from here.

    The client is one of the same server, which nobody else uses.
    """
    client.xgroup_create(KEYS.stream, KEYS.group, "0", mkstream=True)
    link.send([GroupCommands(KEYS, "w1", LEASE_MS).read(1, 9000)])
    with ThreadPoolExecutor(1) as other:
        received = other.submit(link.receive_blocked)
        eventually(lambda: client.info("clients")["blocked_clients"] == 1)
        link.interrupt()
        return received.result(5)


def result(text: str) -> Answer:
    return Answer(items=[b"text", text.encode()])


class Worker:
    """One consumer of a group: sends what a real one sends, and reads what comes back."""

    def __init__(
        self,
        link: Connection,
        name: str,
        *,
        keys: Keys = KEYS,
        results: str | None = "results",
        lease_ms: int = LEASE_MS,
        holder: str | None = None,
        beats: bool = True,
    ) -> None:
        self.link = link
        holder = holder or f"the holder of {name}"
        self.commands = GroupCommands(keys, name, lease_ms, results, holder=holder)
        stream_commands.ensure_group(link, self.commands)
        stream_commands.learn_abilities(link, self.commands)
        if beats:
            self.beat()

    def publish(self, *messages: list[bytes]) -> list[str]:
        command = stream_commands.publish(self.commands.keys.stream, messages, None)
        ids, error = stream_commands.parse_published(self.link.call(*command))
        assert error is None
        return ids

    def read(self, count: int = 10) -> list[Entry]:
        return stream_commands.parse_read(self.link.call(*self.commands.read(count, 0)))

    def settle(self, *outcomes: Outcome) -> list[int]:
        """What each outcome came to; raises the refusal that ended them, if there was one."""
        settled: list[int] = []
        for command, _ in self.commands.outcomes(outcomes):
            reply = stream_commands.parse_outcomes(self.link.call(*command))
            if reply.refusal is not None:
                raise reply.refusal
            settled += reply.results
        return settled

    def finish(self, message_id: str, answer: Answer = NOTHING) -> int:
        (ended,) = self.settle(Finish(message_id, answer))
        return ended

    def park(
        self,
        message_id: str,
        delay_ms: int = HOUR_MS,
        failure: str = '{"n":1}',
        delivery: int | None = None,
    ) -> int:
        """`delivery` None is the last one that there was."""
        if delivery is None:
            keys = self.commands.keys
            rows = self.link.call("XPENDING", keys.stream, keys.group, message_id, message_id, 1)
            delivery = rows[0][3] if rows else 1
        (parked,) = self.settle(Park(message_id, failure, delay_ms, delivery))
        return parked

    def bury(self, message_id: str, failure: str = '{"n":9}', answer: Answer = NOTHING) -> int:
        (buried,) = self.settle(Bury(message_id, failure, METADATA, answer))
        return buried

    def hand_back(self, *ids: str) -> list[int]:
        reply: list[int] = self.link.call(*self.commands.hand_back(ids))
        return reply

    def recover(
        self,
        *,
        own_idle_ms: int = HOUR_MS,
        since_ms: int = 0,
        predecessor_read_singly: bool = False,
        max_crashes: int = 3,
        startable_crashes: int = 3,
        apart: tuple[Read, ...] = (),
        held: tuple[str, ...] = (),
    ) -> Recovered:
        command = self.commands.recover(
            own_idle_ms=own_idle_ms,
            since_ms=since_ms,
            predecessor_read_singly=predecessor_read_singly,
            max_crashes=max_crashes,
            startable_crashes=startable_crashes,
            apart=apart,
            held=held,
        )
        return stream_commands.parse_recovered(self.link.call(*command))

    def recover_id(self, **options: Any) -> str | None:
        entry = self.recover(**options).entry
        return entry and entry.id

    def beat(self) -> QueueFigures:
        return stream_commands.parse_beat(self.link.call(*self.commands.beat())).figures

    def take_name(self) -> NameHeld | None:
        """None if it is this worker's now, else who has it."""
        held = stream_commands.parse_hold(self.link.call(*self.commands.hold(b"")))
        return held if isinstance(held, NameHeld) else None

    def leave(self) -> list[int]:
        reply: list[int] = self.link.call(*self.commands.leave())
        return reply


class Looker:
    """Looks at a stream and its group from outside."""

    def __init__(self, client: redis.Redis, keys: Keys = KEYS) -> None:
        self.client = client
        self.keys = keys

    def bodies(self) -> list[str]:
        return [entry_id.decode() for entry_id, _ in self.client.xrange(self.keys.stream)]

    def pending(self, group: str | None = None) -> dict[str, tuple[str, int]]:
        """Owner and delivery count of everything pending."""
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
        """All keys as the server would save them, the pending list included."""
        return {key: self.client.dump(key) for key in self.client.keys("*")}

    def now_ms(self) -> int:
        seconds, microseconds = self.client.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    def pass_ms(self, ms: int) -> None:
        """Wait until the server's clock has gone on."""
        until = self.now_ms() + ms
        eventually(lambda: self.now_ms() >= until)

    def set_idle(self, message_id: str, owner: str, idle_ms: int) -> None:
        """Let time pass for a pending message."""
        claimed = self.client.xclaim(
            self.keys.stream, self.keys.group, owner, 0, [message_id], idle=idle_ms, justid=True
        )
        assert claimed == [message_id.encode()]

    def end_lease(self, name: str) -> None:
        self.client.zadd(self.keys.presence, {name: self.now_ms() - 1})

    def set_lease(self, name: str, ms: int) -> None:
        """Let it end in so many milliseconds."""
        self.client.zadd(self.keys.presence, {name: self.now_ms() + ms})

    def remove_presence(self, name: str) -> None:
        self.client.zrem(self.keys.presence, name)

    def keep_alive(self, name: str) -> None:
        self.set_lease(name, LEASE_MS)

    def drops_deleted_bodies_on_claim(self) -> bool:
        """Servers from 7.0 on do; 6.2 keeps such a message pending."""
        version = str(self.client.info("server")["redis_version"])
        return int(version.partition(".")[0]) >= 7
