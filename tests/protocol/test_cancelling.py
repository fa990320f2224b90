"""Marks of cancelled messages: who is marked, what the caller is told, and how marks go."""

from __future__ import annotations

import pytest
import redis
from protocol_client import HOUR_MS, KEYS, GroupAdmin, Worker

from shared_sync.connection.connection import Connection
from shared_sync.protocol import cancelling
from shared_sync.protocol.keys import Keys, StreamKeys
from shared_sync.protocol.messages import Park
from shared_sync.protocol.replies import parse_marked

STREAM_KEYS = StreamKeys.of(KEYS.stream)


def cancel(connection: Connection, message_id: str) -> str:
    return cancelling.cancel(connection, STREAM_KEYS, message_id)


def status(connection: Connection, message_id: str) -> str:
    return cancelling.status(connection, STREAM_KEYS, message_id)


def marks(client: redis.Redis) -> list[str]:
    return [one.decode() for one in client.zrange(KEYS.cancelled, 0, -1)]


def marked(worker: Worker, *ids: str, tidy_from: int = 0) -> tuple[list[str], int]:
    command = worker.commands.marked(ids, tidy_from=tidy_from)
    return parse_marked(worker.connection.call(*command))


def test_the_state_of_each_message_is_returned_and_only_unfinished_messages_are_marked(
    connection: Connection, worker: Worker, client: redis.Redis
) -> None:
    ended, parked, running, waiting = worker.publish(*[[b"n", b"1"]] * 4)
    worker.read(3)
    worker.done(ended)
    worker.park(parked)
    places = {
        ended: cancelling.ENDED,
        parked: cancelling.PARKED,
        running: cancelling.RUNNING,
        waiting: cancelling.WAITING,
        "1-1": cancelling.ENDED,
        "no-id": cancelling.UNKNOWN,
    }
    before = {key: client.dump(key) for key in client.keys("*")}
    assert {one: status(connection, one) for one in places} == places
    assert {key: client.dump(key) for key in client.keys("*")} == before, "status() writes nothing"
    for _ in range(2):  # cancelling again is harmless
        assert {one: cancel(connection, one) for one in places} == places
    assert sorted(marks(client)) == sorted([parked, running, waiting, "no-id"])


def test_an_awaited_job_that_has_ended_is_also_marked_as_forwarded(
    connection: Connection, worker: Worker, client: redis.Redis, admin: GroupAdmin
) -> None:
    ended, waiting = worker.publish(*[[b"n", b"1"]] * 2)
    worker.read(1)
    worker.done(ended)
    key = STREAM_KEYS.cancelled_forwarded
    client.zadd(key, {"long ago": 1})
    for one in (ended, waiting):
        cancelling.cancel(connection, STREAM_KEYS, one, is_awaited=True)
    assert client.zrange(key, 0, -1) == [ended.encode()]
    assert 0 < client.pttl(key) <= 600_000
    assert admin.now_ms() < client.zscore(key, ended) <= admin.now_ms() + 600_000
    assert marks(client) == [waiting]


def test_a_parked_message_is_due_at_once_in_every_group(
    connection: Connection, worker: Worker, client: redis.Redis, admin: GroupAdmin
) -> None:
    keys = Keys.of(KEYS.stream, "others")
    other = Worker(connection, "o1", keys=keys)
    (message_id,) = worker.publish([b"n", b"1"])
    for one in (worker, other):
        one.read()
        one.park(message_id, delay_ms=HOUR_MS)
    assert cancel(connection, message_id) == cancelling.PARKED
    assert admin.due()[message_id] <= admin.now_ms()
    assert client.zscore(keys.due, message_id) <= admin.now_ms()
    assert worker.recover_id() == message_id


@pytest.mark.parametrize("known_as", ["", "job-1"])
def test_a_message_that_was_cancelled_before_it_failed_is_due_at_once(
    worker: Worker, client: redis.Redis, admin: GroupAdmin, taken: list[str], known_as: str
) -> None:
    client.zadd(KEYS.cancelled, {known_as or taken[0]: 10**15})
    parks = [Park(one, "{}", HOUR_MS, 1, known_as if one == taken[0] else "") for one in taken]
    assert worker.settle(*parks) == [1, 1, 1]
    assert admin.due()[taken[0]] <= admin.now_ms()
    assert min(admin.due()[one] for one in taken[1:]) > admin.now_ms() + HOUR_MS / 2


def test_recovery_says_which_messages_are_cancelled_if_it_takes_any(
    worker: Worker, client: redis.Redis, taken: list[str]
) -> None:
    client.zadd(KEYS.cancelled, {"job-1": 10**15})
    assert worker.scan().marks is None
    worker.park(taken[0], delay_ms=0)
    found = worker.scan()
    assert [entry.id for entry in found.entries] == [taken[0]]
    assert found.marks == [b"job-1"]


