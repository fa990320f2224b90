"""No message waits long behind another one's job while there is somebody else to run it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Literal

import pytest
import redis
from consumers import STREAM, Make, owners
from helpers import Figures, Gate, eventually

from shared_sync import RedisStreamProducer, Retry, RetryPolicy, current_message
from shared_sync.redis_consumer.prefetch import MOST, READ_BYTES

Job = dict[str, str]


def test_an_idle_thread_runs_what_was_fetched_behind_a_long_job(
    make: Make, producer: RedisStreamProducer, gate: Gate
) -> None:
    begun: dict[str, float] = {}

    def processor(_: str, job: Job) -> None:
        begun[job["n"]] = time.monotonic()
        if job["n"] == "0":
            gate()

    consumer = make(processor, threads=2, prefetch=10, block_seconds=2.0)
    consumer.start()
    producer.publish_many({"n": n} for n in range(20))
    eventually(lambda: len(begun) == 20)
    long_one = begun["0"]
    assert max(begun.values()) - long_one < 1.5, "nobody waits for the end of a block"
    assert consumer.get_health_data()["jobs_in_flight"] == 1


def test_of_messages_that_come_at_once_each_waiting_thread_gets_its_share(
    make: Make, producer: RedisStreamProducer
) -> None:
    together = threading.Barrier(4)
    done: list[int] = []
    consumer = make(lambda *_: done.append(together.wait(10)), threads=4, prefetch=10)
    consumer.start()
    eventually(lambda: sum(row.slot.is_idle for row in consumer._life.pool.readers) == 4)
    producer.publish_many({"n": n} for n in range(4))
    eventually(lambda: len(done) == 4)


def test_retries_that_fall_due_at_once_are_shared_among_waiting_threads(
    make: Make, producer: RedisStreamProducer
) -> None:
    together = threading.Barrier(4)
    done: list[int] = []
    moments: list[float] = []

    def processor(*_: object) -> None:
        moments.append(time.monotonic())
        if current_message().attempt == 1:
            raise ValueError("not yet")
        done.append(together.wait(10))

    make(
        processor,
        threads=4,
        prefetch=10,
        block_seconds=2.0,
        retry=RetryPolicy(max_attempts=2, base_seconds=0.3, max_seconds=0.3, jitter=0.0),
    ).start()
    producer.publish_many({"n": n} for n in range(4))
    eventually(lambda: len(done) == 4)
    assert moments[-1] - moments[0] < 0.3 + 1, "none starts a second after it was due"


@pytest.mark.parametrize("prefetch", [1, 10, "auto"])
@pytest.mark.parametrize("consumers", [1, 2])
def test_retries_leave_every_second_start_to_new_messages_while_these_wait(
    make: Make, producer: RedisStreamProducer, prefetch: int | Literal["auto"], consumers: int
) -> None:
    """However many messages fail, and however soon they are tried again."""
    starts: dict[str, list[bool]] = {}
    new_ones = 0

    def processor(*_: object) -> None:
        nonlocal new_ones
        is_retry = current_message().attempt > 1
        starts.setdefault(threading.current_thread().name, []).append(is_retry)
        new_ones += not is_retry
        raise Retry(delay_seconds=0)

    producer.publish_many({"n": n} for n in range(300))
    retry = RetryPolicy(max_attempts=1_000_000)
    made = [make(processor, prefetch=prefetch, retry=retry) for _ in range(consumers)]
    for consumer in made:
        consumer.start()
    eventually(lambda: new_ones == 300)
    for of_one_reader in starts.values():
        last_new_one = len(of_one_reader) - of_one_reader[::-1].index(False)
        while_they_waited = of_one_reader[:last_new_one]
        assert while_they_waited.count(True) <= while_they_waited.count(False) + 1


def test_what_waits_behind_a_long_job_goes_back_uncharged_for_another_process(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, gate: Gate
) -> None:
    figures = Figures()
    ids = producer.publish_many({"n": n} for n in range(5))
    busy = make(gate, prefetch=5, lease_seconds=3, metrics=figures)
    busy.start()
    assert gate.entered.wait(10)
    begun = time.monotonic()
    assert owners(client) == {"consumer-1": 5}
    attempts: dict[str, int] = {}
    make(lambda one, _: attempts.update({one: current_message().attempt})).start()
    eventually(lambda: len(attempts) == 4)
    assert attempts == dict.fromkeys(ids[1:], 1)
    assert 0.9 < time.monotonic() - begun < 4
    eventually(lambda: figures.counters["jobs_handed_back"] == 4)
    assert gate.calls == 1
    gate.opened.set()
    eventually(lambda: client.xlen(STREAM) == 0)
    assert gate.calls == 1
    assert figures.counters["jobs_lost"] == 0


# --- automatic prefetch -----------------------------------------------------------------------


def reads(client: redis.Redis) -> int:
    return int(client.info("commandstats")["cmdstat_xreadgroup"]["calls"])


def test_short_jobs_are_fetched_by_the_hundred(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    seen: Counter[str] = Counter()
    ids = producer.publish_many({"n": n} for n in range(5000))
    consumer = make(lambda message_id, _: seen.update([message_id]))
    consumer.connect()
    before = reads(client)
    consumer.start()
    eventually(lambda: client.xlen(STREAM) == 0)
    assert seen == Counter(ids)
    assert 5000 / MOST <= reads(client) - before < 1000


def test_large_messages_are_fetched_by_the_half_megabyte(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    messages, large = 120, READ_BYTES // 8
    producer.publish_many({"text": "x" * large} for _ in range(messages))
    consumer = make(lambda *_: None, threads=1)
    consumer.connect()
    before = reads(client)
    consumer.start()
    eventually(lambda: client.xlen(STREAM) == 0)
    assert reads(client) - before >= messages / 8


@pytest.mark.parametrize("seconds", [0.06, 0.2])
def test_long_jobs_are_fetched_one_at_a_time(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, seconds: float
) -> None:
    """So that a process that dies has one message for each of its threads."""
    pause = threading.Event()
    had: list[int] = []

    def processor(*_: object) -> None:
        had.append(owners(client)["consumer-1"])
        pause.wait(seconds)

    producer.publish_many({"n": n} for n in range(5))
    make(processor).start()
    eventually(lambda: client.xlen(STREAM) == 0)
    assert had == [1] * 5
