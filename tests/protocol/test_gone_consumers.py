"""Consumers that died are remembered when the group has forgotten them; those that left are not."""

from __future__ import annotations

import os
import socket

import pytest
import redis
from consumers import Make
from group_views import commands_during, view_of, worker_process
from helpers import eventually
from protocol_client import KEYS

from shared_sync import RedisStreamProducer
from shared_sync.connection.connection import Connection
from shared_sync.protocol import inspection
from shared_sync.protocol.gone_consumers import KEPT_MS, MOST_KEPT, GoneConsumers
from shared_sync.protocol.group_tables import ConsumerRow, Table
from shared_sync.protocol.inspection import GroupView

LEASE = 30_000


class Group:
    """A group whose consumers a test sets, each with the time at which its lease ends."""

    def __init__(self) -> None:
        self.gone = GoneConsumers()
        self.now = 1_700_000_000_000
        self.leases: dict[str, int | None] = {}

    def beat(self, *names: str) -> None:
        self.leases |= dict.fromkeys(names, self.now + LEASE)

    def look(self, after_ms: int = 0, *, total: int | None = None) -> list[str]:
        """Look at it after a while; the names of those that died and are not there any more."""
        self.now += after_ms
        rows = [ConsumerRow(name.encode(), end, 0, 5, b"") for name, end in self.leases.items()]
        self.gone.note(Table(rows, len(rows) if total is None else total), self.now)
        return [row.name.decode() for row in self.gone.rows()]


def test_who_was_seen_without_heartbeats_and_then_not_at_all_has_died() -> None:
    group = Group()
    group.beat("a", "b")
    assert group.look() == []
    for _ in range(14):
        group.now += 2000
        group.beat("b")
        assert group.look() == []
    del group.leases["a"]
    assert group.look(4000) == ["a"]
    assert group.look(KEPT_MS - LEASE - 10_000) == ["a"]
    assert group.look(LEASE + 10_000) == []


def test_who_leaves_by_itself_has_not_died() -> None:
    group = Group()
    group.beat("a", "b")
    group.look()
    group.now += 2000
    group.beat("a")
    group.look()
    del group.leases["a"]
    assert group.look(2000) == []
    # Nobody looked for long: what became of it is not known.
    del group.leases["b"]
    assert group.look(600_000) == []


def test_who_comes_back_is_not_gone_any_more() -> None:
    group = Group()
    group.beat("a")
    group.look()
    group.look(LEASE)
    group.leases.clear()
    assert group.look(2000) == ["a"]
    group.beat("a")
    assert group.look(2000) == []


def test_who_is_only_not_listed_is_not_gone() -> None:
    group = Group()
    group.beat("a", "b")
    group.look()
    group.look(LEASE)
    del group.leases["a"]
    assert group.look(2000, total=150) == []
    group.leases["other program"] = None
    assert group.look(2000) == ["a"]
    del group.leases["other program"]
    assert group.look(2000) == ["a"]


def test_an_older_look_that_comes_late_changes_nothing_and_the_number_is_bounded() -> None:
    group = Group()
    group.beat(*(f"w{n:03}" for n in range(MOST_KEPT + 50)))
    group.look()
    group.look(LEASE + 1)
    group.leases.clear()
    assert len(group.look(1000)) == MOST_KEPT
    group.beat("w000", "w149")
    assert len(group.look(-500)) == MOST_KEPT


def test_a_killed_worker_stays_in_the_view_after_its_messages_were_taken_over(
    redis_url: str,
    client: redis.Redis,
    producer: RedisStreamProducer,
    view: GroupView,
    make: Make,
) -> None:
    (message_id,) = producer.publish_many([{"n": 1}])
    with worker_process(redis_url, lease_seconds=3) as process:

        def is_running() -> bool:
            rows = {row["name"]: row for row in view.read()["consumers"]}
            return rows.get("doomed", {}).get("pending") == 1

        eventually(is_running)
        process.kill()
        done: list[str] = []
        make(lambda found, _: done.append(found), consumer_id="sibling").start()
        eventually(lambda: "consumers_gone" in view.read(), within=30)
    tables = view.read()
    assert done == [message_id]
    assert [row["name"] for row in tables["consumers"]] == ["sibling"]
    assert client.zscore(KEYS.presence, "doomed") is None
    (row,) = tables["consumers_gone"]
    assert 0 <= row.pop("gone_seconds") < 30
    assert (row["name"], row["present"], row["pid"]) == ("doomed", False, process.pid)
    assert (row["host"], row["lease_seconds_left"]) == (socket.gethostname(), 0)


def test_a_worker_with_a_page_notes_who_dies_although_nobody_looks(
    redis_url: str, client: redis.Redis, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "WATCH_SECONDS", 0.2)
    sibling = make(lambda *_: None, consumer_id="sibling", lease_seconds=3)
    page = sibling.get_views()["group"]  # as a HealthServer takes it
    sibling.start()
    with worker_process(redis_url, lease_seconds=3) as process:
        eventually(lambda: client.zscore(KEYS.presence, "doomed"))
        process.kill()
        eventually(lambda: client.zscore(KEYS.presence, "doomed") is None, within=30)
    eventually(lambda: "consumers_gone" in page())
    assert [row["name"] for row in page()["consumers_gone"]] == ["doomed"]


def test_without_a_page_nobody_watches(
    redis_url: str, client: redis.Redis, connection: Connection
) -> None:
    client.xgroup_create(KEYS.stream, KEYS.group, mkstream=True)
    view = view_of(redis_url)

    def looks() -> bool:
        """Whether watching it asks the server, beside the driver's greeting."""
        commands = commands_during(client, lambda: view.watch(connection))
        return any(command.startswith("EVALSHA") for _, command in commands)

    assert not looks()
    view.is_shown = True
    assert looks()
    assert not looks(), "it is not due yet"


def test_a_worker_that_stops_is_not_gone(redis_url: str, view: GroupView, make: Make) -> None:
    leaving, staying = make(lambda *_: None, consumer_id="a"), make(lambda *_: None)
    leaving.start()
    staying.start()
    assert view.read()["consumers_total"] == 2
    assert leaving.stop()
    tables = view.read()
    assert (tables["consumers_total"], "consumers_gone" in tables) == (1, False)
    assert tables["consumers"][0]["pid"] == os.getpid()
