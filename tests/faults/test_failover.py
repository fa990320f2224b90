"""Under load the master is killed or replaced, with Sentinels and in a cluster.

Replication is asynchronous: what the dead master had not passed on is gone, and is counted here.
What every replica had is not lost, whatever happens.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from itertools import pairwise

import pytest
import redis
from faults.ledger import server_of
from faults.table import FaultTable, Row
from helpers import eventually
from servers import QUICK_MS, Cluster, Sentinels, Servers, together

from shared_sync import RedisStreamConsumer, RedisStreamProducer, Result, ResultListener
from shared_sync.connection import connection
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import SharedSyncError
from shared_sync.protocol.keys import Keys

KEYS = Keys.of("jobs", "workers")
RESULTS = "{jobs}:results"
RESUMED_WITHIN_SECONDS = 15.0
PAUSE_SECONDS = 0.005


@pytest.fixture(autouse=True)
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up on a reply after a moment, so that a test need not wait for as long as users do."""
    monkeypatch.setattr(connection, "REPLY_MARGIN_SECONDS", 1.0)


@pytest.fixture(scope="module")
def unused(
    redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Servers]]:
    """Enough for all tests here, each of which takes one for itself and may kill its servers."""

    # Made here, as pytest's factory of folders is not for several threads at a time.
    folders = [tmp_path_factory.mktemp("sentinels") for _ in range(3)]

    def start_sentinels(stack: ExitStack) -> Sentinels:
        return Sentinels(stack, redis_server.binary, folders.pop(), down_after_ms=QUICK_MS)

    def start_cluster(stack: ExitStack) -> Cluster:
        return Cluster(stack, redis_server.binary, KEYS.stream, down_after_ms=QUICK_MS)

    with together(*[start_sentinels] * len(folders), *[start_cluster] * 2) as made:
        yield made


@pytest.fixture
def own_sentinels(unused: list[Servers]) -> Sentinels:
    return next(unused.pop(at) for at, one in enumerate(unused) if isinstance(one, Sentinels))


@pytest.fixture
def own_cluster(unused: list[Servers]) -> Cluster:
    return next(unused.pop(at) for at, one in enumerate(unused) if isinstance(one, Cluster))


class Load:
    """A producer that keeps publishing and a pool that answers, on servers that change places."""

    def __init__(self, servers: Servers, url: str) -> None:
        self._servers = servers
        self._producer = RedisStreamProducer(url, KEYS.stream, timeout_seconds=2)
        self._pool = RedisStreamConsumer(
            url,
            KEYS.stream,
            KEYS.group,
            "pool",
            logging.getLogger("faults"),
            self._answer,
            threads=4,
            prefetch=5,
            block_seconds=0.2,
            lease_seconds=2,
            result_stream=RESULTS,
        )
        self._listener = ResultListener(url, RESULTS, self._receive)
        self._over = threading.Event()
        self._publisher = threading.Thread(target=self._publish)
        # Guarded by the lock: when each message was acknowledged, and when it was run.
        self._lock = threading.Lock()
        self._acknowledged: dict[str, float] = {}
        self._runs: dict[str, list[float]] = {}
        # Written by the listener's thread.
        self._received: Counter[str] = Counter()
        """How often each entry of the stream of results was received."""

    def __enter__(self) -> Load:
        self._listener.start()
        self._pool.start()
        self._publisher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._publisher.join()
        self._producer.close()
        self._pool.stop(timeout=0)
        self._listener.stop()

    def _receive(self, result: Result) -> None:
        self._received[result.entry_id] += 1

    def _answer(self, message_id: str, job: Mapping[str, str | bytes]) -> Mapping[str, object]:
        with self._lock:
            self._runs.setdefault(message_id, []).append(time.monotonic())
        return job

    def _publish(self) -> None:
        number = 0
        while not self._over.wait(PAUSE_SECONDS):
            number += 1
            try:
                message_id = self._producer.publish({"number": number})
            except SharedSyncError:
                continue
            with self._lock:
                self._acknowledged[message_id] = time.monotonic()

    def acknowledged(self) -> set[str]:
        """The messages whose ids the producer has returned."""
        with self._lock:
            return set(self._acknowledged)

    def progress(self, messages: int = 50) -> None:
        """Wait until so many more messages were run."""
        enough = len(self._runs) + messages
        eventually(lambda: len(self._runs) >= enough)

    def replicated(self) -> set[str]:
        """What was acknowledged and has come to every replica."""
        known = self.acknowledged()
        self._servers.replicate("{jobs}:marker")
        return known

    def resume(self) -> None:
        """Wait until a message is run that was published from now on."""
        now = time.monotonic()

        def resumed() -> bool:
            with self._lock:
                published = self._acknowledged.items()
                return any(at > now and message_id in self._runs for message_id, at in published)

        eventually(resumed, within=RESUMED_WITHIN_SECONDS)

    def settle(self) -> None:
        """Publish no more, and wait until everything is done that is not lost."""
        self._over.set()
        self._publisher.join()
        eventually(lambda: self._client().xlen(KEYS.stream) == 0)
        assert self._client().xpending(KEYS.stream, KEYS.group)["pending"] == 0
        assert self._client().xlen(KEYS.dead) == 0
        written = {entry_id.decode() for entry_id, _ in self._client().xrange(RESULTS)}
        eventually(lambda: written <= set(self._received))
        assert set(self._received.values()) == {1}

    def lost(self) -> set[str]:
        """Acknowledged, and without a result although nothing waits."""
        return self.acknowledged() - set(self._results())

    def row(self, fault: str, since: float, safe: set[str]) -> Row:
        """What a fault cost; it resumed after the longest time without a run from its beginning."""
        moments = sorted(at for runs in self._runs.values() for at in runs)
        pauses = [after - max(before, since) for before, after in pairwise(moments)]
        lost = self.lost()
        return Row(
            server=server_of(self._client()),
            fault=fault,
            messages=len(self._acknowledged),
            lost=len(lost & safe),
            published_twice=sum(count > 1 for count in self._results().values()),
            run_twice=sum(len(runs) > 1 for runs in self._runs.values()),
            resumed_seconds=max(pauses),
            note=f"Redis itself lost {len(lost - safe)}" if lost - safe else "",
        )

    def _results(self) -> Counter[str]:
        """How many results each message has."""
        entries = self._client().xrange(RESULTS)
        return Counter(fields[b"message_id"].decode() for _, fields in entries)

    def _client(self) -> redis.Redis:
        return self._servers.admin(self._servers.master())


