"""A group that keeps what this one has finished, and does not get on, is found and named."""

from __future__ import annotations

import pytest
import redis
from protocol_client import KEYS, Worker

from shared_sync.connection.connection import Connection
from shared_sync.protocol import held_back
from shared_sync.protocol.held_back import HeldBack, HeldBackSearch
from shared_sync.protocol.keys import Keys

OTHER = Keys.of("jobs", "wrokers")
HOUR_MS = 3_600_000


@pytest.fixture
def search() -> HeldBackSearch:
    return HeldBackSearch(KEYS)


@pytest.fixture
def old_ids(worker: Worker, client: redis.Redis) -> list[str]:
    """Three messages of an hour ago, which this group has finished."""
    client.xgroup_create("jobs", OTHER.group, "0")
    seconds, _ = client.time()
    ids = [f"{seconds * 1000 - HOUR_MS + n}-0" for n in range(3)]
    for entry_id in ids:
        client.xadd("jobs", {"n": "1"}, id=entry_id)
    for entry in worker.read():
        worker.done(entry.id)
    return ids


def counts_unread(client: redis.Redis) -> bool:
    return not str(client.info("server")["redis_version"]).startswith("6.")


def test_a_group_that_reads_nothing_is_found_at_the_second_look(
    search: HeldBackSearch, connection: Connection, client: redis.Redis, old_ids: list[str]
) -> None:
    assert search.search(connection) == []
    (found,) = search.search(connection)
    assert found.group == "wrokers"
    assert found.seconds == pytest.approx(3600, abs=60)
    assert found.entries == (3 if counts_unread(client) else None)
    client.xgroup_destroy("jobs", OTHER.group)
    assert search.search(connection) == []


def test_the_age_is_that_of_the_oldest_pending_message_if_there_is_one(
    search: HeldBackSearch, connection: Connection, client: redis.Redis, old_ids: list[str]
) -> None:
    read = client.xreadgroup(OTHER.group, "gone", {"jobs": ">"}, count=2)
    client.xack("jobs", OTHER.group, read[0][1][0][0])
    search.search(connection)
    (found,) = search.search(connection)
    assert found.seconds == pytest.approx(3600, abs=60)


def test_a_group_that_gets_on_or_has_a_live_worker_holds_nothing_back(
    search: HeldBackSearch, connection: Connection, client: redis.Redis, old_ids: list[str]
) -> None:
    search.search(connection)
    client.xreadgroup(OTHER.group, "slow", {"jobs": ">"}, count=1)
    assert search.search(connection) == [], "it has read a message since"
    assert len(search.search(connection)) == 1
    Worker(connection, "alive", keys=OTHER)
    assert search.search(connection) == []


def test_a_group_that_waits_for_the_same_messages_as_this_one_holds_nothing_back(
    search: HeldBackSearch, worker: Worker, connection: Connection, client: redis.Redis
) -> None:
    client.xgroup_create("jobs", OTHER.group, "0")
    for _ in range(2):
        assert search.search(connection) == []
    client.xadd("jobs", {"n": "1"}, id="5-0")
    for _ in range(2):
        assert search.search(connection) == []
    worker.read()
    for _ in range(2):
        assert search.search(connection) == []


def test_a_young_message_is_not_held_back_yet(
    search: HeldBackSearch, worker: Worker, connection: Connection, client: redis.Redis
) -> None:
    client.xgroup_create("jobs", OTHER.group, "0")
    worker.publish([b"n", b"1"])
    for entry in worker.read():
        worker.done(entry.id)
    for _ in range(2):
        assert search.search(connection) == []


def test_without_the_right_to_read_entries_the_age_is_that_of_the_last_one_it_has_read(
    search: HeldBackSearch,
    connection: Connection,
    client: redis.Redis,
    old_ids: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (read,) = client.xreadgroup(OTHER.group, "gone", {"jobs": ">"}, count=1)
    client.xack("jobs", OTHER.group, read[1][0][0])
    client.execute_command(
        "ACL", "SETUSER", "default", "-xrange", "+xinfo|groups", "+xpending", "+xlen"
    )
    try:
        search.search(connection)
        (found,) = search.search(connection)
    finally:
        client.execute_command("ACL", "SETUSER", "default", "+@all")
    assert found.seconds == pytest.approx(3600, abs=60)


def test_a_stream_that_is_not_there_is_no_error(
    search: HeldBackSearch, connection: Connection, client: redis.Redis
) -> None:
    assert client.keys() == []
    assert search.search(connection) == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(301, "for 5 min"), (7300, "for 2 h"), (260_000, "for 3 days")]
)
def test_the_reason_names_the_group_and_the_remedy(seconds: float, text: str) -> None:
    held = HeldBack("wrokers", seconds, 1234)
    assert held.text(KEYS).startswith(
        "group wrokers holds back 1234 entries of stream jobs that group workers has finished"
    )
    assert text in held.text(KEYS)
    assert held.remedy(KEYS).endswith("shared-sync groups drop --stream jobs wrokers")
    assert "holds back entries of" in HeldBack("wrokers", seconds, None).text(KEYS)
    assert held_back.HELD_BACK_SECONDS == 300
