"""A message with a deduplicate_key is published once, however often it is sent."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import redis
from faults.proxy import Proxy
from producers import STREAM, ids, numbers, stored, together

from shared_sync import Job, RedisStreamProducer
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import QueueFull, RedisRefused, RedisUnavailable


@pytest.fixture
def proxy(redis_server: EmbeddedRedis, client: redis.Redis) -> Iterator[Proxy]:
    assert client.ping()
    with closing(Proxy(redis_server.port)) as made:
        yield made


def test_the_key_publishes_once_and_each_call_returns_the_same_id(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    first = producer.publish({"n": 1}, deduplicate_key="order 7")
    assert producer.publish({"n": 2}, deduplicate_key="order 7") == first
    assert producer.publish({"n": 3}, deduplicate_key="order 8") != first
    assert numbers(client) == [1, 3]
    client.xdel(STREAM, first)
    assert producer.publish({"n": 4}, deduplicate_key="order 7") == first
    assert numbers(client) == [3]


def test_the_key_is_remembered_for_the_given_time(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    producer.publish({"n": 1}, deduplicate_key="{a}:b c", deduplicate_seconds=60)
    key = "{jobs}:published:{a}:b c"
    assert 50_000 < client.pttl(key) <= 60_000
    client.delete(key)  # as its end does
    producer.publish({"n": 2}, deduplicate_key="{a}:b c")
    assert numbers(client) == [1, 2]
    assert client.pttl(key) > 290_000


def test_threads_that_publish_with_the_same_key_publish_once(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    returned: list[str] = []
    together(8, lambda n: returned.append(producer.publish({"n": n}, deduplicate_key="k")))
    assert returned == 8 * ids(client)


def test_a_key_that_was_published_before_needs_no_room(redis_url: str, client: redis.Redis) -> None:
    with RedisStreamProducer(redis_url, STREAM, max_queue_depth=1) as producer:
        first = producer.publish({"n": 1}, deduplicate_key="k")
        assert producer.publish({"n": 1}, deduplicate_key="k") == first
        with pytest.raises(QueueFull) as caught:
            producer.publish_many(
                [
                    Job({"n": 1}, deduplicate_key="k"),
                    Job({"n": 2}, deduplicate_key="l"),
                    Job({"n": 1}, deduplicate_key="k"),
                ]
            )
        assert caught.value.published == (first,)
        client.xdel(STREAM, first)
        producer.publish({"n": 2}, deduplicate_key="l")
    assert numbers(client) == [2]


def test_a_refusal_publishes_nothing_and_keeps_no_key(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    client.set(STREAM, "a string")
    with pytest.raises(RedisRefused, match="WRONGTYPE"):
        producer.publish({"n": 1}, deduplicate_key="k")
    assert client.keys() == [STREAM.encode()]
    client.delete(STREAM)
    client.hset("{jobs}:published:k", "of", "another type")
    with pytest.raises(RedisRefused, match="WRONGTYPE"):
        producer.publish({"n": 1}, deduplicate_key="k")
    assert not client.exists(STREAM)


def test_a_full_server_publishes_nothing_and_keeps_no_key(own_server: EmbeddedRedis) -> None:
    with (
        redis.Redis.from_url(own_server.url) as client,
        RedisStreamProducer(own_server.url, STREAM) as producer,
    ):
        producer.publish({"n": 0}, deduplicate_key="first")  # loads the script
        client.config_set("maxmemory", 1)
        for options in ({"deduplicate_key": "k"}, {"delay_seconds": 60}):
            with pytest.raises(RedisRefused, match="OOM"):
                producer.publish({"n": 1}, **options)  # type: ignore[arg-type]
        client.config_set("maxmemory", 0)
        assert sorted(client.keys()) == [STREAM.encode(), b"{jobs}:published:first"]


def test_a_publication_whose_reply_was_lost_is_repeated_without_a_double(
    proxy: Proxy, client: redis.Redis
) -> None:
    with RedisStreamProducer(proxy.url, STREAM) as producer:
        for cut in (proxy.lose_reply, proxy.cut_before):
            fault = cut("publish_jobs", times=2)
            message_id = producer.publish({"n": 1}, deduplicate_key="k")
            assert fault.happened.is_set()
            assert ids(client) == [message_id]


def test_without_a_key_for_each_message_nothing_is_repeated(
    proxy: Proxy, client: redis.Redis
) -> None:
    with RedisStreamProducer(proxy.url, STREAM) as producer:
        proxy.lose_reply("publish_jobs")
        with pytest.raises(RedisUnavailable):
            producer.publish_many([Job({"n": 0}, deduplicate_key="k"), {"n": 1}])
        assert numbers(client) == [0, 1]
        proxy.lose_reply("publish_jobs")
        with pytest.raises(RedisUnavailable):
            producer.publish({"n": 2}, delay_seconds=60)
        assert client.zcard("{jobs}:scheduled") == 1


def test_without_a_server_the_repeating_ends(redis_server: EmbeddedRedis) -> None:
    with EmbeddedRedis(redis_server.binary) as gone:
        url = gone.url
    with (
        RedisStreamProducer(url, STREAM, timeout_seconds=0.2) as producer,
        pytest.raises(RedisUnavailable),
    ):
        producer.publish({"n": 1}, deduplicate_key="k")


def test_a_restart_of_redis_costs_a_caller_with_keys_no_error_and_no_double(
    own_server: EmbeddedRedis,
) -> None:
    half = threading.Event()
    returned: list[str] = []

    def publish() -> None:
        with RedisStreamProducer(own_server.url, STREAM, timeout_seconds=30) as producer:
            for n in range(400):
                returned.append(producer.publish({"n": n}, deduplicate_key=f"key {n}"))
                if n == 100:
                    half.set()

    with ThreadPoolExecutor(1) as threads:
        publishing = threads.submit(publish)
        assert half.wait(10)
        own_server.kill()
        own_server.start()
        publishing.result(60)
    with redis.Redis.from_url(own_server.url) as client:
        assert ids(client) == returned
        assert numbers(client) == [*range(400)]


def test_ten_thousand_messages_through_a_link_that_loses_replies_are_ten_thousand_entries(
    proxy: Proxy, client: redis.Redis
) -> None:
    """Most of them many at a time, and a thousand one by one."""
    chance = random.Random(13)
    with RedisStreamProducer(proxy.url, STREAM) as producer:
        jobs = [Job({"n": n}, deduplicate_key=f"key {n}") for n in range(10_000)]
        proxy.lose_reply("publish_jobs", times=100, chance=lambda: chance.random() < 0.1)
        returned = producer.publish_many(jobs[:9000])
        fault = proxy.lose_reply("publish_jobs", times=20, chance=lambda: chance.random() < 0.1)
        returned += [
            producer.publish({"n": n}, deduplicate_key=f"key {n}") for n in range(9000, 10_000)
        ]
        assert fault.happened.is_set()
    assert returned == ids(client)
    assert [int(fields[b"n"]) for fields in stored(client)] == [*range(10_000)]
