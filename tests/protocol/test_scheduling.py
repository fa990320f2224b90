"""Scheduled jobs are published in steps, once, and stay scheduled if the server refuses them."""

from __future__ import annotations

import logging
import math
from contextlib import closing

import pytest
import redis
from helpers import Clock
from protocol_client import KEYS, make_connection
from readers import ScriptedConnection

from shared_sync.connection.connection import Connection
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.protocol import publishing, scheduling
from shared_sync.protocol.keys import StreamKeys
from shared_sync.protocol.publishing import Placing
from shared_sync.protocol.scheduling import (
    MOST_STEPS,
    SHORTEST_PAUSE_SECONDS,
    STEP,
    ScheduledJobs,
)

LOGGER = logging.getLogger("tests.scheduling")


def schedule(connection: Connection, *job_ids: str, due: str = "1000", size: int = 1) -> None:
    """Schedule jobs, each with its id in its options."""
    items = [[b"n", b"x" * size, b"options", b'{"id": "%b"}' % one.encode()] for one in job_ids]
    placings = [Placing(scheduled_id=one, due=due) for one in job_ids]
    command = publishing.publish_jobs(StreamKeys.of(KEYS.stream), items, placings, None)
    assert publishing.parse_published(connection.call(*command)) == ([*job_ids], None)


@pytest.fixture
def jobs(clock: Clock) -> ScheduledJobs:
    return ScheduledJobs(KEYS, LOGGER, clock, chance=lambda: 0.0)


def test_without_jobs_there_is_nothing_to_wait_for(
    jobs: ScheduledJobs, connection: Connection, client: redis.Redis
) -> None:
    jobs.check(connection, None)
    assert jobs.interval_seconds == math.inf
    assert client.keys() == []


def test_the_next_check_is_at_the_time_of_the_next_job(
    jobs: ScheduledJobs, connection: Connection, clock: Clock, client: redis.Redis
) -> None:
    schedule(connection, "later", due="+3600000")
    jobs.check(connection, 5000)
    assert jobs.interval_seconds == pytest.approx(5.0)
    clock.now += 4.0
    assert jobs.interval_seconds == pytest.approx(1.0)
    schedule(connection, "now")
    jobs.check(connection, 0)
    assert client.xlen(KEYS.stream) == 1
    assert jobs.interval_seconds == pytest.approx(3600, abs=60)


def test_jobs_are_published_by_time_in_bounded_steps(
    jobs: ScheduledJobs, connection: Connection, client: redis.Redis
) -> None:
    most = MOST_STEPS * STEP
    names = [f"job-{n:04}" for n in range(most + 5)]
    for n in range(0, len(names), STEP):
        schedule(connection, *names[n : n + STEP], due=str(1000 + n))
    jobs.check(connection, 0)
    assert client.xlen(KEYS.stream) == most
    assert jobs.interval_seconds == pytest.approx(SHORTEST_PAUSE_SECONDS)
    jobs.check(connection, 0)
    entries = client.xrange(KEYS.stream)
    assert [fields[b"options"] for _, fields in entries] == [
        b'{"id": "%b"}' % one.encode() for one in names
    ]
    assert jobs.interval_seconds == math.inf
    for (entry_id, _), one in zip(entries, names, strict=True):
        assert client.get(f"{{jobs}}:published:{one}") == entry_id


def test_large_jobs_are_published_a_few_at_a_time(
    connection: Connection, client: redis.Redis
) -> None:
    schedule(connection, "a", "b", "c", size=3 * 1024 * 1024)
    names = (KEYS.stream, KEYS.scheduled, KEYS.scheduled_messages, KEYS.cancelled)
    published = [f"{{jobs}}:published:{one}" for one in "abc"]
    command = scheduling.scripts.call("publish_due", [*names, *published], 1000, *"abc")
    assert connection.call(*command) == [2, 0, b"", []]
    assert connection.call(*command) == [1, -1, b"", []]
    assert connection.call(*command) == [0, -1, b"", []]
    assert client.xlen(KEYS.stream) == 3


