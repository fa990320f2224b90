"""An id that was returned is a message on the stream; what was refused is not there."""

from __future__ import annotations

import enum
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from helpers import eventually, in_a_fork

from shared_sync import redis_producer
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import (
    ConfigurationError,
    InvalidMessage,
    QueueFull,
    RedisRefused,
    RedisUnavailable,
    SharedSyncError,
)
from shared_sync.redis_producer import BATCH, RedisStreamProducer

STREAM = "jobs"


@pytest.fixture
def producer(redis_url: str) -> Iterator[RedisStreamProducer]:
    with RedisStreamProducer(redis_url, STREAM) as made:
        yield made


def stored(client: redis.Redis) -> list[dict[bytes, bytes]]:
    return [fields for _, fields in client.xrange(STREAM)]


def numbers(client: redis.Redis) -> list[int]:
    return [int(fields[b"n"]) for fields in stored(client)]


def ids(client: redis.Redis) -> list[str]:
    return [entry_id.decode() for entry_id, _ in client.xrange(STREAM)]


def calls_of(client: redis.Redis, command: str) -> int:
    return int(client.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0))


def other_connections(client: redis.Redis) -> list[str]:
    own = str(client.client_id())
    return [one["id"] for one in client.client_list() if one["id"] != own]


def cut_off(client: redis.Redis) -> None:
    """The server closes every connection but the one that looks at it."""
    client.client_kill_filter(_type="normal", skipme=True)


def together(count: int, act: Any) -> None:
    """Run `act(number)` in so many threads that begin at the same moment."""
    barrier = threading.Barrier(count)
    troubles: list[BaseException] = []

    def run(number: int) -> None:
        barrier.wait(10)
        try:
            act(number)
        except BaseException as error:
            troubles.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert troubles == []


# --- publishing -------------------------------------------------------------------------------


