"""Progress arrives in order, only from the owner of a message, and at its next attempt."""

from __future__ import annotations

import pytest
import redis
from protocol_client import KEYS, GroupAdmin, Worker

from shared_sync.connection.connection import Connection
from shared_sync.errors import InvalidMessage, RedisRefused
from shared_sync.protocol import progress
from shared_sync.protocol.messages import Address, Answer
from shared_sync.protocol.progress import Report
from shared_sync.protocol.replies import Reported, parse_reported

SENT = Reported(is_sent=True, is_owned=True, refusals=[])
SENT_BEFORE = Reported(is_sent=False, is_owned=True, refusals=[])
NOT_OWNED = Reported(is_sent=False, is_owned=False, refusals=[])


def report(
    worker: Worker,
    message_id: str,
    value: float,
    *,
    sequence: int = 1,
    delivery: int = 1,
    token: str = "ab",
    answer: Answer | None = None,
) -> Reported:
    if answer is None:
        answer = Answer(items=[b"progress", b"%g" % value])
    kept = progress.store(value, {"text": "so far"})
    reported = Report(message_id, delivery, token, sequence, kept, answer)
    return parse_reported(worker.connection.call(*worker.commands.report(reported)))


def values(admin: GroupAdmin) -> list[bytes]:
    return [fields[b"progress"] for fields in admin.results()]