class Repeating:
    """A connection that sends each script twice, as after a reply that was lost."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def call(self, *command: object) -> object:
        if command[0] == "EVALSHA":
            self._connection.call(*command)
        return self._connection.call(*command)


def test_sending_again_publishes_nothing_twice(
    jobs: ScheduledJobs, connection: Connection, client: redis.Redis
) -> None:
    schedule(connection, "a", "b")
    jobs.check(Repeating(connection), 0)  # type: ignore[arg-type]
    assert client.xlen(KEYS.stream) == 2
    assert not client.exists(KEYS.scheduled, KEYS.scheduled_messages)


def test_a_consumer_that_is_too_late_checks_less_often_until_it_publishes_again(
    jobs: ScheduledJobs,
) -> None:
    def looks(count: int) -> float:
        """How long it waits for a job in 50 ms, after it has published so many."""
        reply = [count, 50, b"", []]
        jobs.check(ScriptedConnection([b"a"], reply), 0)  # type: ignore[arg-type]
        return jobs.interval_seconds

    intervals = [looks(0) for _ in range(6)]
    assert intervals == pytest.approx([0.15, 0.25, 0.45, 0.85, 1.05, 1.05])
    assert looks(1) == pytest.approx(SHORTEST_PAUSE_SECONDS)
    assert looks(0) == pytest.approx(0.15)
    jobs.check(ScriptedConnection(), 5000)  # type: ignore[arg-type]
    assert jobs.interval_seconds == pytest.approx(5.0), "nothing was due for long"


def test_a_cancelled_job_is_published_with_a_mark_so_that_the_worker_that_reads_it_ends_it(
    jobs: ScheduledJobs, connection: Connection, client: redis.Redis
) -> None:
    schedule(connection, "a", "b")
    client.zadd(KEYS.cancelled, {"a": 10**15})
    jobs.check(connection, 0)
    assert [fields[b"options"] for _, fields in client.xrange(KEYS.stream)] == [
        b'{"cancelled": true, "id": "a"}',
        b'{"id": "b"}',
    ]
    assert not client.exists(KEYS.cancelled), "every read would fetch the mark for a day"


def test_jobs_that_the_server_refuses_stay_scheduled_and_are_logged_once(
    jobs: ScheduledJobs,
    connection: Connection,
    client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client.set(KEYS.stream, "no stream")
    schedule(connection, "a")
    for _ in range(2):
        jobs.check(connection, 0)
    assert client.zcard(KEYS.scheduled) == client.hlen(KEYS.scheduled_messages) == 1
    (line,) = caplog.messages
    assert "stream jobs are not published, because Redis refuses them: WRONGTYPE" in line
    client.delete(KEYS.stream)
    jobs.check(connection, 0)
    assert client.xlen(KEYS.stream) == 1


def test_a_key_that_something_else_has_overwritten_stops_no_heartbeat(
    jobs: ScheduledJobs,
    connection: Connection,
    client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    schedule(connection, "a")
    client.set(KEYS.scheduled_messages, "no hash")
    intervals = []
    for _ in range(3):
        jobs.check(connection, 0)
        intervals.append(jobs.interval_seconds)
    assert intervals == pytest.approx([0.1, 0.2, 0.4])
    assert len(caplog.messages) == 1


def test_jobs_whose_message_is_gone_or_unreadable_are_dropped_and_logged(
    jobs: ScheduledJobs,
    connection: Connection,
    client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    schedule(connection, "a", "b", "c", "d")
    client.hdel(KEYS.scheduled_messages, "a")
    client.hset(KEYS.scheduled_messages, "b", b"\xc1\xff")
    client.hset(KEYS.scheduled_messages, "c", "")
    jobs.check(connection, 0)
    assert [fields[b"options"] for _, fields in client.xrange(KEYS.stream)] == [b'{"id": "d"}']
    assert not client.exists(KEYS.scheduled, KEYS.scheduled_messages)
    assert [line.split()[0] for line in caplog.messages] == ["a", "b", "c"]


def test_a_full_server_publishes_what_it_has_scheduled(own_server: EmbeddedRedis) -> None:
    """What it needs for the entry it gets back at once."""
    with (
        redis.Redis.from_url(own_server.url) as client,
        closing(make_connection(own_server.url)) as connection,
    ):
        schedule(connection, "a", "b")
        client.config_set("maxmemory", 1)
        jobs = ScheduledJobs(KEYS, LOGGER)
        jobs.check(connection, 0)
        client.config_set("maxmemory", 0)
        assert client.xlen(KEYS.stream) == 2


def test_a_worker_needs_no_further_right(own_server: EmbeddedRedis) -> None:
    rights = ("+evalsha", "+script|load", "+time", "+xadd", "+zrange", "+zrem", "+zscore")
    hashes = ("+hget", "+hdel")
    with redis.Redis.from_url(own_server.url, protocol=2) as client:
        client.execute_command(
            *("ACL", "SETUSER", "worker", "on", ">pw", "~jobs", "~{jobs}:*", *rights, *hashes)
        )
        url = own_server.url.replace("redis://", "redis://worker:pw@")
        with closing(make_connection(own_server.url)) as full:
            schedule(full, "a")
        with closing(make_connection(url)) as connection:
            ScheduledJobs(KEYS, LOGGER).check(connection, 0)
        assert client.xlen(KEYS.stream) == 1
        assert not client.exists(KEYS.scheduled)
