"""A producer opens connections as needed, replaces broken ones, and shares none with a fork."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from helpers import eventually, in_a_fork
from producers import STREAM, close_all_others, ids, numbers, other_connections, together

from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import ConfigurationError, RedisUnavailable, SharedSyncError
from shared_sync.redis_producer import RedisStreamProducer
from shared_sync.redis_producer.batches import BATCH


def test_nothing_is_connected_before_the_first_message(redis_url: str, client: redis.Redis) -> None:
    before = set(other_connections(client))
    with RedisStreamProducer(redis_url, STREAM):
        assert set(other_connections(client)) <= before


def test_one_thread_uses_one_connection(producer: RedisStreamProducer, client: redis.Redis) -> None:
    before = set(other_connections(client))
    for number in range(10):
        producer.publish({"n": number})
        assert len(set(other_connections(client)) - before) == 1


def test_a_connection_that_was_killed_between_calls_is_survived(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    for number in range(20):
        producer.publish({"n": number})
        close_all_others(client)
        assert other_connections(client) == []
    assert numbers(client) == list(range(20))


def test_killed_connections_of_several_threads_are_survived(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    def publish(number: int) -> None:
        producer.publish({"n": number})

    together(4, publish)
    close_all_others(client)
    together(4, publish)
    assert sorted(numbers(client)) == sorted(list(range(4)) * 2)


def test_a_restarted_server_is_found_again(own_server: EmbeddedRedis) -> None:
    with RedisStreamProducer(own_server.url, STREAM) as producer:
        first = producer.publish({"n": 1})
        own_server.kill()
        with pytest.raises(RedisUnavailable) as caught:
            producer.publish_many([{"n": 2}])
        assert caught.value.published == ()
        own_server.start()
        second = producer.publish({"n": 3})
        with redis.Redis.from_url(own_server.url) as client:
            assert ids(client) == [first, second]


@pytest.mark.parametrize(
    ("act", "undo", "code"),
    [
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "READONLY"),
        (
            "CONFIG SET min-replicas-to-write 1",
            "CONFIG SET min-replicas-to-write 0",
            "NOREPLICAS",
        ),
    ],
)
def test_a_server_that_takes_no_writes_any_more_is_left_as_another_may_take_them(
    own_server: EmbeddedRedis, act: str, undo: str, code: str
) -> None:
    with (
        redis.Redis.from_url(own_server.url, protocol=2) as admin,
        RedisStreamProducer(own_server.url, STREAM) as producer,
    ):
        producer.publish({"n": 1})
        admin.execute_command(*act.split())
        with pytest.raises(RedisUnavailable, match=code):
            producer.publish({"n": 2})
        eventually(lambda: not other_connections(admin))
        admin.execute_command(*undo.split())
        producer.publish({"n": 3})
        assert numbers(admin) == [1, 3]


def test_what_was_accepted_before_the_server_went_away_is_reported(
    own_server: EmbeddedRedis,
) -> None:
    def messages() -> Iterator[dict[str, object]]:
        for number in range(BATCH + 1):
            if number == BATCH:
                own_server.kill()
            yield {"n": number}

    with (
        RedisStreamProducer(own_server.url, STREAM) as producer,
        pytest.raises(RedisUnavailable) as caught,
    ):
        producer.publish_many(messages())
    own_server.start()
    with redis.Redis.from_url(own_server.url) as client:
        assert list(caught.value.published) == ids(client)
        assert numbers(client) == list(range(BATCH))


def test_without_a_server_the_error_comes_quickly(redis_server: EmbeddedRedis) -> None:
    with EmbeddedRedis(redis_server.binary) as gone:
        url = gone.url
    done = threading.Event()
    errors: list[SharedSyncError] = []

    def publish() -> None:
        try:
            RedisStreamProducer(url, STREAM).publish({"n": 1})
        except SharedSyncError as error:
            errors.append(error)
        done.set()

    threading.Thread(target=publish, daemon=True).start()
    assert done.wait(3)
    assert [type(error) for error in errors] == [RedisUnavailable]


def test_a_server_that_does_not_answer_is_waited_for_no_longer_than_the_timeout(
    own_server: EmbeddedRedis,
) -> None:
    with RedisStreamProducer(own_server.url, STREAM, timeout_seconds=0.2) as producer:
        producer.publish({"n": 1})
        os.kill(own_server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(RedisUnavailable):
                producer.publish({"n": 2})
        finally:
            os.kill(own_server.pid, signal.SIGCONT)
        with redis.Redis.from_url(own_server.url) as client:
            eventually(client.ping)
            assert producer.publish({"n": 3}) in ids(client)


def test_never_more_connections_are_open_than_allowed_and_nothing_is_lost(
    redis_url: str, client: redis.Redis
) -> None:
    before = client.info("stats")["total_connections_received"]
    with RedisStreamProducer(redis_url, STREAM, max_connections=3) as producer:

        def publish(thread: int) -> None:
            for number in range(20):
                producer.publish({"n": 20 * thread + number})

        together(12, publish)
    assert client.info("stats")["total_connections_received"] - before <= 3
    assert sorted(numbers(client)) == [*range(240)]


def test_an_iteration_may_publish_itself_and_keeps_no_connection_from_others(
    redis_url: str, client: redis.Redis
) -> None:
    with RedisStreamProducer(redis_url, STREAM, max_connections=1, timeout_seconds=5) as producer:

        def messages() -> Iterator[dict[str, object]]:
            for number in range(0, 2 * BATCH, 2):
                producer.publish({"n": number})
                yield {"n": number + 1}

        assert len(producer.publish_many(messages())) == BATCH
    assert sorted(numbers(client)) == [*range(2 * BATCH)]


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "50", None])
def test_a_number_of_connections_that_cannot_work_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_connections"):
        RedisStreamProducer("redis://localhost", STREAM, max_connections=wrong)


def test_closing_ends_the_connections_and_the_producer_can_still_be_used(
    redis_url: str, client: redis.Redis
) -> None:
    producer = RedisStreamProducer(redis_url, STREAM)
    producer.publish({"n": 0})
    producer.close()
    eventually(lambda: other_connections(client) == [])
    producer.close()
    producer.publish({"n": 1})
    producer.close()
    assert numbers(client) == [0, 1]


def test_eight_threads_share_one_producer_and_lose_nothing(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    returned: list[list[str]] = [[] for _ in range(8)]

    def publish(thread: int) -> None:
        for number in range(200):
            returned[thread].append(producer.publish({"thread": thread, "n": number}))

    together(8, publish)
    entries = client.xrange(STREAM)
    assert len(entries) == 8 * 200
    for thread in range(8):
        mine = [one for one in entries if one[1][b"thread"] == b"%d" % thread]
        assert [entry_id.decode() for entry_id, _ in mine] == returned[thread]
        assert [int(fields[b"n"]) for _, fields in mine] == list(range(200))
    assert len(other_connections(client)) <= 8


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_processes_publish_over_connections_of_their_own(
    redis_url: str, client: redis.Redis
) -> None:
    """As with a gateway whose workers are forked after it has published."""
    with RedisStreamProducer(redis_url, "jobs") as producer:
        producer.publish({"by": "parent"})
        children = []
        for child in range(3):
            pid = os.fork()
            if pid == 0:
                try:
                    for number in range(50):
                        message_id = producer.publish({"by": f"{child} {number}"})
                        producer.publish({"id": message_id, "by": f"{child} {number}"})
                    os._exit(0)
                except BaseException:
                    os._exit(1)
            children.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
        producer.publish({"by": "parent"})
    entries = dict(client.xrange("jobs"))
    assert len(entries) == 2 + 3 * 50 * 2
    for fields in entries.values():
        if b"id" in fields:
            assert entries[fields[b"id"]][b"by"] == fields[b"by"]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_may_close_it_and_its_parent_goes_on(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    producer.publish({"n": 1})
    connections = other_connections(client)
    assert in_a_fork(producer.close) is None
    producer.publish({"n": 2})
    assert numbers(client) == [1, 2]
    assert other_connections(client) == connections
