"""A scheduled job is published at its time by any consumer of its stream, once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import redis
from consumers import Make
from faults.proxy import Proxy
from helpers import eventually
from producers import STREAM, ids, stored

from shared_sync import Job, RedisStreamProducer, current_message
from shared_sync.connection.embedded import EmbeddedRedis

SCHEDULED = "{jobs}:scheduled"


def job_ids(producer: RedisStreamProducer) -> list[str]:
    return [job.id for job in producer.scheduled()]


def test_a_delayed_message_is_kept_off_the_stream_until_a_consumer_publishes_it(
    producer: RedisStreamProducer, client: redis.Redis, make: Make
) -> None:
    seen: list[tuple[str, dict[str, str | bytes]]] = []
    job_id = producer.publish({"n": 1, "raw": "ä"}, delay_seconds=0.05, expires_seconds=60)
    assert job_id.startswith("scheduled-")
    assert not client.exists(STREAM)
    assert job_ids(producer) == [job_id]
    with make(lambda message_id, fields: seen.append((message_id, fields))):
        eventually(lambda: seen)
        eventually(lambda: not client.exists(SCHEDULED, "{jobs}:scheduled:messages"))
    (entry_id, fields), *_ = seen
    assert (len(seen), fields["n"], fields["raw"]) == (1, "1", "ä")
    assert client.get(f"{{jobs}}:published:{job_id}") == entry_id.encode()
    assert producer.count_scheduled() == 0


def test_the_id_of_a_scheduled_job_travels_in_its_options(
    producer: RedisStreamProducer, client: redis.Redis, make: Make
) -> None:
    client.xgroup_create(STREAM, "other", mkstream=True)  # keeps the entry
    job_id = producer.publish({"n": 1}, at=0, reply_to="{jobs}:replies:ab")
    with make(lambda *_: None):
        eventually(lambda: ids(client))
    (fields,) = stored(client)
    assert json.loads(fields[b"shared_sync.options"]) == {
        "reply_to": "{jobs}:replies:ab",
        "id": job_id,
    }


@pytest.mark.parametrize(
    "moment",
    [lambda at: at, lambda at: datetime.fromtimestamp(at, timezone(timedelta(hours=5)))],
)
def test_a_time_is_given_in_seconds_or_with_a_zone(
    producer: RedisStreamProducer, moment: Callable[[float], Any]
) -> None:
    at = float(round(time.time()) + 3600)
    job_id = producer.publish({"n": 1}, at=moment(at))
    assert [(job.id, job.at) for job in producer.scheduled()] == [(job_id, at)]


def test_a_delay_of_zero_publishes_at_once(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    assert [producer.publish({"n": 1}, delay_seconds=0)] == ids(client)


def test_jobs_are_listed_by_time_in_pages_also_if_many_have_the_same_time(
    producer: RedisStreamProducer,
) -> None:
    at = time.time() + 3600
    moments = [at + n // 150 for n in range(390)]
    returned = producer.publish_many([Job({"n": n}, at=moments[n]) for n in range(390)])
    assert producer.count_scheduled() == 390
    listed = [*producer.scheduled()]
    assert [job.at for job in listed] == pytest.approx(moments, abs=0.001)
    assert sorted(job.id for job in listed) == sorted(returned)


def test_a_key_schedules_a_job_once(producer: RedisStreamProducer) -> None:
    first = producer.publish({"n": 1}, delay_seconds=60, deduplicate_key="k")
    assert producer.publish({"n": 2}, delay_seconds=90, deduplicate_key="k") == first
    assert job_ids(producer) == [first]


def test_scheduled_jobs_need_no_room_in_the_queue(redis_url: str, client: redis.Redis) -> None:
    with RedisStreamProducer(redis_url, STREAM, max_queue_depth=1) as producer:
        producer.publish_many([{"n": 0}, Job({"n": 1}, delay_seconds=60)])
        assert (client.xlen(STREAM), producer.count_scheduled()) == (1, 1)


def test_many_jobs_run_once_each_however_many_consumers_publish_them(
    producer: RedisStreamProducer, client: redis.Redis, make: Make
) -> None:
    numbers: list[str] = []

    def processor(_: str, fields: dict[str, Any]) -> None:
        assert current_message().attempt == 1
        numbers.append(fields["n"])

    with make(processor), make(processor), make(processor):
        producer.publish_many([Job({"n": n}, delay_seconds=0.1 + n % 7 / 10) for n in range(350)])
        eventually(lambda: len(numbers) >= 350)
        eventually(lambda: client.xlen(STREAM) == 0)
    assert sorted(map(int, numbers)) == [*range(350)]


def test_jobs_are_published_once_although_the_connection_of_the_consumer_is_cut(
    redis_server: EmbeddedRedis, producer: RedisStreamProducer, client: redis.Redis, make: Make
) -> None:
    numbers: list[str] = []
    with closing(Proxy(redis_server.port)) as proxy:
        faults = [cut("publish_due", times=2) for cut in (proxy.cut_before, proxy.lose_reply)]
        with make(lambda _, fields: numbers.append(fields["n"]), url=proxy.url, lease_seconds=1.0):
            producer.publish_many([Job({"n": n}, delay_seconds=0.05) for n in range(250)])
            eventually(lambda: len(numbers) >= 250)
            eventually(lambda: all(fault.happened.is_set() for fault in faults))
            eventually(lambda: not client.exists(SCHEDULED, STREAM) or client.xlen(STREAM) == 0)
    assert sorted(map(int, numbers)) == [*range(250)]


def test_a_scheduled_job_that_is_cancelled_never_runs_and_its_caller_is_told(
    producer: RedisStreamProducer, client: redis.Redis, make: Make
) -> None:
    ran: list[str] = []
    handle = producer.submit({"n": 1}, delay_seconds=3600)
    with make(lambda message_id, _: ran.append(message_id)):
        assert handle.cancel() == "scheduled"
        assert handle.result(20).status == "cancelled"
        assert handle.cancel() == "ended"
        eventually(lambda: not client.exists(SCHEDULED))
    assert ran == []
