"""The table of the parked messages of a group, against what was really done in Redis."""

from __future__ import annotations

import redis
from consumers import Make
from helpers import eventually
from protocol_client import HOUR_MS, KEYS, Worker

from shared_sync import RedisStreamProducer, Retry
from shared_sync.protocol.inspection import GroupView


def test_a_failed_message_shows_when_it_is_tried_again_and_how_it_failed(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    def fail(*_: object) -> None:
        raise Retry(3600, "the model is being loaded")

    consumer = make(fail)
    consumer.start()
    message_id = producer.publish({"n": 1})
    eventually(lambda: consumer.get_group_view()["parked"])
    tables = consumer.get_group_view()
    (row,) = tables["parked"]
    assert tables["parked_total"] == 1
    assert 3500 < row.pop("due_in_seconds") <= 3600
    assert row == {
        "message_id": message_id,
        "failures": 1,
        "crashes": 0,
        "error_type": "Retry",
        "details": "the model is being loaded",
    }


def test_the_first_due_comes_first_and_may_be_due_already(
    worker: Worker, taken: list[str], client: redis.Redis, view: GroupView
) -> None:
    for message_id, delay_ms in zip(taken, (HOUR_MS, 0, 60_000), strict=True):
        worker.park(message_id, delay_ms)
    rows = view.read()["parked"]
    assert [row["message_id"] for row in rows] == [taken[1], taken[2], taken[0]]
    assert rows[0]["due_in_seconds"] <= 0 < rows[1]["due_in_seconds"] <= 60
    assert (rows[0]["error_type"], rows[0]["details"]) == (None, "")


def test_a_message_that_was_handed_back_has_not_failed(
    worker: Worker, taken: list[str], view: GroupView
) -> None:
    worker.hand_back(*taken)
    rows = view.read()["parked"]
    assert [row["message_id"] for row in rows] == taken
    assert {row["failures"] for row in rows} == {0}


def test_crashes_are_shown_beside_the_failures(
    worker: Worker, taken: list[str], view: GroupView
) -> None:
    """A crash of a child leaves no line in the history: the deliveries tell of it."""
    worker.park(taken[0], 0, failure='{"error_type":"E","error":"no"}')
    worker.recover()
    worker.park(taken[0], 0, failure="")
    worker.park(taken[1], 1, failure="")
    rows = {row["message_id"]: row for row in view.read()["parked"]}
    assert (rows[taken[0]]["failures"], rows[taken[0]]["crashes"]) == (1, 1)
    assert (rows[taken[1]]["failures"], rows[taken[1]]["crashes"]) == (0, 1)


def test_the_last_of_several_failures_is_shown(
    worker: Worker, taken: list[str], view: GroupView
) -> None:
    for n in (1, 2):
        worker.park(taken[0], 0, failure=f'{{"error_type":"Error{n}","error":"text {n}"}}')
        if n == 1:
            assert worker.recover_id() == taken[0]
    (row,) = view.read()["parked"]
    assert (row["failures"], row["error_type"], row["details"]) == (2, "Error2", "text 2")


def test_due_times_of_messages_that_are_not_parked_are_not_shown(
    worker: Worker, taken: list[str], client: redis.Redis, view: GroupView
) -> None:
    worker.park(taken[0])
    client.zadd(KEYS.due, {taken[1]: 1, "1-1": 2})
    tables = view.read()
    assert [row["message_id"] for row in tables["parked"]] == [taken[0]]
    assert tables["parked_total"] == 1


def test_many_due_times_of_messages_that_are_not_parked_hide_nothing(
    worker: Worker, client: redis.Redis, view: GroupView
) -> None:
    ids = worker.publish(*([b"n", b"%d" % n] for n in range(60)))
    assert len(worker.read(60)) == 60
    for n, message_id in enumerate(ids):
        worker.park(message_id, HOUR_MS + 1000 * n)
    client.zadd(KEYS.due, {f"1-{n}": n for n in range(1, 201)})
    tables = view.read()
    assert [row["message_id"] for row in tables["parked"]] == ids[:50]
    assert tables["parked_total"] == 60


def test_due_times_of_messages_that_are_not_parked_are_not_read_without_end(
    worker: Worker, taken: list[str], client: redis.Redis, view: GroupView
) -> None:
    worker.park(taken[0], HOUR_MS)
    client.zadd(KEYS.due, {f"1-{n}": n for n in range(1, 2001)})
    tables = view.read()
    assert (tables["parked"], tables["parked_total"]) == ([], 1)
    client.zrem(KEYS.due, "1-1")
    assert [row["message_id"] for row in view.read()["parked"]] == [taken[0]]


def test_the_fifty_messages_that_are_due_first_are_listed_and_all_are_counted(
    worker: Worker, view: GroupView
) -> None:
    ids = worker.publish(*([b"n", b"%d" % n] for n in range(70)))
    assert len(worker.read(70)) == 70
    for n, message_id in enumerate(ids):
        worker.park(message_id, HOUR_MS - 1000 * n)
    tables = view.read()
    assert [row["message_id"] for row in tables["parked"]] == ids[:-51:-1]
    assert tables["parked_total"] == 70


def test_long_histories_are_not_read_without_end(
    worker: Worker, taken: list[str], client: redis.Redis, view: GroupView
) -> None:
    for n, message_id in enumerate(taken):
        worker.park(message_id, HOUR_MS + n)
        client.hset(KEYS.history, message_id, '{"error_type":"E","error":"x"}\n' * 50_000)
    rows = view.read()["parked"]
    assert [row["failures"] for row in rows] == [50_000, None, None]
    assert [row["error_type"] for row in rows] == ["E", None, None]
