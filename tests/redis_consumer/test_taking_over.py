"""What dead consumers left is taken over in time, by one reader at a time, and charged."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from consumers import GROUP, STREAM, Make
from helpers import Figures, Gate, eventually
from protocol_client import KEYS, GroupAdmin

from shared_sync import RedisStreamConsumer, RedisStreamProducer, current_message
from shared_sync.protocol.process_identity import ProcessIdentity
from shared_sync.redis_consumer import recovery
from shared_sync.redis_consumer.recovery import Recovery


def test_messages_of_a_consumer_without_presence_are_taken_only_past_the_lease(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    done: list[str] = []
    message_id = producer.publish({"n": 1})
    client.xgroup_create(STREAM, GROUP, id="0")
    begun = time.monotonic()
    client.xreadgroup(GROUP, "stranger", {STREAM: ">"}, count=1)
    make(lambda found, _: done.append(found), lease_seconds=1, block_seconds=0.2).start()
    eventually(lambda: done == [message_id])
    assert time.monotonic() - begun >= 1


def test_a_message_that_another_library_has_delivered_often_is_run_as_any_new_one(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    attempts: list[int] = []
    message_id = producer.publish({"n": 1})
    client.xgroup_create(STREAM, GROUP, id="0")
    client.xreadgroup(GROUP, "stranger", {STREAM: ">"})
    client.xclaim(STREAM, GROUP, "stranger", 0, [message_id], idle=60_000, retrycount=4)
    consumer = make(lambda *_: attempts.append(current_message().attempt), max_crashes=3)
    consumer.start()
    eventually(lambda: attempts == [1])
    eventually(lambda: client.xlen(STREAM) == 0)
    assert GroupAdmin(client).dead() == []


def test_a_message_of_another_library_that_is_at_work_is_left_alone(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    ran: list[str] = []
    message_id = producer.publish({"n": 1})
    client.xgroup_create(STREAM, GROUP, id="0")
    client.xreadgroup(GROUP, "stranger", {STREAM: ">"})
    client.xclaim(STREAM, GROUP, "stranger", 0, [message_id], idle=86_400_000, justid=True)
    make(lambda found, _: ran.append(found), foreign_idle_seconds=math.inf).start()
    turns = scripts_run(client)
    eventually(lambda: scripts_run(client) > turns + 5)
    assert ran == []
    assert GroupAdmin(client).pending() == {message_id: ("stranger", 1)}


def test_what_a_predecessor_had_is_run_at_once_and_charged_however_early_its_successor_was_made(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    """Made before the predecessor read the message, as by a program that loads its model first."""
    attempts: list[int] = []
    successor = make(lambda *_: attempts.append(current_message().attempt), consumer_id="name")
    producer.publish({"n": 1})
    client.xgroup_create(STREAM, GROUP, id="0")
    client.xreadgroup(GROUP, "name", {STREAM: ">"}, count=1)
    client.hset(KEYS.holders, "name", ProcessIdentity.here().text())
    GroupAdmin(client).pass_ms(5)
    successor.start()
    eventually(lambda: attempts == [2], within=4)


@pytest.mark.parametrize(("prefetch", "at_once"), [(None, 1), (3, 1), (1, 3)])
def test_how_a_predecessor_read_says_how_much_of_what_it_left_runs_at_once(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    prefetch: int | None,
    at_once: int,
) -> None:
    """And not how its successor reads, which claims the name when it connects."""
    monkeypatch.setattr(recovery, "INTERVAL_SECONDS", 0.01)
    go_on, running = threading.Event(), Counter[str]()

    def processor(message_id: str, _: object) -> None:
        running[message_id] += 1
        assert go_on.wait(20)

    ids = producer.publish_many({"n": n} for n in range(3))
    client.xgroup_create(STREAM, GROUP, id="0")
    client.xreadgroup(GROUP, "name", {STREAM: ">"}, count=3)
    GroupAdmin(client).pass_ms(5)
    is_known = prefetch is not None
    identity = ProcessIdentity.here(prefetch=prefetch).text() if is_known else "not understood"
    client.hset(KEYS.holders, "name", identity)
    successor = make(processor, consumer_id="name", threads=4, block_seconds=0.01)
    successor.connect()
    successor.start()
    eventually(lambda: len(running) == at_once)
    turns = scripts_run(client)
    eventually(lambda: scripts_run(client) > turns + 20)
    assert running == Counter(ids[:at_once])
    go_on.set()
    eventually(lambda: client.xlen(STREAM) == 0)
    assert running == Counter(ids)


@pytest.fixture
def two_readers(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> Iterator[tuple[list[str], list[str], RedisStreamConsumer]]:
    """What a killed read left, what ran since, and a consumer whose passes the test makes."""
    ids, ran = producer.publish_many({"n": n} for n in range(3)), list[str]()
    client.xgroup_create(STREAM, GROUP, id="0")
    client.xreadgroup(GROUP, "dead", {STREAM: ">"}, count=3)
    client.zadd("{jobs}:workers:presence", {"dead": 1})
    GroupAdmin(client).keep_alive("another")  # or else it would be taken for an outage
    consumer = make(lambda message_id, _: ran.append(message_id), threads=2, block_seconds=0.01)
    consumer.connect()
    for reader in consumer._life.pool.readers:
        reader._runner.start()
    yield ids, ran, consumer
    for reader in consumer._life.pool.readers:
        reader.outbox.connection.close()


def recovery_of(consumer: RedisStreamConsumer) -> Recovery:
    return consumer._life.pool.subscriptions[0].recovery


def test_while_it_is_not_known_here_what_a_reader_found_others_run_nothing_that_crashed(
    two_readers: tuple[list[str], list[str], RedisStreamConsumer],
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when a reply takes so long that the next turn comes: it may be of the same read."""
    (first, second, retried), ran, consumer = two_readers
    one, other = consumer._life.pool.readers
    taking_over = recovery_of(consumer)
    exchange = one.outbox.exchange
    client.xclaim(STREAM, GROUP, "~parked", 0, [retried], retrycount=0, justid=True)
    client.zadd("{jobs}:workers:due", {retried: time.time() * 1000 + 600_000})

    def late(command: Any) -> Any:
        monkeypatch.setattr(one.outbox, "exchange", exchange)
        reply = exchange(command)
        client.zadd("{jobs}:workers:due", {retried: 1})
        for _ in range(3):
            taking_over._go_on_in(0)
            other.step()
        assert ran == [retried], "which has crashed nobody, and runs beside all"
        return reply

    monkeypatch.setattr(one.outbox, "exchange", late)
    one.step()
    assert ran == [retried, first]
    taking_over._go_on_in(0)
    other.step()
    assert ran == [retried, first], "the outcome of the first is not settled"
    one.step()
    taking_over._go_on_in(0)
    other.step()
    assert ran == [retried, first, second]


