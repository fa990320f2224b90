"""Redis of more than one server: a master with replicas under Sentinels, and a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis
from helpers import eventually
from redis.crc import key_slot

from shared_sync.connection.embedded import EmbeddedRedis

MASTER = "main"
SLOTS = 16384
QUICK_MS = 1000
"""After so long without an answer a server counts as dead, where that is to happen."""

PATIENT_MS = 15_000
"""The same where it is not, however busy the machine is."""

FAILOVER_MS = 3000
REPLICATION = ("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0")
PAUSE_MS = 60_000
AGREED_WITHIN_SECONDS = 60.0
"""For servers that start together with others, on a machine that has much else to do."""


def sentinel(
    binary: Path, launcher: Path, port: int, *, quorum: int = 2, down_after_ms: int = PATIENT_MS
) -> Path:
    """A program to start in place of the binary: a Sentinel that watches the master there.

    Its first argument must be a file, in which it also keeps what it learns.
    """
    configuration = launcher.with_suffix(".conf")
    configuration.write_text(
        f"sentinel monitor {MASTER} 127.0.0.1 {port} {quorum}\n"
        f"sentinel down-after-milliseconds {MASTER} {down_after_ms}\n"
        f"sentinel failover-timeout {MASTER} {FAILOVER_MS}\n"
        f"sentinel parallel-syncs {MASTER} 2\n"
    )
    launcher.write_text(f'#!/bin/sh\nexec "{binary}" "{configuration}" "$@" --sentinel\n')
    launcher.chmod(0o755)
    return launcher


Start = Callable[[ExitStack], "Servers"]


@contextmanager
def together(*starts: Start) -> Iterator[list[Any]]:
    """Start several at the same time, as each needs two seconds until its servers agree."""
    with ExitStack() as stack:
        with ThreadPoolExecutor(len(starts)) as threads:
            made = [*threads.map(lambda start: start(stack.enter_context(ExitStack())), starts)]
        yield made


class Servers:
    """Servers that belong together. They start with the object and end with the stack."""

    replicas: int
    """How many the master has that may take its place."""
    url: str

    def __init__(self, stack: ExitStack, binary: Path) -> None:
        self._stack = stack
        self.binary = binary
        self.servers: list[EmbeddedRedis] = []

    def start(self, *options: str, binary: Path | None = None) -> EmbeddedRedis:
        server = self._stack.enter_context(EmbeddedRedis(binary or self.binary, extra_args=options))
        # Ended politely, a master would wait for replicas that have ended before it.
        self._stack.callback(server.kill)
        return server

    def admin(self, server: EmbeddedRedis) -> redis.Redis:
        """A client of one of the servers."""
        plain = redis.Redis(port=server.port, protocol=2, socket_timeout=10)
        return self._stack.enter_context(plain)

    def master(self) -> EmbeddedRedis:
        """The one that takes writes, once all agree on it."""
        eventually(lambda: len(self._named()) == 1)
        (port,) = self._named()
        return next(server for server in self.servers if server.port == port)

    def _named(self) -> set[int]:
        """The ports of all that somebody takes for the master."""
        raise NotImplementedError

    def replicate(self, key: str) -> None:
        """Wait until every replica has all that the master was told so far."""
        client = self.admin(self.master())
        client.set(key, "here")
        assert client.wait(self.replicas, 5000) == self.replicas


class Sentinels(Servers):
    """A master, two replicas, and three Sentinels that replace a master that dies."""

    replicas = 2

    def __init__(self, stack: ExitStack, binary: Path, folder: Path, *, down_after_ms: int) -> None:
        super().__init__(stack, binary)
        master = self.start(*REPLICATION)
        replica = ("--replicaof", "127.0.0.1", str(master.port))
        self.servers = [master, *(self.start(*REPLICATION, *replica) for _ in range(2))]
        self.sentinels = [
            self.start(
                binary=sentinel(
                    binary, folder / f"sentinel-{n}", master.port, down_after_ms=down_after_ms
                )
            )
            for n in range(3)
        ]
        self._admins = [self.admin(sentinel) for sentinel in self.sentinels]
        self.hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        self.url = f"redis+sentinel://{self.hosts}/{MASTER}/0"
        eventually(self._complete, within=AGREED_WITHIN_SECONDS)

    def _complete(self) -> bool:
        states = [client.sentinel_master(MASTER) for client in self._admins]
        return all(
            state["num-slaves"] == 2 and state["num-other-sentinels"] == 2 for state in states
        )

    def _named(self) -> set[int]:
        ask = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
        return {int(client.execute_command(*ask)[1]) for client in self._admins}

    def fail_over(self, *, pausing: bool = False) -> None:
        """Replace the master while it runs, and return when all Sentinels name the new one.

        The old one goes on taking writes until it is told, unless it is paused and its clients
        are sent away.
        """
        old = self.master()
        client = self.admin(old)
        if pausing:
            client.execute_command("CLIENT", "PAUSE", PAUSE_MS, "WRITE")
            eventually(lambda: self._caught_up(client.info("replication")))
        self._admins[0].execute_command("SENTINEL", "FAILOVER", MASTER)
        eventually(lambda: self._named() - {old.port} == self._named())
        if pausing:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def _caught_up(self, facts: dict[str, Any]) -> bool:
        offsets = {facts[f"slave{n}"]["offset"] for n in range(facts["connected_slaves"])}
        return offsets == {facts["master_repl_offset"]}


class Cluster(Servers):
    """Three masters with a third of the slots each, and a replica of the one that has `key`."""

    replicas = 1

    def __init__(self, stack: ExitStack, binary: Path, key: str, *, down_after_ms: int) -> None:
        super().__init__(stack, binary)
        self._slot = key_slot(key.encode())
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(down_after_ms))
        self.servers = [self.start(*options, *REPLICATION) for _ in range(4)]
        self._admins = [self.admin(server) for server in self.servers]
        *masters, replica = self._admins
        for number, client in enumerate(masters):
            first, last = SLOTS * number // 3, SLOTS * (number + 1) // 3
            client.execute_command("CLUSTER", "ADDSLOTS", *range(first, last))
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if first <= self._slot < last:
                owner, owner_id = number, client.execute_command("CLUSTER", "MYID")
        for server in self.servers[1:]:
            masters[0].execute_command("CLUSTER", "MEET", "127.0.0.1", server.port)
        # All but the replica, the owner first.
        seeds = [self.servers[owner], *(server for server in self.servers[:3])]
        self.hosts = ",".join(dict.fromkeys(f"127.0.0.1:{server.port}" for server in seeds))
        self.url = f"redis+cluster://{self.hosts}"
        eventually(lambda: owner_id in self._nodes(replica), within=AGREED_WITHIN_SECONDS)
        replica.execute_command("CLUSTER", "REPLICATE", owner_id)
        eventually(self._complete, within=AGREED_WITHIN_SECONDS)

    def _complete(self) -> bool:
        """Every node sees all slots served and the replica, which has its master's data."""
        return self._admins[-1].info("replication")["master_link_status"] == "up" and all(
            b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO")
            and self._nodes(client).count(b" connected") == 4
            and b"slave " in self._nodes(client)
            for client in self._admins
        )

    def _nodes(self, client: redis.Redis) -> bytes:
        return bytes(client.execute_command("CLUSTER", "NODES"))

    def _named(self) -> set[int]:
        running = {server.port for server in self.servers if server.running}
        named = set()
        for client in self._admins:
            if client.connection_pool.connection_kwargs["port"] in running:
                for first, last, master, *_ in client.execute_command("CLUSTER", "SLOTS"):
                    if first <= self._slot <= last:
                        named.add(master[1])
        return named

    def fail_over(self) -> None:
        """Have the replica replace the owner, which runs on; return when all nodes name it."""
        self._admins[-1].execute_command("CLUSTER", "FAILOVER")
        eventually(lambda: self._named() == {self.servers[-1].port})


