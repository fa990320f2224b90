"""Faults of Redis itself, and what its operators may do to it under a running pool."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager

import pytest
from faults.durations import LEASE_SECONDS, REPLY_SECONDS
from faults.ledger import KEYS, QUICK, Ledger, MakePool, answer, let_pass, mixed
from faults.proxy import Proxy
from faults.table import FaultTable
from helpers import Figures, Gate, eventually
from protocol_client import GroupAdmin

from shared_sync import current_message
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import RedisRefused
from shared_sync.redis_consumer import recovery

KILL = ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

Job = Mapping[str, str | bytes]


@pytest.fixture
def ledger(own_server: EmbeddedRedis) -> Iterator[Ledger]:
    """The books on a Redis of the test's own, which keeps its data when it is killed."""
    with closing(Ledger(own_server.url)) as kept:
        yield kept


class GatedWork:
    """Work that waits until its gate is opened, for the messages that are to be held.

    Some of these fail before, so that something is noted about them.
    """

    def __init__(self) -> None:
        self.gate = Gate()

    def __call__(self, message_id: str, job: Job) -> object:
        if "fails" in job and current_message().attempt == 1:
            raise ValueError("at first")
        if "held" in job:
            self.gate()
        return answer(message_id, job)


@contextmanager
def frozen(server: EmbeddedRedis) -> Iterator[None]:
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def assert_no_results_of_what_redis_lost(ledger: Ledger) -> None:
    """A result of a message that Redis no longer knows would belong to nothing."""
    assert ledger.destroyed
    assert not [lost for lost in ledger.destroyed if ledger.ended(lost)]


# --- Redis dies or freezes ----------------------------------------------------------------------


def test_a_redis_that_is_killed_and_keeps_its_data_costs_nothing(
    ledger: Ledger, own_server: EmbeddedRedis, make_pool: MakePool, fault_table: FaultTable
) -> None:
    """Work that is done meanwhile is kept, and health tells the truth."""
    work = GatedWork()
    pools = [
        make_pool(own_server.url, ledger.processor(work)),
        make_pool(own_server.url, ledger.processor(mixed), prefetch=3, retry=QUICK),
    ]
    pools[0].start()
    ledger.publish(2, held="until Redis is gone")
    eventually(lambda: work.gate.calls == 2)
    pools[1].start()
    with ledger.load():
        for _ in range(2):
            own_server.kill()
            eventually(lambda: not any(pool.redis_connected for pool in pools))
            work.gate.opened.set()
            eventually(lambda: pools[0].get_health_data()["jobs_in_flight"] == 0)
            own_server.start()
            ledger.fault_is_over()
            ledger.progress()
    row = fault_table.add("Redis killed twice, appendfsync always", ledger, *pools)
    assert row.run_twice == 0


def test_a_redis_that_is_killed_and_keeps_nothing_is_worked_off_anew(
    redis_server: EmbeddedRedis, make_pool: MakePool, fault_table: FaultTable
) -> None:
    """What was finished meanwhile is of a message that Redis no longer knows, and is dropped."""
    work, figures = GatedWork(), Figures()
    with EmbeddedRedis(redis_server.binary) as server, closing(Ledger(server.url)) as ledger:
        pool = make_pool(server.url, ledger.processor(work), metrics=figures)
        pool.start()
        ledger.publish(20)
        ledger.settle()
        ledger.publish(2, held="until Redis is gone")
        eventually(lambda: work.gate.calls == 2)
        with ledger.load():
            ledger.kill(server)
            eventually(lambda: not pool.redis_connected)
            work.gate.opened.set()
            eventually(lambda: pool.get_health_data()["jobs_in_flight"] == 0)
            server.start()
            ledger.fault_is_over()
            ledger.progress()
        fault_table.add("Redis killed, which keeps nothing", ledger, pool)
        assert_no_results_of_what_redis_lost(ledger)
    assert figures.counters["groups_recreated"] >= 1


def test_a_redis_that_freezes_for_a_moment_costs_nothing(
    ledger: Ledger, own_server: EmbeddedRedis, make_pool: MakePool, fault_table: FaultTable
) -> None:
    pool = make_pool(own_server.url, ledger.processor(mixed), prefetch=3, retry=QUICK)
    pool.start()
    with ledger.load(), frozen(own_server):
        let_pass(LEASE_SECONDS / 4)
    ledger.fault_is_over()
    ledger.publish(10)
    row = fault_table.add("Redis frozen, shorter than the lease", ledger, pool)
    assert row.run_twice == 0


