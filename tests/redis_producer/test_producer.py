"""An id that was returned is a message on the stream; what was refused is not there."""

from __future__ import annotations

import datetime
import enum
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pytest
import redis
from producers import STREAM, calls_of, ids, numbers, other_connections, stored, together

from shared_sync import message
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import (
    ConfigurationError,
    InvalidMessage,
    QueueFull,
    RedisRefused,
)
from shared_sync.redis_producer import RedisStreamProducer, batches
from shared_sync.redis_producer.batches import BATCH

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


def test_dates_paths_and_the_like_are_stored_as_text(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    at = datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.timezone.utc)
    producer.publish({"at": at, "file": PurePosixPath("/a"), "options": {"until": at}})
    assert stored(client) == [
        {
            b"at": b"2026-01-02T03:04:00+00:00",
            b"file": b"/a",
            b"options": b'{"until": "2026-01-02T03:04:00+00:00"}',
        }
    ]


def test_names_that_dead_letters_use_are_refused(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    """Else the message would lose the field when it is replayed as a dead letter."""
    for publish in (producer.publish, lambda fields: producer.publish_many([{"n": 1}, fields])):
        with pytest.raises(InvalidMessage, match=r"'dead\.id' begins with 'dead\.'") as caught:
            publish({"n": 1, "dead.id": "1-0"})
        assert caught.value.field == "dead.id"
    assert stored(client) == []


def test_a_message_that_is_larger_than_an_entry_may_be_is_refused_before_it_is_sent(
    producer: RedisStreamProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message, "MAX_MESSAGE_BYTES", 1_000_000)
    value = b"x" * 400_000
    producer.publish({"a": value, "b": value})
    with pytest.raises(InvalidMessage, match=r"up to 'c' have 1200000 bytes together") as caught:
        producer.publish({"a": value, "b": value, "c": value})
    assert caught.value.field == "c"


def test_a_message_of_a_thousand_fields_and_one_of_five_mebibytes_are_published(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    many = {f"f{number}": number for number in range(1000)}
    audio = b"\xff" * (5 * 1024 * 1024)
    producer.publish_many([many, {"audio": audio}, many])
    first, second, third = stored(client)
    assert len(first) == len(third) == 1000
    assert second == {b"audio": audio}


@pytest.mark.parametrize("collect", [iter, list, tuple])
def test_ids_are_returned_in_the_order_of_the_messages(
    producer: RedisStreamProducer, client: redis.Redis, collect: Any
) -> None:
    returned = producer.publish_many(collect({"n": number} for number in range(250)))
    assert returned == ids(client)
    assert numbers(client) == list(range(250))


def test_no_messages_are_no_round_trip(producer: RedisStreamProducer, client: redis.Redis) -> None:
    before = set(other_connections(client))
    assert producer.publish_many([]) == []
    assert set(other_connections(client)) <= before


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
    monkeypatch.setattr(batches, "MAX_BATCH_BYTES", 1000)
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
    before = set(other_connections(client))
    with pytest.raises(InvalidMessage, match="'audio'") as caught:
        producer.publish({"client_id": "c1", "audio": object()})
    assert caught.value.field == "audio"
    assert caught.value.published == ()
    assert not client.exists(STREAM)
    assert set(other_connections(client)) <= before


@pytest.mark.parametrize("fields", [{}, None, "text", {1: "x"}, [("a", "b")]])
def test_what_is_no_message_is_refused(producer: RedisStreamProducer, fields: Any) -> None:
    with pytest.raises(InvalidMessage):
        producer.publish(fields)


def test_an_invalid_message_among_many_stops_there_and_reports_what_was_accepted(
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


@pytest.mark.parametrize("collect", [iter, list])
@pytest.mark.parametrize("limit", [1, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH])
def test_many_messages_fill_the_queue_exactly_and_the_error_has_the_accepted_ids(
    redis_url: str, client: redis.Redis, limit: int, collect: Any
) -> None:
    messages = collect({"n": number} for number in range(limit + 1))
    with RedisStreamProducer(redis_url, STREAM, max_queue_depth=limit) as producer:
        with pytest.raises(QueueFull) as caught:
            producer.publish_many(messages)
        assert list(caught.value.published) == ids(client)
        assert numbers(client) == list(range(limit))


def test_a_refusal_comes_before_an_invalid_message_that_was_read_ahead(
    redis_url: str, client: redis.Redis
) -> None:
    messages: list[dict[str, object]] = [{"n": number} for number in range(BATCH)]
    with RedisStreamProducer(redis_url, STREAM, max_queue_depth=BATCH - 1) as producer:
        with pytest.raises(QueueFull) as caught:
            producer.publish_many([*messages, {}])
        assert list(caught.value.published) == ids(client)
        client.delete(STREAM)
        assert [producer.publish({"n": -1})] == ids(client)


def test_an_unknown_error_of_a_message_that_was_read_ahead_comes_through(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    class Broken(dict[str, object]):
        def items(self) -> Any:
            raise LookupError("no items")

    messages = [*({"n": number} for number in range(BATCH)), Broken(n=1)]
    with pytest.raises(LookupError):
        producer.publish_many(messages)
    assert numbers(client) == list(range(BATCH))
    assert producer.publish({"n": -1}) == ids(client)[-1]


def test_scripts_that_the_server_forgets_on_the_way_are_loaded_again(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    def messages() -> Iterator[dict[str, object]]:
        for number in range(3 * BATCH):
            if number == BATCH:
                client.script_flush()
            yield {"n": number}

    assert producer.publish_many(messages()) == ids(client)
    assert numbers(client) == list(range(3 * BATCH))


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


@pytest.mark.parametrize(
    ("rights", "options"),
    [
        (("+xadd",), {}),
        (("+xadd", "+evalsha", "+script|load", "+xlen"), {"max_queue_depth": 10}),
    ],
)
def test_the_documented_rights_of_a_producer_are_enough(
    own_server: EmbeddedRedis, rights: tuple[str, ...], options: dict[str, Any]
) -> None:
    with redis.Redis.from_url(own_server.url, protocol=2) as admin:
        user = ("worker", "reset", "on", ">pw", f"~{STREAM}", *rights)
        admin.execute_command("ACL", "SETUSER", *user)
        url = own_server.url.replace("redis://", "redis://worker:pw@")
        with RedisStreamProducer(url, STREAM, **options) as producer:
            producer.publish({"n": 1})
            if options:
                producer.publish_many([{"n": 2}, {"n": 3}])
        assert admin.xlen(STREAM) == (3 if options else 1)