class SlotMove:
    """Moves the slot of a key to another master, as `redis-cli --cluster reshard` does.

    The steps are `begin()`, `move_key()` for each key, and `end()`.
    """

    def __init__(self, cluster: Cluster, key: str) -> None:
        self.slot = key_slot(key.encode())
        masters = [cluster.admin(server) for server in cluster.servers[:3]]
        self.source = next(client for client in masters if self._is_owner(client))
        self.target = next(client for client in masters if client is not self.source)
        self._masters = masters
        self.target_port = int(self.target.connection_pool.connection_kwargs["port"])
        self._source_id, self._target_id = (
            client.execute_command("CLUSTER", "MYID").decode()
            for client in (self.source, self.target)
        )

    def _is_owner(self, client: redis.Redis) -> bool:
        port = client.connection_pool.connection_kwargs["port"]
        slots = client.execute_command("CLUSTER", "SLOTS")
        return any(
            first <= self.slot <= last and master[1] == port for first, last, master, *_ in slots
        )

    def begin(self) -> None:
        """From now on the target has the keys that the source lacks, new ones among them."""
        self._set(self.target, "IMPORTING", self._source_id)
        self._set(self.source, "MIGRATING", self._target_id)

    def left(self) -> list[str]:
        """The keys of the slot that are at the source."""
        found = self.source.execute_command("CLUSTER", "GETKEYSINSLOT", self.slot, 100)
        return [key.decode() for key in found]

    def move_key(self, key: str) -> None:
        self.source.execute_command("MIGRATE", "127.0.0.1", self.target_port, key, 0, 5000)

    def end(self) -> None:
        """Move what is left, and let every node know the new owner."""
        while keys := self.left():
            for key in keys:
                self.move_key(key)
        others = [client for client in self._masters if client not in (self.source, self.target)]
        for client in (self.target, self.source, *others):
            self._set(client, "NODE", self._target_id)

    def _set(self, client: redis.Redis, state: str, node_id: str) -> None:
        client.execute_command("CLUSTER", "SETSLOT", self.slot, state, node_id)