def test_after_a_freeze_a_pool_that_is_late_to_return_is_not_taken_for_dead(
    ledger: Ledger,
    own_server: EmbeddedRedis,
    make_pool: MakePool,
    fault_table: FaultTable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The freeze ends all leases; one pool looks for the dead before the other one can beat."""
    monkeypatch.setattr(recovery, "INTERVAL_SECONDS", 0.1)
    work = GatedWork()
    with closing(Proxy(own_server.port)) as proxy:
        late = make_pool(proxy.url, ledger.processor(work))
        late.start()
        ledger.publish(2, held="over the freeze")
        eventually(lambda: work.gate.calls == 2)
        early = make_pool(own_server.url, ledger.processor())
        early.start()
        with ledger.load():
            with proxy.black_hole():
                with frozen(own_server):
                    let_pass(LEASE_SECONDS * 1.25)
                ledger.fault_is_over()
                ledger.progress()
                let_pass(LEASE_SECONDS / 8)  # the grace lasts for half a lease
            eventually(lambda: late.redis_connected)
            let_pass(LEASE_SECONDS / 2)
        work.gate.opened.set()
        row = fault_table.add("Redis frozen, longer than the lease", ledger, early, late)
    assert row.run_twice == 0, "what the late pool held over the freeze was taken over"


@pytest.mark.parametrize(
    ("name", "seconds"), [("shorter", REPLY_SECONDS / 3), ("longer", REPLY_SECONDS * 2)]
)
def test_a_redis_that_is_paused_costs_nothing(
    ledger: Ledger,
    own_server: EmbeddedRedis,
    make_pool: MakePool,
    fault_table: FaultTable,
    name: str,
    seconds: float,
) -> None:
    pool = make_pool(own_server.url, ledger.processor(mixed), prefetch=3, retry=QUICK)
    pool.start()
    with ledger.load():
        ledger.client.client_pause(round(seconds * 1000))
        ledger.client.ping()
        ledger.fault_is_over()
        ledger.progress()
    fault_table.add(f"CLIENT PAUSE, {name} than the wait for a reply", ledger, pool)


# --- messages that no reply can bring -----------------------------------------------------------


def test_a_message_that_is_larger_than_redis_sends_becomes_a_dead_letter(
    ledger: Ledger, own_server: EmbeddedRedis, make_pool: MakePool
) -> None:
    """Those of the same read, which are too large together only, are not at fault."""
    limit = 2_000_000
    ledger.client.config_set("client-output-buffer-limit", f"normal {limit} {limit} 0")
    neighbours = ledger.publish(4, text="x" * (limit // 3))
    (large,) = ledger.publish(1, text="x" * (2 * limit))
    ended: Counter[str] = Counter()
    pool = make_pool(
        own_server.url, lambda message_id, _: ended.update([message_id]), prefetch=5, threads=2
    )
    pool.start()
    admin = GroupAdmin(ledger.client)
    eventually(lambda: ledger.client.xlen(KEYS.stream) == 0, within=40)
    assert ended == Counter(neighbours)
    ledger.client.config_set("client-output-buffer-limit", "normal 0 0 0")
    (letter,) = admin.dead()
    assert letter[b"dead.id"].decode() == large
    assert b"too large to fetch" in letter[b"dead.reason"]
    assert len(letter[b"text"]) == 2 * limit
    assert letter[b"dead.crashes"] == b"0"


# --- connections and rights ---------------------------------------------------------------------


def test_killing_all_connections_again_and_again_costs_nothing(
    ledger: Ledger, own_server: EmbeddedRedis, make_pool: MakePool, fault_table: FaultTable
) -> None:
    figures = Figures()
    pool = make_pool(
        own_server.url, ledger.processor(mixed), prefetch=3, retry=QUICK, metrics=figures
    )
    pool.start()
    with ledger.load():
        for _ in range(8):
            ledger.client.execute_command(*KILL)
            ledger.fault_is_over()
            ledger.progress()
    row = fault_table.add("CLIENT KILL of all (8 times)", ledger, pool)
    assert row.run_twice == 0
    assert figures.counters["redis_reconnects"] > 8


TURNED_AWAY: dict[str, tuple[list[tuple[object, ...]], tuple[object, ...]]] = {
    "password": (
        [("CONFIG", "SET", "requirepass", "secret"), KILL],
        ("CONFIG", "SET", "requirepass", ""),
    ),
    "rights": ([("ACL", "SETUSER", "worker", "-@all")], ("ACL", "SETUSER", "worker", "+@all")),
    "maxclients": (
        [("CONFIG", "SET", "maxclients", 1), KILL],
        ("CONFIG", "SET", "maxclients", 1000),
    ),
    "being a replica": ([("REPLICAOF", "127.0.0.1", 1)], ("REPLICAOF", "NO", "ONE")),
    "min-replicas-to-write": (
        [("CONFIG", "SET", "min-replicas-to-write", 1)],
        ("CONFIG", "SET", "min-replicas-to-write", 0),
    ),
}
"""The commands with which a server turns workers away, and the one that lets them in again."""


@pytest.mark.parametrize("reason", TURNED_AWAY)
def test_a_pool_that_is_turned_away_for_a_while_keeps_its_work(
    ledger: Ledger,
    own_server: EmbeddedRedis,
    make_pool: MakePool,
    fault_table: FaultTable,
    reason: str,
) -> None:
    work = GatedWork()
    admin = ledger.client
    admin.execute_command("ACL", "SETUSER", "worker", "on", ">pw", "~*", "&*", "+@all")
    url = own_server.url
    if reason == "rights":
        url = url.replace("redis://", "redis://worker:pw@")
    pool = make_pool(url, ledger.processor(work))
    pool.start()
    ledger.publish(2, held="while turned away")
    eventually(lambda: work.gate.calls == 2)
    turn_away, let_in = TURNED_AWAY[reason]
    with ledger.load():
        for command in turn_away:
            admin.execute_command(*command)
        eventually(lambda: not pool.redis_connected)
        work.gate.opened.set()
        eventually(lambda: pool.get_health_data()["jobs_in_flight"] == 0)
        let_pass(0.3)
        assert not pool.redis_connected
        admin.execute_command(*let_in)
        ledger.fault_is_over()
        ledger.progress()
    row = fault_table.add(f"turned away by {reason}", ledger, pool)
    assert row.run_twice == 0


# --- data that is taken away --------------------------------------------------------------------


def test_a_redis_that_is_emptied_under_waiting_readers_is_noticed(
    ledger: Ledger, own_server: EmbeddedRedis, make_pool: MakePool, fault_table: FaultTable
) -> None:
    """Redis 6.2 does not tell the readers before their wait ends; the heartbeat thread notices."""
    figures = Figures()
    pool = make_pool(own_server.url, ledger.processor(), block_seconds=2, metrics=figures)
    pool.start()
    ledger.publish(10)
    ledger.settle()
    eventually(lambda: ledger.client.info("clients")["blocked_clients"] == 3)
    ledger.destroy("FLUSHALL")
    ledger.publish(10)
    fault_table.add("FLUSHALL under waiting readers", ledger, pool)
    assert figures.counters["groups_recreated"] == 1


def test_a_redis_that_is_emptied_under_running_messages_is_worked_off_anew(
    ledger: Ledger, own_server: EmbeddedRedis, make_pool: MakePool, fault_table: FaultTable
) -> None:
    work, figures = GatedWork(), Figures()
    pool = make_pool(own_server.url, ledger.processor(work), metrics=figures)
    pool.start()
    ledger.publish(2, held="until all is gone")
    eventually(lambda: work.gate.calls == 2)
    with ledger.load():
        ledger.destroy("FLUSHALL")
        work.gate.opened.set()
        ledger.progress()
    fault_table.add("FLUSHALL under load", ledger, pool)
    assert_no_results_of_what_redis_lost(ledger)
    assert figures.counters["groups_recreated"] == 1


def test_a_stream_that_is_deleted_under_load_is_made_anew(
    ledger: Ledger, own_server: EmbeddedRedis, make_pool: MakePool, fault_table: FaultTable
) -> None:
    """What was noted about its messages stays behind and disturbs nothing."""
    work, figures = GatedWork(), Figures()
    pool = make_pool(own_server.url, ledger.processor(work), metrics=figures, retry=QUICK)
    ledger.publish(2, held="until the stream is gone", fails="at first")
    later = make_pool(own_server.url, ledger.processor(mixed), retry=QUICK, prefetch=3)
    pool.start()
    eventually(lambda: work.gate.calls == 2)
    assert ledger.client.hlen(KEYS.history) == 2
    later.start()
    with ledger.load():
        ledger.destroy("DEL", KEYS.stream)
        work.gate.opened.set()
        ledger.progress()
    fault_table.add("DEL of the stream under load", ledger, pool, later)
    assert_no_results_of_what_redis_lost(ledger)
    for hints in (KEYS.due, KEYS.history):
        eventually(lambda hints=hints: not ledger.client.exists(hints))


def test_a_group_that_is_destroyed_has_what_is_unfinished_delivered_again(
    ledger: Ledger, own_server: EmbeddedRedis, make_pool: MakePool, fault_table: FaultTable
) -> None:
    """Also to the pool that runs them; it knows that it does."""
    work = GatedWork()
    pool = make_pool(own_server.url, ledger.processor(work))
    pool.start()
    finished = ledger.publish(20)
    ledger.settle()
    running = ledger.publish(2, held="while the group is gone")
    eventually(lambda: work.gate.calls == 2)
    with ledger.load():
        ledger.client.xgroup_destroy(KEYS.stream, KEYS.group)
        ledger.fault_is_over()
        ledger.progress()
        work.gate.opened.set()
    fault_table.add("XGROUP DESTROY under load", ledger, pool)
    assert not {*finished, *running} & ledger.run_twice()


def test_consumers_that_are_deleted_as_they_work_lose_nothing_and_run_nothing_twice(
    ledger: Ledger, own_server: EmbeddedRedis, make_pool: MakePool, fault_table: FaultTable
) -> None:
    pools = [
        make_pool(own_server.url, ledger.processor(mixed), retry=QUICK, prefetch=5)
        for _ in range(2)
    ]
    for pool in pools:
        pool.start()
    deleted = 0
    with ledger.load():
        for _ in range(30):
            for pool in pools:
                deleted += ledger.client.xgroup_delconsumer(
                    KEYS.stream, KEYS.group, pool.consumer_id
                )
            ledger.progress()
        ledger.fault_is_over()
        ledger.progress()
    fault_table.add("XGROUP DELCONSUMER under load (60 times)", ledger, *pools)
    assert deleted, "messages that were pending at that moment"


def test_a_stream_that_is_renamed_away_and_back_is_worked_off(
    ledger: Ledger, own_server: EmbeddedRedis, make_pool: MakePool, fault_table: FaultTable
) -> None:
    """What is published meanwhile goes to a new stream, which Redis drops on the way back."""
    work = GatedWork()
    pool = make_pool(own_server.url, ledger.processor(work), threads=2)
    pool.start()
    away = ledger.publish(2, held="while the stream is away")
    eventually(lambda: work.gate.calls == 2)
    away += ledger.publish(20)
    ledger.client.rename(KEYS.stream, "away")
    work.gate.opened.set()
    with ledger.load():
        ledger.destroy("RENAME", "away", KEYS.stream)
        ledger.progress()
    fault_table.add("RENAME of the stream, away and back", ledger, pool)
    assert not set(away) & ledger.destroyed
    assert all(ledger.ended(message_id) for message_id in away)


# --- what a server forgets or has no room for ---------------------------------------------------


def test_scripts_that_are_flushed_under_load_cost_nothing(
    ledger: Ledger, own_server: EmbeddedRedis, make_pool: MakePool, fault_table: FaultTable
) -> None:
    pool = make_pool(own_server.url, ledger.processor(mixed), prefetch=3, retry=QUICK)
    pool.start()
    with ledger.load():
        for _ in range(5):
            ledger.client.script_flush()
            ledger.fault_is_over()
            ledger.progress()
    row = fault_table.add("SCRIPT FLUSH under load (5 times)", ledger, pool)
    assert row.run_twice == 0


def test_a_full_redis_is_worked_off_and_filled_again(
    ledger: Ledger, own_server: EmbeddedRedis, make_pool: MakePool, fault_table: FaultTable
) -> None:
    pool = make_pool(own_server.url, ledger.processor(mixed), prefetch=3, retry=QUICK)
    ledger.publish(60)
    pool.start()
    with ledger.load():
        ledger.client.config_set("maxmemory", 1)
        with pytest.raises(RedisRefused, match="OOM"):
            ledger.publish()
        ledger.settle()
        ledger.client.config_set("maxmemory", 0)
        ledger.fault_is_over()
        ledger.progress()
    row = fault_table.add("maxmemory reached under load", ledger, pool)
    assert row.run_twice == 0
