"""Heartbeats, which also remove ended consumers and restore due times, and leaving the group."""

from __future__ import annotations

import pytest
import redis
from protocol_client import HOUR_MS, KEYS, LEASE_MS, GroupAdmin, Worker, result

from shared_sync.connection.connection import Connection
from shared_sync.protocol.keys import PARKED
from shared_sync.protocol.replies import QueueMetrics, parse_heartbeat
from shared_sync.protocol.scan import START

SOON_MS = 60_000
"""The longest that a parked message without a record of its last delivery waits."""


def test_a_heartbeat_renews_the_lease_and_reports_the_sizes_of_the_queue(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    worker.publish([b"text", b"d"], [b"text", b"e"])
    worker.park(taken[0])
    worker.bury(taken[1])
    queue = worker.heartbeat()
    assert queue == QueueMetrics(backlog=4, pending=2, parked=1, dead=1)
    assert queue.waiting == 2
    assert admin.presence()["w1"] == pytest.approx(admin.now_ms() + LEASE_MS, abs=5000)


def test_the_sizes_of_an_empty_queue_are_zero(worker: Worker) -> None:
    assert worker.heartbeat() == QueueMetrics(backlog=0, pending=0, parked=0, dead=0)


def test_a_heartbeat_reports_marks_scheduled_jobs_and_progress(
    worker: Worker, connection: Connection, admin: GroupAdmin, client: redis.Redis
) -> None:
    command = worker.commands.heartbeat()
    heartbeat = parse_heartbeat(connection.call(*command))
    assert (heartbeat.cancelled, heartbeat.next_scheduled_ms, heartbeat.progress) == (0, None, 0)
    client.zadd(KEYS.cancelled, {"1-0": admin.now_ms() + HOUR_MS})
    client.zadd(KEYS.scheduled, {"late": admin.now_ms() + 2 * HOUR_MS, "soon": HOUR_MS})
    client.hset(KEYS.progress, mapping={"1-0": "{}", "2-0": "{}"})
    heartbeat = parse_heartbeat(connection.call(*command))
    assert (heartbeat.cancelled, heartbeat.next_scheduled_ms, heartbeat.progress) == (1, 0, 2)
    client.zrem(KEYS.scheduled, "soon")
    heartbeat = parse_heartbeat(connection.call(*command))
    assert heartbeat.next_scheduled_ms == pytest.approx(2 * HOUR_MS, abs=60_000)
    for key in (KEYS.cancelled, KEYS.scheduled, KEYS.progress):
        client.set(key, "of another type")
    heartbeat = parse_heartbeat(connection.call(*command))
    assert (heartbeat.cancelled, heartbeat.next_scheduled_ms, heartbeat.progress) == (0, None, 0)


def test_a_size_that_the_server_does_not_report_is_unknown_and_not_zero(
    worker: Worker, client: redis.Redis
) -> None:
    client.set(KEYS.dead, "not a stream")
    assert worker.heartbeat().dead is None
    assert QueueMetrics(backlog=None, pending=1, parked=0, dead=None).waiting is None


def test_ended_consumers_are_removed_only_if_they_have_nothing_pending(
    worker: Worker, other: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    admin.client.xgroup_createconsumer("jobs", "workers", "w2")
    admin.client.xgroup_createconsumer("jobs", "workers", "w3")
    worker.heartbeat()
    admin.end_lease("w3")
    admin.end_lease("w1")
    other.heartbeat()
    assert admin.consumers() == {"w1", "w2"}
    assert set(admin.presence()) == {"w1", "w2"}
    assert len(admin.pending()) == 3


def test_a_consumer_without_presence_is_never_removed(worker: Worker, admin: GroupAdmin) -> None:
    admin.client.xgroup_createconsumer("jobs", "workers", "foreign")
    worker.heartbeat()
    assert "foreign" in admin.consumers()


def test_the_names_of_dead_consumers_do_not_pile_up(
    worker: Worker, other: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    worker.heartbeat()
    admin.end_lease("w1")
    for entry_id in taken:
        assert other.recover_id() == entry_id
    other.heartbeat()
    assert set(admin.presence()) == {"w2"}
    assert admin.consumers() == {"w2"}


def test_many_ended_consumers_that_left_messages_do_not_hide_those_that_left_nothing(
    worker: Worker, connection: Connection, admin: GroupAdmin, client: redis.Redis
) -> None:
    """Those that left something are first in the order in which leases end."""
    worker.publish(*([b"n", b"%d" % number] for number in range(250)))
    for number in range(250):
        client.xreadgroup(KEYS.group, f"left-{number:03}", {KEYS.stream: ">"}, count=1)
    ended_ms = admin.now_ms() - HOUR_MS
    client.zadd(KEYS.presence, {f"left-{number:03}": ended_ms + number for number in range(250)})
    client.zadd(KEYS.presence, {f"none-{number:03}": ended_ms + 500 for number in range(130)})
    ranks, rank = [], 0
    for _ in range(4):
        reply = connection.call(*worker.commands.heartbeat(ended_from=rank))
        rank = parse_heartbeat(reply).ended_from
        ranks.append(rank)
    assert ranks == [100, 200, 250, 0]
    assert set(admin.presence()) == {"w1", *(f"left-{number:03}" for number in range(250))}
    assert len(admin.pending()) == 250


def test_due_times_that_were_lost_are_rebuilt_in_steps_also_when_there_are_many(
    worker: Worker, connection: Connection, admin: GroupAdmin, client: redis.Redis
) -> None:
    ids = worker.publish(*([b"n", b"%d" % number] for number in range(2300)))
    worker.read(2300)
    client.xclaim("jobs", "workers", PARKED, 0, ids, justid=True)
    client.zadd(KEYS.due, {ids[5]: admin.now_ms() + SOON_MS})
    restore_from, steps = START, 0
    while restore_from:
        reply = connection.call(*worker.commands.heartbeat(restore_from=restore_from))
        restore_from, steps = parse_heartbeat(reply).restore_from, steps + 1
    assert steps == 24
    due = admin.due()
    assert set(due) == set(ids)
    assert due[ids[5]] > admin.now_ms() + SOON_MS / 2
    assert due[ids[6]] <= admin.now_ms()


def test_a_repeated_heartbeat_only_renews_the_lease(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    worker.park(taken[0])
    queue = worker.heartbeat()
    before = admin.everything()
    assert worker.heartbeat() == queue
    after = admin.everything()
    for moment in (KEYS.presence.encode(), KEYS.outage.encode()):
        before.pop(moment)
        after.pop(moment)
    assert after == before


def test_leaving_hands_back_all_messages_and_removes_the_consumer(
    worker: Worker, other: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    worker.heartbeat()
    other.heartbeat()
    worker.park(taken[0])
    assert worker.leave() == [2, 0]
    assert admin.pending() == {taken[0]: (PARKED, 1), taken[1]: (PARKED, 0), taken[2]: (PARKED, 0)}
    assert "w1" not in admin.consumers()
    assert set(admin.presence()) == {"w2"}
    assert [other.recover_id() for _ in range(3)] == [taken[1], taken[2], None]


def test_leaving_with_very_many_messages_loses_none(worker: Worker, admin: GroupAdmin) -> None:
    ids = worker.publish(*([b"n", b"%d" % number] for number in range(1050)))
    worker.read(1050)
    assert worker.leave() == [1050, 0]
    assert set(admin.pending()) == set(ids)
    assert set(admin.due()) == set(ids)


def test_a_step_of_leaving_hands_back_a_hundred_messages_and_the_last_removes_the_consumer(
    worker: Worker, connection: Connection, admin: GroupAdmin
) -> None:
    worker.publish(*([b"n", b"%d" % number] for number in range(230)))
    worker.read(230)
    replies = []
    for _ in range(3):
        assert "w1" in admin.presence()
        replies.append(connection.call(*worker.commands.leave()))
    assert replies == [[100, 0, 1], [100, 0, 1], [30, 0, 0]]
    assert "w1" not in admin.presence()
    assert set(admin.pending().values()) == {(PARKED, 0)}


def test_leaving_again_changes_nothing(worker: Worker, admin: GroupAdmin, taken: list[str]) -> None:
    worker.leave()
    before = admin.everything()
    assert worker.leave() == [0, 0]
    assert admin.everything() == before


def test_a_late_failure_of_a_consumer_that_left_does_not_count_but_a_late_result_does(
    worker: Worker, other: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    worker.leave()
    assert worker.park(taken[0]) == 0
    assert worker.bury(taken[1]) == 0
    assert worker.finish(taken[2], result("C")) == 1
    assert [other.recover_id() for _ in range(3)] == [*taken[:2], None]
    assert admin.history() == {}
    assert admin.due() == {}
    assert admin.results() == [{b"text": b"C"}]
