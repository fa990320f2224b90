"""The table of the consumers of a group, against what was really done in Redis."""

from __future__ import annotations

import os
import socket
from typing import Any

import redis
from consumers import GROUP, STREAM, Make
from group_views import EMPTY, worker_process
from helpers import Gate, eventually
from protocol_client import KEYS, GroupAdmin, Worker

from shared_sync import RedisStreamProducer
from shared_sync.protocol.inspection import GroupView


def consumers(view: GroupView) -> dict[str, dict[str, Any]]:
    return {row.pop("name"): row for row in view.read()["consumers"]}


def test_a_running_consumer_is_present_with_its_pending_messages_and_its_host_and_pid(
    make: Make, producer: RedisStreamProducer
) -> None:
    hold = Gate()
    consumer = make(hold, consumer_id="w1", lease_seconds=60)
    consumer.start()
    producer.publish({"n": 1})
    assert hold.entered.wait(10)
    tables = consumer.get_group_view()
    assert (tables["stream"], tables["group"], tables["consumers_total"]) == (STREAM, GROUP, 1)
    (row,) = tables["consumers"]
    assert 0 < row.pop("lease_seconds_left") <= 60
    assert 0 <= row.pop("idle_seconds") < 60
    assert row == {
        "name": "w1",
        "present": True,
        "pending": 1,
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    hold.opened.set()
    assert consumer.stop()
    assert EMPTY.items() <= consumer.get_group_view().items()


def test_a_killed_worker_is_shown_as_absent_with_the_messages_it_left(
    redis_url: str, producer: RedisStreamProducer, view: GroupView
) -> None:
    producer.publish({"n": 1})
    with worker_process(redis_url, lease_seconds=1) as process:
        eventually(lambda: consumers(view).get("doomed", {}).get("pending") == 1)
        row = consumers(view)["doomed"]
        assert (row["present"], row["pid"]) == (True, process.pid)
        process.kill()
        eventually(lambda: consumers(view)["doomed"]["present"] is False)
    row = consumers(view)["doomed"]
    assert (row["lease_seconds_left"], row["pending"], row["pid"]) == (0, 1, process.pid)


def test_a_consumer_without_a_lease_is_neither_present_nor_absent(
    worker: Worker, client: redis.Redis, view: GroupView
) -> None:
    worker.publish([b"n", b"1"], [b"n", b"2"])
    client.xreadgroup(GROUP, "other", {STREAM: ">"}, count=1)
    row = consumers(view)["other"]
    assert 0 <= row.pop("idle_seconds") < 60
    nobody = {"present": None, "lease_seconds_left": None, "host": None, "pid": None}
    assert row == {**nobody, "pending": 1}


def test_a_consumer_that_has_read_nothing_yet_is_listed_too(
    worker: Worker, view: GroupView
) -> None:
    worker.claim()
    row = consumers(view)["w1"]
    assert row["present"] is True
    assert (row["pending"], row["idle_seconds"]) == (0, None)


def test_the_reserved_name_for_parked_messages_is_not_a_consumer(
    worker: Worker, taken: list[str], view: GroupView
) -> None:
    worker.park(taken[0])
    assert set(consumers(view)) == {"w1"}


def test_dead_consumers_with_messages_come_first_and_then_the_present_ones(
    worker: Worker, taken: list[str], admin: GroupAdmin, client: redis.Redis, view: GroupView
) -> None:
    admin.end_lease("w1")
    for n in range(150):
        client.xgroup_createconsumer(STREAM, GROUP, f"idle-{n:03}")
    admin.keep_alive("w9")
    tables = view.read()
    assert tables["consumers_total"] == 152
    names = [row["name"] for row in tables["consumers"]]
    assert names == ["w1", "w9", *(f"idle-{n:03}" for n in range(98))]


def test_a_group_with_far_too_many_consumers_has_no_table_of_them(
    worker: Worker, taken: list[str], client: redis.Redis, view: GroupView
) -> None:
    worker.park(taken[0])
    with client.pipeline(transaction=False) as many:
        for n in range(1001):
            many.xgroup_createconsumer(STREAM, GROUP, f"idle-{n}")
        many.execute()
    tables = view.read()
    assert "consumers" not in tables
    assert tables["reasons"] == ["consumers are not shown: there are too many in this group"]
    assert tables["parked_total"] == 1


def test_names_and_identities_that_this_library_never_writes_do_no_harm(
    worker: Worker, client: redis.Redis, view: GroupView
) -> None:
    client.xgroup_createconsumer(STREAM, GROUP, b"\xff\n<b>")
    client.hset(KEYS.holders, b"\xff\n<b>", b"\xff{")
    client.hset(KEYS.holders, "w1", b"[1]")
    rows = consumers(view)
    assert set(rows) == {"w1", "\\xff\n<b>"}
    assert rows["w1"]["pid"] is None
