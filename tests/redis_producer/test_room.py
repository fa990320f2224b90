"""A full stream: who keeps it full is named, and a publication may wait for room."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import redis
from helpers import eventually
from producers import STREAM, calls_of, ids, numbers

from shared_sync import RedisStreamProducer
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import QueueFull
from shared_sync.redis_producer import sending

HOUR_MS = 3_600_000


def refused(producer: RedisStreamProducer) -> QueueFull:
    with pytest.raises(QueueFull) as caught:
        producer.publish({"n": -1})
    return caught.value


def counts_unread(client: redis.Redis) -> bool:
    return not str(client.info("server")["redis_version"]).startswith("6.")


@pytest.fixture
def hour_old(client: redis.Redis) -> list[str]:
    """Three messages of an hour ago."""
    seconds, _ = client.time()
    made = [f"{seconds * 1000 - HOUR_MS + n}-0" for n in range(3)]
    for message_id in made:
        client.xadd(STREAM, {"n": "1"}, id=message_id)
    return made


def test_the_error_says_that_no_group_reads_a_stream(
    redis_url: str, client: redis.Redis, hour_old: list[str]
) -> None:
    with RedisStreamProducer(redis_url, STREAM, max_queue_depth=3) as producer:
        error = refused(producer)
    assert "maximum of 3 messages, and no group reads it; publish again" in str(error)
    assert (error.group, error.entries, error.oldest_seconds) == ("", None, None)


@pytest.mark.parametrize("reads", [0, 2])
def test_the_error_names_the_group_that_holds_messages_back_how_many_and_for_how_long(
    redis_url: str, client: redis.Redis, hour_old: list[str], reads: int
) -> None:
    for group in ("quick", "slow", "quickest"):
        client.xgroup_create(STREAM, group, "0")
    for group, count in (("quick", 3), ("quickest", 3), ("slow", reads)):
        if count:
            client.xreadgroup(group, "worker", {STREAM: ">"}, count=count)
        if group != "slow":
            client.xack(STREAM, group, *hour_old)
    with RedisStreamProducer(redis_url, STREAM, max_queue_depth=3) as producer:
        error = refused(producer)
    number = "3 " if counts_unread(client) else ""
    assert f"group 'slow' has not finished {number}messages, the oldest is 60 min old" in str(error)
    assert error.group == "slow"
    assert error.entries == (3 if counts_unread(client) else None)
    assert error.oldest_seconds == pytest.approx(3600, abs=60)


def test_the_slowest_group_is_looked_up_once_a_second(
    redis_url: str, client: redis.Redis, hour_old: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client.xgroup_create(STREAM, "slow", "0")
    with RedisStreamProducer(redis_url, STREAM, max_queue_depth=3) as producer:
        client.config_resetstat()
        assert [refused(producer).group for _ in range(5)] == 5 * ["slow"]
        assert calls_of(client, "evalsha") == 5 + 1
        monkeypatch.setattr(sending, "FRESH_SECONDS", -1.0)
        client.xgroup_destroy(STREAM, "slow")
        assert refused(producer).group == ""


def test_without_the_right_to_ask_the_error_names_no_group(own_server: EmbeddedRedis) -> None:
    rights = ("~jobs", "+xadd", "+xlen", "+evalsha", "+script|load")
    with redis.Redis.from_url(own_server.url, protocol=2) as admin:
        admin.execute_command("ACL", "SETUSER", "gateway", "on", ">pw", *rights)
        admin.xgroup_create(STREAM, "workers", "0", mkstream=True)
        url = own_server.url.replace("redis://", "redis://gateway:pw@")
        with RedisStreamProducer(url, STREAM, max_queue_depth=1) as producer:
            first = producer.publish({"n": 0})
            error = refused(producer)
            assert (error.group, "group" in str(error)) == (None, False)
            admin.xdel(STREAM, first)
            producer.publish({"n": 1})


def test_a_publication_waits_for_room_and_is_published_as_soon_as_there_is_some(
    redis_url: str, client: redis.Redis
) -> None:
    with RedisStreamProducer(redis_url, STREAM, max_queue_depth=2) as producer:
        first, second = producer.publish_many([{"n": 0}, {"n": 1}])
        published: list[str] = []

        def publish() -> None:
            published.extend(
                producer.publish_many([{"n": n} for n in range(2, 6)], block_seconds=30)
            )
            published.append(producer.publish({"n": 6}, block_seconds=30))

        client.config_resetstat()
        thread = threading.Thread(target=publish)
        thread.start()
        eventually(lambda: calls_of(client, "evalsha") >= 3)
        assert ids(client) == [first, second]
        taken = []
        while len(taken) < 5:
            eventually(lambda: client.xlen(STREAM) == 2)
            taken += numbers(client)[:1]
            client.xdel(STREAM, ids(client)[0])
        thread.join(30)
        assert taken == [0, 1, 2, 3, 4]
        assert published[-2:] == ids(client)
        assert len({*published}) == 5


@pytest.mark.parametrize("many", [False, True])
def test_a_wait_for_room_ends(redis_url: str, client: redis.Redis, many: bool) -> None:
    with RedisStreamProducer(redis_url, STREAM, max_queue_depth=1) as producer:
        first = producer.publish({"n": 0})

        def publish() -> Any:
            if many:
                return producer.publish_many([{"n": 1}], block_seconds=0.05)
            return producer.publish({"n": 1}, block_seconds=0.05)

        client.config_resetstat()
        with pytest.raises(QueueFull):
            publish()
        assert calls_of(client, "xadd") == 0
        assert calls_of(client, "evalsha") > 2
        client.xdel(STREAM, first)
        publish()
        assert numbers(client) == [1]


def test_a_request_waits_for_room_no_longer_than_for_its_result(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RedisStreamProducer(redis_url, STREAM, max_queue_depth=1) as producer:
        producer.publish({"n": 1})
        send, limits = producer._sender.send, []

        def note_and_send(*args: Any, wait_until: float) -> None:
            limits.append(wait_until - time.monotonic())
            send(*args, wait_until=min(wait_until, time.monotonic() + 0.05))

        monkeypatch.setattr(producer._sender, "send", note_and_send)
        with pytest.raises(QueueFull):
            producer.request({"n": 2}, timeout=5, block_seconds=60)
    assert limits[0] <= 5