def test_a_reader_that_failed_to_look_keeps_nobody_from_running_what_crashed(
    two_readers: tuple[list[str], list[str], RedisStreamConsumer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it had found is its own, and found again later."""
    (_, second, _), ran, consumer = two_readers
    one, other = consumer._life.pool.readers
    exchange = one.outbox.exchange

    def fails(command: Any) -> Any:
        exchange(command)
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(one.outbox, "exchange", fails)
        with pytest.raises(MemoryError):
            one.step()
    recovery_of(consumer)._go_on_in(0)
    other.step()
    assert ran == [second]


def scripts_run(client: redis.Redis) -> int:
    return int(client.info("commandstats")["cmdstat_evalsha"]["calls"])


def test_a_late_result_of_a_message_that_was_taken_over_is_refused(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    slow = Gate("late")
    figures = Figures()
    producer.publish({"n": 1})
    make(slow, result_stream="results", metrics=figures).start()
    assert slow.entered.wait(10)
    client.zadd("{jobs}:workers:presence", {"consumer-1": 0})
    (entry,) = client.xpending_range(STREAM, GROUP, "-", "+", 1)
    client.xclaim(STREAM, GROUP, "other", 0, [entry["message_id"]])
    client.xack(STREAM, GROUP, entry["message_id"])
    client.xdel(STREAM, entry["message_id"])
    slow.opened.set()
    eventually(lambda: figures.counters["jobs_lost"] == 1)
    assert client.xlen("results") == 0
    assert figures.counters["jobs_processed"] == 0
