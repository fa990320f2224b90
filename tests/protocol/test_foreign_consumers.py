"""Messages that another library had: when they are taken over, and what counts of them."""

from __future__ import annotations

import pytest
import redis
from protocol_client import HOUR_MS, KEYS, LEASE_MS, GroupAdmin, Worker

from shared_sync.connection.connection import Connection
from shared_sync.protocol.dead_letter_layout import failure_line
from shared_sync.protocol.messages import Entry
from shared_sync.protocol.scan import Predecessor

STRANGER = "stranger"


@pytest.fixture
def message_id(worker: Worker) -> str:
    """A message that nobody has read yet."""
    (published,) = worker.publish([b"text", b"a"])
    return published


def deliver_elsewhere(client: redis.Redis, message_id: str, times: int) -> None:
    """Let another library have a message so often, which has been idle for long since."""
    client.xreadgroup(KEYS.group, STRANGER, {KEYS.stream: ">"})
    options = {"idle": HOUR_MS, "retrycount": times, "justid": True}
    assert client.xclaim(KEYS.stream, KEYS.group, STRANGER, 0, [message_id], **options)


def recovered(worker: Worker, **options: object) -> Entry:
    entry = worker.recover(**options).entry
    assert entry is not None
    return entry


def failure(attempt: int) -> str:
    return failure_line(worker="w1", time=0.0, attempt=attempt, error_type="E", error="no")


def test_deliveries_of_another_library_are_nobodys_crashes(
    worker: Worker, client: redis.Redis, admin: GroupAdmin, message_id: str
) -> None:
    deliver_elsewhere(client, message_id, 4)
    entry = recovered(worker)
    assert (entry.deliveries, entry.crashes) == (1, 0)
    assert admin.pending() == {message_id: ("w1", 1)}


def test_crashes_count_from_the_first_takeover_on(
    worker: Worker, other: Worker, client: redis.Redis, admin: GroupAdmin, message_id: str
) -> None:
    deliver_elsewhere(client, message_id, 4)
    recovered(worker)
    admin.end_lease("w1")
    other.heartbeat()
    entry = recovered(other)
    assert (entry.deliveries, entry.crashes) == (2, 1)


@pytest.mark.parametrize(
    ("attempts", "crashes"),
    [
        pytest.param([1], 0, id="a failure"),
        pytest.param([1, 2], 0, id="two failures"),
        pytest.param([2], 1, id="a failure after a crash"),
        pytest.param([1, 4], 2, id="a failure, and one after two crashes"),
    ],
)
def test_what_the_history_tells_of_counts_though_another_library_had_the_message_since(
    worker: Worker,
    client: redis.Redis,
    message_id: str,
    attempts: list[int],
    crashes: int,
) -> None:
    lines = "".join(f"{failure(attempt)}\n" for attempt in attempts)
    client.hset(KEYS.history, message_id, lines)
    deliver_elsewhere(client, message_id, 9)
    entry = recovered(worker)
    assert (entry.failures, entry.crashes) == (len(attempts), crashes)


def test_failures_without_the_number_of_their_attempt_count_as_deliveries(
    worker: Worker, client: redis.Redis, message_id: str
) -> None:
    client.hset(KEYS.history, message_id, '{"n": 1}\nno JSON\n')
    deliver_elsewhere(client, message_id, 9)
    entry = recovered(worker)
    assert (entry.deliveries, entry.failures, entry.crashes) == (3, 2, 0)


@pytest.mark.parametrize("loses", ["presence", "holders"])
def test_the_loss_of_one_key_forgets_no_crash(
    worker: Worker,
    other: Worker,
    client: redis.Redis,
    admin: GroupAdmin,
    taken: list[str],
    loses: str,
) -> None:
    client.xclaim(KEYS.stream, KEYS.group, "w1", 0, [taken[0]], retrycount=2, justid=True)
    client.delete(getattr(KEYS, loses))
    other.heartbeat()
    admin.set_idle(taken[0], "w1", HOUR_MS)
    other.recover()
    admin.end_lease("w1")
    entry = recovered(other)
    assert (entry.id, entry.deliveries, entry.crashes) == (taken[0], 3, 2)


def test_a_program_that_is_at_work_keeps_its_messages_for_as_long_as_it_is_given(
    worker: Worker, client: redis.Redis, admin: GroupAdmin, message_id: str
) -> None:
    deliver_elsewhere(client, message_id, 1)
    admin.set_idle(message_id, STRANGER, 10 * LEASE_MS)
    assert worker.recover(foreign_idle_ms=11 * LEASE_MS).entry is None
    assert worker.recover_id(foreign_idle_ms=10 * LEASE_MS) == message_id


def test_several_messages_of_another_library_are_taken_at_a_time(
    worker: Worker, client: redis.Redis
) -> None:
    """They have no crash behind them, so that they need not run alone."""
    ids = worker.publish([b"n", b"1"], [b"n", b"2"])
    for one in ids:
        deliver_elsewhere(client, one, 4)
    assert [entry.id for entry in worker.scan(most=5).entries] == ids


def test_what_another_library_had_under_the_very_name_is_taken_at_once_and_not_charged(
    connection: Connection, client: redis.Redis, admin: GroupAdmin
) -> None:
    consumer = Worker(connection, STRANGER, sends_heartbeat=False)
    (message_id,) = consumer.publish([b"text", b"a"])
    deliver_elsewhere(client, message_id, 4)
    admin.pass_ms(5)
    claimed = consumer.claim_reply()
    assert claimed.before is None
    entry = recovered(consumer, since_ms=claimed.since_ms, predecessor=Predecessor.FOREIGN)
    assert (entry.deliveries, entry.crashes) == (1, 0)


def test_what_was_not_taken_over_yet_when_the_consumer_leaves_is_no_crash_either(
    connection: Connection, client: redis.Redis, worker: Worker, admin: GroupAdmin
) -> None:
    consumer = Worker(connection, STRANGER, sends_heartbeat=False)
    (message_id,) = consumer.publish([b"text", b"a"])
    deliver_elsewhere(client, message_id, 4)
    admin.pass_ms(5)
    claimed = consumer.claim_reply()
    assert consumer.leave(claimed.since_ms, Predecessor.FOREIGN) == [1, 0]
    entry = recovered(worker)
    assert (entry.deliveries, entry.crashes) == (1, 0)


def test_a_crash_of_the_previous_process_counts_though_its_successor_leaves_at_once(
    worker: Worker, other: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    """What the leaving process was sent itself is not charged."""
    admin.set_idle(taken[0], "w1", HOUR_MS)
    assert worker.leave(admin.now_ms() - HOUR_MS // 2) == [3, 0]
    found = {entry.id: entry.crashes for step in other.steps(5) for entry in step.entries}
    assert found == {taken[0]: 1, taken[1]: 0, taken[2]: 0}


@pytest.mark.parametrize("on_record", ["presence", "holders"])
def test_a_name_with_a_claim_or_a_lease_on_record_had_a_process_of_this_library(
    connection: Connection, admin: GroupAdmin, on_record: str
) -> None:
    consumer = Worker(connection, "w1")
    consumer.commands.identity = "the next"
    admin.end_lease("w1")
    admin.client.delete(*{KEYS.presence, KEYS.holders} - {getattr(KEYS, on_record)})
    before = {"presence": b"", "holders": b"the identity of w1"}[on_record]
    assert consumer.claim_reply().before == before
