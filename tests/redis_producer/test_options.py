"""The options of a message travel in one field of it, and options that cannot work are refused."""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Any

import pytest
import redis
from producers import STREAM, calls_of, stored

from shared_sync import Job, RedisStreamProducer
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import ConfigurationError, InvalidMessage, RedisAccessDenied

REPLIES = "{jobs}:replies:ab12"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def options_of(fields: dict[bytes, bytes]) -> Any:
    return json.loads(fields[b"shared_sync.options"])


def test_options_travel_in_the_last_field_in_one_plain_command(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    client.config_resetstat()
    producer.publish({"n": 1}, expires_seconds=30, reply_to=REPLIES, traceparent=TRACE)
    assert calls_of(client, "xadd") == 1
    assert calls_of(client, "evalsha") == 0
    (fields,) = stored(client)
    assert [*fields] == [b"n", b"shared_sync.options"]
    assert options_of(fields) == {"reply_to": REPLIES, "expires_seconds": 30, "traceparent": TRACE}


def test_each_of_many_messages_may_have_options_of_its_own(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    ids = producer.publish_many(
        [
            {"n": 0},
            Job({"n": 1}, expires_seconds=1.5),
            Job({"n": 2}, deduplicate_key="two"),
            Job({"n": 3}, deduplicate_key="two"),
            Job({"n": 4}),
        ]
    )
    assert ids[2] == ids[3]
    assert len({*ids}) == 4
    fields = stored(client)
    assert [one[b"n"] for one in fields] == [b"0", b"1", b"2", b"4"]
    assert options_of(fields[1]) == {"expires_seconds": 1.5}
    assert [len(one) for one in fields] == [1, 2, 1, 1]


@pytest.mark.parametrize("name", ["shared_sync.options", "shared_sync.", "dead.id"])
def test_names_of_the_library_are_refused_as_fields(
    producer: RedisStreamProducer, client: redis.Redis, name: str
) -> None:
    for publish in (
        lambda: producer.publish({"n": 1, name: "1"}),
        lambda: producer.publish_many([{"n": 1}, {name: "1"}]),
        lambda: producer.publish_many([Job({name: "1"}, expires_seconds=1)]),
    ):
        with pytest.raises(InvalidMessage, match="begins with") as caught:
            publish()
        assert caught.value.field == name
    assert stored(client) == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"expires_seconds": 0}, "expires_seconds"),
        ({"expires_seconds": math.inf}, "expires_seconds"),
        ({"expires_seconds": "30"}, "expires_seconds"),
        ({"reply_to": "results"}, r"'results' is not a reply stream .* '\{jobs\}:replies:'"),
        ({"reply_to": "{other}:replies:ab"}, "is not a reply stream"),
        ({"reply_to": "{jobs}:replies:dead"}, "is not a reply stream"),
        ({"reply_to": ""}, "reply_to must be text"),
        ({"traceparent": 7}, "traceparent must be text"),
        ({"deduplicate_key": ""}, "deduplicate_key must be text"),
        ({"deduplicate_key": "k", "deduplicate_seconds": 0.5}, "deduplicate_seconds"),
        ({"delay_seconds": -1}, "delay_seconds"),
        ({"delay_seconds": True}, "delay_seconds"),
        ({"delay_seconds": 1, "at": 1e9}, "delay_seconds or at, not both"),
        ({"at": datetime(2026, 12, 1)}, "time zone"),
        ({"at": "tomorrow"}, "at must be a datetime with a time zone, or seconds since 1970"),
        ({"at": 1e12}, "seconds since 1970, not 1000000000000.0"),
    ],
)
def test_an_option_that_cannot_work_is_refused_and_nothing_is_sent(
    producer: RedisStreamProducer, client: redis.Redis, options: dict[str, Any], error: str
) -> None:
    with pytest.raises(ConfigurationError, match=error):
        producer.publish({"n": 1}, **options)
    with pytest.raises(ConfigurationError, match=error):
        producer.publish_many([{"n": 0}, Job({"n": 1}, **options)])
    assert client.keys() == []


@pytest.mark.parametrize("method", ["publish", "submit"])
def test_a_job_in_the_place_of_fields_is_refused_with_the_way_to_give_options(
    producer: RedisStreamProducer, method: str
) -> None:
    for options in ({}, {"expires_seconds": 5}):
        with pytest.raises(InvalidMessage, match=r"only publish_many\(\) takes a Job"):
            getattr(producer, method)(Job({"n": 1}), **options)


@pytest.mark.parametrize("wrong", [-1, math.nan, "1", None])
def test_a_wait_for_room_that_cannot_work_is_refused(redis_url: str, wrong: Any) -> None:
    with RedisStreamProducer(redis_url, STREAM, max_queue_depth=1) as producer:
        for publish in (producer.publish, lambda one, **how: producer.publish_many([one], **how)):
            with pytest.raises(ConfigurationError, match="block_seconds"):
                publish({"n": 1}, block_seconds=wrong)


def test_the_documented_rights_for_options_are_enough(own_server: EmbeddedRedis) -> None:
    rights = ("~jobs", "~{jobs}:*", "+xadd", "+evalsha", "+script|load")
    more = ("+get", "+set", "+time", "+zadd", "+hset")
    with redis.Redis.from_url(own_server.url, protocol=2) as admin:
        admin.execute_command("ACL", "SETUSER", "gateway", "reset", "on", ">pw", *rights, *more)
        url = own_server.url.replace("redis://", "redis://gateway:pw@")
        with RedisStreamProducer(url, STREAM) as producer:
            producer.publish({"n": 1}, deduplicate_key="k")
            producer.publish({"n": 2}, delay_seconds=60)
        assert admin.xlen(STREAM) == admin.zcard("{jobs}:scheduled") == 1


@pytest.mark.parametrize(
    ("missing", "options"),
    [("+set", {"deduplicate_key": "k"}), ("+zadd", {"delay_seconds": 60}), ("+hset", {"at": 1e10})],
)
def test_without_one_of_these_rights_nothing_is_published_and_nothing_kept(
    own_server: EmbeddedRedis, missing: str, options: dict[str, Any]
) -> None:
    with redis.Redis.from_url(own_server.url, protocol=2) as admin:
        user = ("ACL", "SETUSER", "gateway", "on", ">pw", "~*", "+@all")
        admin.execute_command(*user, missing.replace("+", "-"))
        url = own_server.url.replace("redis://", "redis://gateway:pw@")
        with (
            RedisStreamProducer(url, STREAM) as producer,
            pytest.raises(RedisAccessDenied),
        ):
            producer.publish({"n": 1}, **options)
        assert admin.keys() == []