def test_progress_is_written_once_and_never_goes_back(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    assert report(worker, taken[0], 0.2, sequence=2) == SENT
    assert report(worker, taken[0], 0.2, sequence=2) == SENT_BEFORE
    assert report(worker, taken[0], 0.1, sequence=1) == SENT_BEFORE
    assert report(worker, taken[0], 0.3, sequence=3) == SENT
    assert report(worker, taken[1], 0.1, sequence=1) == SENT
    assert values(admin) == [b"0.2", b"0.3", b"0.1"]


def test_only_the_owner_of_the_newest_delivery_reports(
    worker: Worker, other: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    (message_id, *_) = taken
    assert report(worker, message_id, 0.5, sequence=50) == SENT
    worker.park(message_id, delay_ms=0)
    assert report(worker, message_id, 0.6, sequence=51) == NOT_OWNED
    entry = other.recover().entry
    assert entry is not None
    assert entry.id == message_id
    assert report(worker, message_id, 0.7, sequence=52) == NOT_OWNED
    assert report(other, message_id, 0.1, token="cd", delivery=1) == NOT_OWNED
    assert report(other, message_id, 0.1, token="cd", delivery=2) == SENT
    other.finish(message_id)
    assert report(other, message_id, 1.0, token="cd", delivery=2, sequence=2) == NOT_OWNED
    assert values(admin) == [b"0.5", b"0.1"]


def test_a_process_that_has_lost_its_name_reports_nothing(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    admin.client.hset(KEYS.holders, "w1", "another process")
    assert report(worker, taken[0], 0.5) == NOT_OWNED
    assert admin.client.hlen(KEYS.progress) == 0


def test_the_next_attempt_gets_the_last_progress(
    worker: Worker, other: Worker, taken: list[str]
) -> None:
    report(worker, taken[0], 0.5)
    worker.park(taken[0], delay_ms=0)
    worker.park(taken[1], delay_ms=0)
    entries = {entry.id: entry for entry in other.scan(most=9).entries}
    assert progress.parse(entries[taken[0]].progress) == {"progress": 0.5, "text": "so far"}
    assert progress.parse(entries[taken[1]].progress) is None
    assert entries[taken[0]].deliveries == 2


def test_a_worker_does_not_create_a_reply_stream_that_is_gone(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    gone = Answer([b"progress", b"0.5"], address=Address("{jobs}:replies:a", may_create=False))
    assert report(worker, taken[0], 0.5, answer=gone) == SENT
    assert admin.client.exists("{jobs}:replies:a") == 0
    admin.client.xadd("{jobs}:replies:a", {"first": "1"})
    report(worker, taken[0], 0.6, sequence=2, answer=gone)
    assert admin.client.xlen("{jobs}:replies:a") == 2


def test_progress_that_a_stream_refuses_is_kept_for_the_next_attempt(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    admin.client.set("results", "no stream")
    reported = report(worker, taken[0], 0.5)
    assert reported.is_sent
    assert [str(one)[:9] for one in reported.refusals] == ["WRONGTYPE"]
    assert admin.client.hlen(KEYS.progress) == 1


def test_a_channel_gets_progress(worker: Worker, admin: GroupAdmin, taken: list[str]) -> None:
    with admin.client.pubsub() as subscriber:
        subscriber.subscribe("news")
        assert subscriber.get_message(timeout=10) is not None
        assert report(worker, taken[0], 0.5, answer=Answer(channel="news", payload=b"{}")) == SENT
        heard = subscriber.get_message(timeout=10)
    assert heard is not None
    assert heard["data"] == b"{}"
    assert admin.results() == []


def test_a_full_server_gets_no_progress(
    worker: Worker, admin: GroupAdmin, taken: list[str], connection: Connection
) -> None:
    admin.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(RedisRefused, match="maxmemory"):
            report(worker, taken[0], 0.5)
    finally:
        admin.client.config_set("maxmemory", 0)
    assert admin.results() == []
    assert admin.client.hlen(KEYS.progress) == 0


def test_progress_of_messages_that_have_ended_is_dropped_in_steps(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    for message_id in taken[:2]:
        report(worker, message_id, 0.5)
    admin.client.hset(KEYS.progress, mapping={f"{n}-0": "ab 1 {}" for n in range(1, 250)})
    worker.finish(taken[1])
    first, left = 0, 251
    steps = 0
    while left > 1:
        dropped, left = worker.connection.call(*worker.commands.drop_progress(first))
        assert dropped <= 100
        first, steps = first + 100, steps + 1
        assert steps < 10
    assert admin.client.hkeys(KEYS.progress) == [taken[0].encode()]
    worker.connection.call(*worker.commands.forget_progress([taken[0]]))
    assert worker.connection.call(*worker.commands.drop_progress(7)) == [0, 0]


def test_what_is_stored_has_the_values_that_were_reported() -> None:
    fields = {"text": "ä", "n": 3, "flags": [True, None], "audio": b"\x00\xff"}
    stored = b"ab 12 " + progress.store(0.25, fields)
    assert progress.parse(stored) == {"progress": 0.25, **fields}
    assert progress.parse(b"ab 12 " + progress.store(None, {})) == {"progress": None}


@pytest.mark.parametrize("stored", [b"", b"ab 1 ", b"ab 1 [1]", b"x", b'ab 1 {"a": "\xff"}'])
def test_unreadable_progress_is_ignored(stored: bytes) -> None:
    assert progress.parse(stored) is None


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), True, "0.5"])
def test_progress_is_a_number_from_0_to_1(value: object) -> None:
    with pytest.raises(InvalidMessage, match="from 0 to 1"):
        progress.check(value, {})


@pytest.mark.parametrize("name", ["status", "progress", "shared_sync.types", "dead.id"])
def test_a_field_of_progress_may_not_have_a_reserved_name(name: str) -> None:
    with pytest.raises(InvalidMessage, match="another name") as caught:
        progress.check(0.5, {name: "x"})
    assert caught.value.field == name


def test_a_field_of_progress_that_cannot_be_stored_is_refused() -> None:
    with pytest.raises(InvalidMessage, match="'text'"):
        progress.check(None, {"text": object()})
    progress.check(1, {"text": "x"})


def test_a_redis_client_sees_what_the_next_attempt_gets(
    worker: Worker, taken: list[str], client: redis.Redis
) -> None:
    report(worker, taken[0], 0.5, sequence=7)
    kept = client.hget(KEYS.progress, taken[0])
    assert kept == b'ab 7 {"progress": 0.5, "text": "so far"}'
