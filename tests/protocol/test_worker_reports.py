"""Worker reports in Redis: who died is recorded once, leftovers go, and hostile data do no harm."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from group_views import view_of
from protocol_client import KEYS, LEASE_MS, GroupAdmin, Worker

from shared_sync.protocol import worker_reports
from shared_sync.protocol.events import event_items
from shared_sync.protocol.worker_reports import (
    MOST_IDS,
    MOST_JOBS,
    ReportedProcess,
    parse_process,
    parse_report,
)

REST = json.dumps({"state": "running", "paused": [], "outcomes": [1, 0, 0], "jobs": []})
HUGE = 10**400


def process(release: str = "", ids: tuple[str, ...] = ()) -> ReportedProcess:
    return ReportedProcess("box", 7, "0.1.0", release, 1_700_000_000.0, 2, len(ids), ids)


def report(
    worker: Worker,
    *events: tuple[int, str],
    **options: Any,
) -> int:
    """Send a heartbeat and a report; each event is one of its kind within so many ms."""
    worker.heartbeat()
    return report_only(worker, *events, **options)


def report_only(
    worker: Worker,
    *events: tuple[int, str],
    token: str = "aa",
    first_event: int = 2,
    release: str = "",
    ids: tuple[str, ...] = (),
) -> int:
    commands = worker.commands
    items = [(within, event_items(kind, "", worker=commands.consumer)) for within, kind in events]
    command = worker_reports.publish(
        commands.keys,
        (commands.consumer, commands.identity, token),
        LEASE_MS,
        process(release, ids),
        REST,
        first_event,
        items,
    )
    reply: int = worker.connection.call(*command)
    return reply


def kinds(client: redis.Redis) -> list[str]:
    return [fields[b"kind"].decode() for _, fields in client.xrange(KEYS.events)]


@pytest.mark.parametrize("has_messages", [False, True])
def test_a_worker_that_died_is_recorded_once_with_what_it_ran(
    worker: Worker,
    other: Worker,
    admin: GroupAdmin,
    client: redis.Redis,
    redis_url: str,
    has_messages: bool,
) -> None:
    third = Worker(worker.connection, "w3")
    if has_messages:  # else the next heartbeat removes its name before its report is looked at
        worker.publish([b"n", b"1"])
        worker.read()
    report(worker, ids=("1-0", "2-0"))
    report(other)
    admin.end_lease("w1")
    stored = client.hget(KEYS.reports, "w1").decode()
    reported_at, _, rest = stored.partition(" ")
    client.hset(KEYS.reports, "w1", f"{int(reported_at) - LEASE_MS} {rest}")
    for one in (other, third, other):
        report(one)
    assert kinds(client) == ["gone"]
    view = view_of(redis_url).read()["report"]
    (event,) = view["events"]
    assert event["worker"] == "w1"
    assert "w1 is gone" in event["text"]
    assert "its last report was 30 s before, when it ran 2 messages" in event["text"]
    (vanished,) = view["vanished"]
    assert (vanished["name"], vanished["host"], vanished["pid"]) == ("w1", "box", 7)
    assert (vanished["pending"], vanished["message_ids"]) == (2, ["1-0", "2-0"])
    assert [one["name"] for one in view["workers"]] == ["w2", "w3"]


def test_after_an_outage_nobody_is_taken_for_dead_and_who_leaves_has_not_died(
    worker: Worker, other: Worker, admin: GroupAdmin, client: redis.Redis
) -> None:
    report(worker)
    report(other)
    admin.end_lease("w1")
    client.zadd(KEYS.outage, {"forgiven until": admin.now_ms() + 60_000})
    report(other)
    assert kinds(client) == []
    worker.heartbeat()
    commands = worker.commands
    left = event_items("left", "w1 left", worker="w1")
    for _ in range(2):  # its reply was lost
        worker.connection.call(*worker_reports.sign_off(KEYS, "w1", commands.identity, left))
    worker.leave()
    client.zrem(KEYS.outage, "forgiven until")
    report(other)
    assert kinds(client) == ["left"]
    assert set(client.hkeys(KEYS.reports)) == {b"w2"}


def test_a_process_that_has_the_name_of_one_that_died_records_the_death(
    worker: Worker, client: redis.Redis
) -> None:
    report(worker)
    report(worker, (0, "started"), token="bb", first_event=1)
    assert kinds(client) == ["gone", "started"]
    impostor = Worker(worker.connection, "w1", identity="another", sends_heartbeat=False)
    assert report_only(impostor) == 0


def test_an_event_that_is_sent_again_is_recorded_once_and_one_outage_is_one_event(
    worker: Worker, other: Worker, client: redis.Redis
) -> None:
    report(worker, (0, "taken_over"))
    report(worker, (0, "taken_over"), (30_000, "redis_back"))  # the first reply was lost
    report(other, (30_000, "redis_back"))
    assert kinds(client) == ["taken_over", "redis_back"]
    client.hset(KEYS.reports, "~redis_back", 1)
    report(other, (30_000, "redis_back"), first_event=3)
    assert kinds(client) == ["taken_over", "redis_back", "redis_back"]


def test_the_first_worker_of_a_new_release_is_an_event(worker: Worker, client: redis.Redis) -> None:
    for release in ("1.0", "1.0", "1.1", ""):
        report(worker, release=release, first_event=1)
    (event,) = client.xrange(KEYS.events)
    assert event[1] == {
        **{b"kind": b"release", b"worker": b"w1"},
        **{b"release": b"1.1", b"before": b"1.0"},
    }


def test_reports_without_a_worker_are_removed_in_steps(
    worker: Worker, client: redis.Redis, redis_url: str
) -> None:
    client.hset(KEYS.reports, mapping={f"nobody-{n}": b"\xff" * 100 for n in range(250)})
    for _ in range(6):
        report(worker)
    assert client.hkeys(KEYS.reports) == [b"w1"]
    assert 0 < client.pttl(KEYS.reports) <= 7 * 86_400_000
    assert len(view_of(redis_url).read()["report"]["vanished"]) == 100


def test_a_lost_presence_makes_nobody_dead(
    worker: Worker, other: Worker, client: redis.Redis
) -> None:
    report(worker)
    report(other)
    client.delete(KEYS.presence)
    report(other)
    assert kinds(client) == []


HOSTILE: list[Any] = [
    "\ud800",
    *(None, True, -1, 1.5, HUGE, float("nan"), float("inf"), "", "x" * 100_000),
    *([], {}, [[]], [None] * 1000, {"counts": [HUGE]}, [["1-0", 5, [], HUGE, "x", float("nan")]]),
    {"first": 0, "width": 1, "counts": [-(10**12), 5], "total": 1, "low": 0, "high": 1},
    {"first": 1, "width": 10**6, "counts": [5], "total": 1, "low": 0, "high": 1},
    {"first": 1, "width": 3, "counts": [5] * 100_000, "total": 1, "low": 0, "high": 1},
    {"first": 1, "width": 3, "counts": [2**63] * 9, "total": 1e300, "low": 0, "high": 1e300},
]
FIELDS = ("state", "paused", "outcomes", "per_second", "jobs", "latency", "queue_wait")


@pytest.mark.parametrize("line", [b"", b"\xff", b"[" * 100_000, b"9" * 5000 + b" a 1", b"null"])
def test_a_report_that_cannot_be_read_is_none(line: bytes) -> None:
    good = process().to_line().encode()
    assert parse_process(line) is None
    assert parse_report(b"w1", line) is None
    for lines in ((b"1 a 1", good, line), (b"1 a 1", line, REST.encode())):
        assert parse_report(b"w1", b"\n".join(lines)) is None


def test_a_hostile_report_or_event_breaks_neither_the_page_nor_a_worker(
    worker: Worker, client: redis.Redis, redis_url: str
) -> None:
    view = view_of(redis_url)
    facts = json.loads(process().to_line())
    for value in HOSTILE:
        whole = json.dumps(dict.fromkeys(FIELDS, value))
        who = json.dumps(dict.fromkeys(facts, value))
        for first, rest in ((who, whole), (process().to_line(), whole), (who, REST)):
            client.hset(KEYS.reports, "w1", f"1 a 1\n{first}\n{rest}")
            event = {"kind": "gone", "report": first[:100_000], "worker": b"\xff" * 9999}
            client.xadd(KEYS.events, event | {"reported": repr(value)[:100]})
            read = view.read()["report"]
            json.dumps(read, allow_nan=False).encode()
            assert len(read["jobs"]) <= MOST_JOBS
            assert all(len(one["message_ids"]) <= MOST_IDS for one in read["vanished"])
            assert len(json.dumps(read["vanished"] + read["events"])) < 1_000_000
    client.hset(KEYS.reports, "w1", b"x" * 10_000_000)
    assert view.read()["report"]["workers"] == []
    assert report(worker) == 1
    assert view.read()["report"]["workers"][0]["done"] == 1


def test_keys_of_another_type_are_named_and_the_rest_is_shown(
    worker: Worker, client: redis.Redis, redis_url: str
) -> None:
    client.set(KEYS.reports, "of another type")
    client.set(KEYS.events, "of another type")
    read = view_of(redis_url).read()
    assert [row["name"] for row in read["consumers"]] == ["w1"]
    assert read["report"]["reasons"] == [
        "the workers' reports are not shown: Redis refused it (WRONGTYPE)",
        "the events are not shown: Redis refused it (WRONGTYPE)",
    ]
    assert read["report"]["workers_total"] == 1