def test_a_published_message_is_on_the_stream_under_the_returned_id(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    message_id = producer.publish({"client_id": "c1", "audio": b"\x00\xff"})
    assert client.xrange(STREAM) == [
        (message_id.encode(), {b"client_id": b"c1", b"audio": b"\x00\xff"})
    ]


def test_text_bytes_and_everything_else_are_stored_as_documented(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    class Colour(str, enum.Enum):
        RED = "red"

    producer.publish(
        {
            "größe": "Ω",
            "raw": b"\xff\x00",
            "array": bytearray(b"\xfe"),
            "number": 7,
            "none": None,
            "yes": True,
            "list": ["ä", 1.5],
            "colour": Colour.RED,
            "": "empty name",
        }
    )
    assert stored(client) == [
        {
            "größe".encode(): "Ω".encode(),
            b"raw": b"\xff\x00",
            b"array": b"\xfe",
            b"number": b"7",
            b"none": b"null",
            b"yes": b"true",
            b"list": '["ä", 1.5]'.encode(),
            b"colour": b"red",
            b"": b"empty name",
        }
    ]


def test_a_message_of_a_thousand_fields_and_one_of_five_mebibytes_are_published(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    many = {f"f{number}": number for number in range(1000)}
    audio = b"\xff" * (5 * 1024 * 1024)
    producer.publish_many([many, {"audio": audio}, many])
    first, second, third = stored(client)
    assert len(first) == len(third) == 1000
    assert second == {b"audio": audio}


def test_ids_are_returned_in_the_order_of_the_messages(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    returned = producer.publish_many({"n": number} for number in range(250))
    assert returned == ids(client)
    assert numbers(client) == list(range(250))


def test_no_messages_are_no_round_trip(producer: RedisStreamProducer, client: redis.Redis) -> None:
    before = other_connections(client)
    assert producer.publish_many([]) == []
    assert other_connections(client) == before


def test_without_a_limit_one_message_needs_no_right_but_to_add(own_server: EmbeddedRedis) -> None:
    with redis.Redis.from_url(own_server.url, protocol=2) as admin:
        admin.execute_command("ACL", "SETUSER", "gateway", "on", ">pw", "~jobs", "+xadd")
    url = own_server.url.replace("redis://", "redis://gateway:pw@")
    with RedisStreamProducer(url, STREAM) as producer:
        message_id = producer.publish({"n": 1})
    with redis.Redis.from_url(own_server.url) as client:
        assert ids(client) == [message_id]


def test_messages_travel_a_hundred_to_a_round_trip(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    client.config_resetstat()
    producer.publish_many({"n": number} for number in range(2 * BATCH + 1))
    assert calls_of(client, "evalsha") == 3


def test_large_messages_share_a_round_trip_only_up_to_the_limit(
    producer: RedisStreamProducer, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_producer, "MAX_BATCH_BYTES", 1000)
    client.config_resetstat()
    producer.publish_many({"n": number, "audio": b"x" * 600} for number in range(6))
    assert calls_of(client, "evalsha") == 3
    assert numbers(client) == list(range(6))


def test_a_generator_is_read_as_it_is_needed(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    seen: list[int] = []

    def messages() -> Iterator[dict[str, object]]:
        for number in range(2 * BATCH + 10):
            if number == BATCH:
                seen.append(client.xlen(STREAM))
            yield {"n": number}

    producer.publish_many(messages())
    assert seen == [BATCH]


def test_a_generator_that_publishes_by_itself_does_no_harm(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    def messages() -> Iterator[dict[str, object]]:
        for number in range(3):
            producer.publish({"n": 100 + number})
            yield {"n": number}

    producer.publish_many(messages())
    assert numbers(client) == [100, 101, 102, 0, 1, 2]


def test_an_error_of_the_generator_comes_through_and_the_producer_goes_on(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    def messages() -> Iterator[dict[str, object]]:
        for number in range(BATCH + 5):
            yield {"n": number}
        raise LookupError("the source is gone")

    with pytest.raises(LookupError):
        producer.publish_many(messages())
    assert numbers(client) == list(range(BATCH))
    producer.publish({"n": -1})
    assert numbers(client)[-1] == -1


# --- refusals ---------------------------------------------------------------------------------


def test_an_invalid_message_names_its_field_and_nothing_is_sent(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    before = other_connections(client)
    with pytest.raises(InvalidMessage, match="'audio'") as caught:
        producer.publish({"client_id": "c1", "audio": object()})
    assert caught.value.field == "audio"
    assert caught.value.published == ()
    assert not client.exists(STREAM)
    assert other_connections(client) == before


@pytest.mark.parametrize("fields", [{}, None, "text", {1: "x"}, [("a", "b")]])
def test_what_is_no_message_is_refused(producer: RedisStreamProducer, fields: Any) -> None:
    with pytest.raises(InvalidMessage):
        producer.publish(fields)


def test_an_invalid_message_among_many_stops_there_and_tells_what_was_accepted(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    messages: list[dict[str, object]] = [{"n": number} for number in range(BATCH + 50)]
    messages[BATCH + 20] = {"n": float("nan")}
    with pytest.raises(InvalidMessage) as caught:
        producer.publish_many(messages)
    assert caught.value.field == "n"
    assert list(caught.value.published) == ids(client)
    assert numbers(client) == list(range(BATCH))


def test_a_full_queue_refuses_and_says_what_to_do(redis_url: str, client: redis.Redis) -> None:
    with RedisStreamProducer(redis_url, STREAM, max_queue_depth=2) as producer:
        producer.publish({"n": 0})
        producer.publish({"n": 1})
        with pytest.raises(QueueFull, match=r"'jobs'.*2 messages.*max_queue_depth") as caught:
            producer.publish({"n": 2})
        assert (caught.value.stream, caught.value.limit) == (STREAM, 2)
        assert caught.value.published == ()
        client.xdel(STREAM, ids(client)[0])
        producer.publish({"n": 3})
    assert numbers(client) == [1, 3]


@pytest.mark.parametrize("limit", [1, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH])
def test_many_messages_fill_the_queue_exactly_and_the_error_has_the_accepted_ids(
    redis_url: str, client: redis.Redis, limit: int
) -> None:
    with RedisStreamProducer(redis_url, STREAM, max_queue_depth=limit) as producer:
        with pytest.raises(QueueFull) as caught:
            producer.publish_many({"n": number} for number in range(limit + 1))
        assert list(caught.value.published) == ids(client)
        assert numbers(client) == list(range(limit))


def test_a_queue_that_is_filled_exactly_is_no_error(redis_url: str) -> None:
    with RedisStreamProducer(redis_url, STREAM, max_queue_depth=BATCH) as producer:
        assert len(producer.publish_many({"n": number} for number in range(BATCH))) == BATCH


def test_the_depth_is_exact_under_eight_threads_of_eight_producers(
    redis_url: str, client: redis.Redis
) -> None:
    accepted: list[str] = []
    refused: list[int] = []

    def publish(number: int) -> None:
        with RedisStreamProducer(redis_url, STREAM, max_queue_depth=100) as producer:
            for count in range(50):
                try:
                    accepted.append(producer.publish({"n": number}))
                except QueueFull:
                    refused.append(count)

    together(8, publish)
    assert client.xlen(STREAM) == 100
    assert len(accepted) == 100
    assert len(refused) == 300
    assert sorted(accepted) == sorted(ids(client))


def test_a_key_that_is_no_stream_is_refused_and_the_producer_goes_on_after(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    client.set(STREAM, "a string")
    for publish in (
        lambda: producer.publish_many({"n": number} for number in range(3)),
        lambda: producer.publish({"n": 0}),
    ):
        with pytest.raises(RedisRefused) as caught:
            publish()
        assert caught.value.code == "WRONGTYPE"
        assert caught.value.published == ()
    client.delete(STREAM)
    producer.publish({"n": 1})
    assert numbers(client) == [1]


# --- connections ------------------------------------------------------------------------------


def test_nothing_is_connected_before_the_first_message(redis_url: str, client: redis.Redis) -> None:
    before = other_connections(client)
    with RedisStreamProducer(redis_url, STREAM):
        assert other_connections(client) == before


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
        cut_off(client)
        assert other_connections(client) == []
    assert numbers(client) == list(range(20))


def test_killed_connections_of_several_threads_are_survived(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    def publish(number: int) -> None:
        producer.publish({"n": number})

    together(4, publish)
    cut_off(client)
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
def test_a_server_that_takes_no_writes_any_more_is_let_go_for_another_may_take_them(
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


def test_what_was_accepted_before_the_server_went_away_is_told(own_server: EmbeddedRedis) -> None:
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


def test_without_a_server_the_caller_is_told_quickly(redis_server: EmbeddedRedis) -> None:
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


def test_a_server_that_does_not_answer_is_waited_for_no_longer_than_told(
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


# --- arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, -1, 1.5, "10", True, float("nan")])
def test_a_depth_that_cannot_work_is_refused(limit: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_queue_depth"):
        RedisStreamProducer("redis://localhost", STREAM, max_queue_depth=limit)


@pytest.mark.parametrize("name", ["", None, b"jobs", 5])
def test_a_stream_name_that_cannot_work_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="stream_name"):
        RedisStreamProducer("redis://localhost", name)


@pytest.mark.parametrize("url", ["", "localhost:6379", "http://localhost", None, 6379])
def test_a_url_that_cannot_work_is_refused(url: Any) -> None:
    with pytest.raises(ConfigurationError, match="redis_url"):
        RedisStreamProducer(url, STREAM)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), "10", True])
def test_a_timeout_that_cannot_work_is_refused(timeout: Any) -> None:
    with pytest.raises(ConfigurationError, match="timeout_seconds"):
        RedisStreamProducer("redis://localhost", STREAM, timeout_seconds=timeout)


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