def test_a_message_is_running_if_it_runs_in_any_group_and_unfinished_if_any_group_must_read_it(
    connection: Connection, worker: Worker
) -> None:
    other = Worker(connection, "o1", keys=Keys.of(KEYS.stream, "others"))
    (message_id,) = worker.publish([b"n", b"1"])
    worker.read()
    assert status(connection, message_id) == cancelling.RUNNING
    worker.done(message_id)
    assert status(connection, message_id) == cancelling.WAITING
    other.read()
    assert status(connection, message_id) == cancelling.RUNNING
    other.done(message_id)
    assert status(connection, message_id) == cancelling.ENDED


def test_a_running_message_whose_consumer_was_deleted_has_not_ended(
    connection: Connection, worker: Worker, client: redis.Redis
) -> None:
    (message_id,) = worker.publish([b"n", b"1"])
    worker.read()
    client.xgroup_delconsumer(KEYS.stream, KEYS.group, "w1")
    assert cancel(connection, message_id) == cancelling.RUNNING


def test_without_a_group_a_message_waits_and_without_a_stream_it_is_unknown(
    connection: Connection, client: redis.Redis
) -> None:
    for ask in (cancel, status):
        assert ask(connection, "5-1") == cancelling.UNKNOWN
    client.xadd(KEYS.stream, {"n": 1}, id="5-1")
    assert cancel(connection, "5-1") == cancelling.WAITING
    client.xdel(KEYS.stream, "5-1")
    assert cancel(connection, "5-1") == cancelling.ENDED


def test_a_scheduled_job_is_marked_and_to_be_published_at_once(
    connection: Connection, client: redis.Redis, admin: GroupAdmin
) -> None:
    client.zadd(STREAM_KEYS.scheduled, {"scheduled-9-1": admin.now_ms() + HOUR_MS})
    assert status(connection, "scheduled-9-1") == cancelling.SCHEDULED
    assert cancel(connection, "scheduled-9-1") == cancelling.SCHEDULED
    assert client.zscore(STREAM_KEYS.scheduled, "scheduled-9-1") <= admin.now_ms()
    assert marks(client) == ["scheduled-9-1"]


def test_a_job_that_was_published_under_another_id_is_found_by_its_own(
    connection: Connection, worker: Worker, client: redis.Redis
) -> None:
    (message_id,) = worker.publish([b"n", b"1"])
    client.set(STREAM_KEYS.published("scheduled-9-1"), message_id)
    assert cancel(connection, "scheduled-9-1") == cancelling.WAITING
    assert marks(client) == [message_id]


def test_the_key_expires_with_its_last_mark_and_expired_marks_go(
    connection: Connection, worker: Worker, client: redis.Redis, admin: GroupAdmin
) -> None:
    first, second = worker.publish([b"n", b"1"], [b"n", b"2"])
    cancelling.cancel(connection, STREAM_KEYS, first, keep_seconds=3600)
    cancelling.cancel(connection, STREAM_KEYS, second, keep_seconds=60)
    assert 3_590_000 < client.pttl(KEYS.cancelled) <= 3_600_000
    client.zadd(KEYS.cancelled, {"7-7": admin.now_ms() - 1})
    cancel(connection, second)
    assert sorted(marks(client)) == [first, second]


def test_a_worker_asks_which_are_marked_and_removes_marks_that_nobody_needs(
    connection: Connection, worker: Worker, client: redis.Redis, admin: GroupAdmin
) -> None:
    done, running, waiting = worker.publish(*[[b"n", b"1"]] * 3)
    worker.read(2)
    for one in (done, running, waiting, "no-id"):
        cancel(connection, one)
    worker.done(done)
    client.zadd(KEYS.cancelled, {"another": admin.now_ms() - 1})
    assert marked(worker, running, "1-1", tidy_from=-1) == ([running], -1)
    assert len(marks(client)) == 5
    assert marked(worker, running, waiting, "1-1") == ([running, waiting], 0)
    assert sorted(marks(client)) == sorted([running, waiting, "no-id"])


def test_marks_are_removed_in_steps(worker: Worker, client: redis.Redis) -> None:
    far = 10**15
    client.zadd(KEYS.cancelled, {f"job-{n}": far + n for n in range(150)})
    client.zadd(KEYS.cancelled, {f"1-{n}": far + n for n in range(150)})
    worker.publish([b"n", b"1"])
    worker.read()
    rank, steps = 0, 0
    while steps == 0 or rank:
        _, rank = marked(worker, tidy_from=rank)
        steps += 1
    assert steps == 4
    assert marks(client) == [f"job-{n}" for n in range(150)]


@pytest.mark.parametrize("full", [False, True])
def test_messages_can_be_cancelled_on_a_full_server(
    connection: Connection, worker: Worker, client: redis.Redis, full: bool
) -> None:
    (message_id,) = worker.publish([b"n", b"1"])
    try:
        client.config_set("maxmemory", 1 if full else 0)
        assert cancel(connection, message_id) == cancelling.WAITING
    finally:
        client.config_set("maxmemory", 0)
    assert marks(client) == [message_id]
