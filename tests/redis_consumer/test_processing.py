"""Every message runs once, on as many threads as asked for, and ends in every group."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
import redis
from consumers import GROUP, LOGGER, STREAM, Make, pending
from helpers import Figures, eventually

from shared_sync import RedisStreamConsumer, RedisStreamProducer
from shared_sync.redis_consumer.prefetch import Setting


def test_six_arguments_are_enough_to_process_a_thousand_messages(
    redis_url: str, client: redis.Redis, producer: RedisStreamProducer
) -> None:
    seen: Counter[str] = Counter()
    ids = producer.publish_many({"number": number} for number in range(1000))
    consumer = RedisStreamConsumer(
        redis_url, STREAM, GROUP, "only", LOGGER, lambda message_id, _: seen.update([message_id])
    )
    with consumer:
        eventually(lambda: client.xlen(STREAM) == 0)
        assert pending(client) == 0
    assert seen == Counter(ids)


def test_the_processor_gets_text_and_the_binary_fields_as_bytes(
    make: Make, producer: RedisStreamProducer
) -> None:
    got: list[tuple[str, dict[str, object]]] = []
    message_id = producer.publish({"audio": b"\xff\x00", "name": "größer", "meta": {"rate": 16000}})
    make(lambda *job: got.append(job), binary_fields=("audio",)).start()
    eventually(lambda: got)
    fields = {"audio": b"\xff\x00", "name": "größer", "meta": '{"rate": 16000}'}
    assert got == [(message_id, fields)]


def test_messages_published_before_the_first_worker_came_are_processed(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    producer.publish({"n": 1})
    make(lambda *_: None).start()
    eventually(lambda: client.xlen(STREAM) == 0)


def test_threads_run_messages_at_the_same_time(make: Make, producer: RedisStreamProducer) -> None:
    together = threading.Barrier(4)
    producer.publish_many({"n": n} for n in range(4))
    done: list[int] = []
    make(lambda *_: done.append(together.wait(10)), threads=4).start()
    eventually(lambda: len(done) == 4)


@pytest.mark.parametrize("prefetch", ["auto", 1, 10, 100])
def test_every_message_is_processed_once_with_any_prefetch(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, prefetch: Setting
) -> None:
    seen: Counter[str] = Counter()
    figures = Figures()
    ids = producer.publish_many({"n": n} for n in range(500))
    make(
        lambda message_id, _: seen.update([message_id]),
        threads=3,
        prefetch=prefetch,
        metrics=figures,
    ).start()
    eventually(lambda: client.xlen(STREAM) == 0)
    eventually(lambda: figures.counters["jobs_processed"] == 500)
    assert seen == Counter(ids)
    assert figures.durations["queue_wait"] == 500
    assert figures.durations["processing_latency"] == 500


def test_an_outcome_is_recorded_while_the_next_read_blocks(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    figures = Figures()
    make(lambda *_: None, metrics=figures, block_seconds=2).start()
    producer.publish({"n": 1})
    eventually(lambda: figures.counters["jobs_processed"] == 1)
    assert client.xlen(STREAM) == 0


def test_an_entry_is_deleted_only_when_every_group_has_finished_it(
    redis_url: str, make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    client.xgroup_create(STREAM, "archive", id="0", mkstream=True)
    producer.publish_many({"n": n} for n in range(5))
    figures = Figures()
    make(lambda *_: None, metrics=figures).start()
    eventually(lambda: figures.counters["jobs_processed"] == 5)
    assert client.xlen(STREAM) == 5
    with RedisStreamConsumer(redis_url, STREAM, "archive", "a1", LOGGER, lambda *_: None):
        eventually(lambda: client.xlen(STREAM) == 0)