Endure = Callable[[Servers, str, Callable[[], None]], set[str]]


@pytest.fixture
def endure(fault_table: FaultTable) -> Endure:
    """Let something happen under load. What was replicated before must not be lost by it.

    Returns all that was lost.
    """
    return partial(_endure, fault_table)


def _endure(
    fault_table: FaultTable, servers: Servers, fault: str, act: Callable[[], None]
) -> set[str]:
    with Load(servers, servers.url) as load:
        load.progress()
        safe = load.replicated()
        begun = time.monotonic()
        act()
        load.resume()
        load.progress()
        load.settle()
        fault_table.enter(load.row(fault, begun, safe))
        return load.lost()


def test_sentinels_replace_a_killed_master_and_work_goes_on(
    own_sentinels: Sentinels, endure: Endure
) -> None:
    endure(own_sentinels, "master killed, Sentinels", own_sentinels.master().kill)


def test_a_cluster_replaces_a_killed_owner_and_work_goes_on(
    own_cluster: Cluster, endure: Endure
) -> None:
    endure(own_cluster, "owner of the slot killed, cluster", own_cluster.master().kill)


def test_a_planned_failover_in_a_cluster_loses_nothing(
    own_cluster: Cluster, endure: Endure
) -> None:
    lost = endure(own_cluster, "planned failover, cluster", own_cluster.fail_over)
    assert not lost


def test_a_planned_failover_by_sentinels_loses_nothing_if_writes_are_paused(
    own_sentinels: Sentinels, endure: Endure
) -> None:
    fail_over = partial(own_sentinels.fail_over, pausing=True)
    lost = endure(own_sentinels, "planned failover, Sentinels, writes paused", fail_over)
    assert not lost


def test_a_planned_failover_by_sentinels_is_noticed_while_the_old_master_takes_writes(
    own_sentinels: Sentinels, endure: Endure
) -> None:
    """It would take them for ten seconds, and all of them would be lost."""
    old = own_sentinels.admin(own_sentinels.master())

    def fail_over() -> None:
        own_sentinels.fail_over()
        new = own_sentinels.admin(own_sentinels.master())
        eventually(lambda: reads(new), within=5)
        assert old.info("replication")["role"] == "master"

    endure(own_sentinels, "planned failover, Sentinels", fail_over)


def reads(client: redis.Redis) -> bool:
    """Whether somebody reads a stream there just now."""
    return any(row["cmd"] == "xreadgroup" for row in client.client_list())
