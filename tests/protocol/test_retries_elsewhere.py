"""A message is tried again by another worker than the one on which it has failed, if one lives."""

from __future__ import annotations

import pytest
from protocol_client import HOUR_MS, KEYS, GroupAdmin, Worker

from shared_sync.protocol.dead_letter_layout import failure_line


def fail(worker: Worker, message_id: str, *, delay_ms: int = 60_000, name: str = "w1") -> None:
    """Park a message with a failure on the consumer of this name, due just now."""
    line = failure_line(
        worker=name, time=0.0, attempt=1, error_type="E", error="no", delay_ms=delay_ms
    )
    assert worker.park(message_id, delay_ms=delay_ms, failure=line) == 1
    make_due(worker, message_id)


def make_due(worker: Worker, message_id: str, ago_ms: int = 0) -> None:
    seconds, micros = worker.connection.call("TIME")
    now = int(seconds) * 1000 + int(micros) // 1000
    worker.connection.call("ZADD", KEYS.due, now - ago_ms, message_id)


def test_the_worker_on_which_it_failed_leaves_it_to_another_one_at_first(
    worker: Worker, other: Worker, taken: list[str]
) -> None:
    fail(worker, taken[0])
    found = worker.recover()
    assert found.entry is None
    assert found.next_due_seconds is not None
    assert 0.5 < found.next_due_seconds <= 1.0, "it takes the message then"
    assert other.recover_id() == taken[0]


def test_if_nobody_else_takes_it_the_same_worker_does(
    worker: Worker, other: Worker, taken: list[str]
) -> None:
    fail(worker, taken[0])
    make_due(worker, taken[0], ago_ms=1001)
    assert worker.recover_id() == taken[0]


def test_it_waits_for_others_no_longer_than_it_has_waited_for_its_time(
    worker: Worker, other: Worker, taken: list[str]
) -> None:
    fail(worker, taken[0], delay_ms=0)
    assert worker.recover_id() == taken[0]
    fail(worker, taken[1], delay_ms=100)
    found = worker.recover()
    assert found.entry is not None or (
        found.next_due_seconds is not None and found.next_due_seconds <= 0.1
    )


def test_without_another_worker_that_lives_nothing_waits(
    worker: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    fail(worker, taken[0])
    assert worker.recover_id() == taken[0]
    Worker(worker.connection, "w2")
    admin.end_lease("w2")
    fail(worker, taken[1])
    assert worker.recover_id() == taken[1]


def test_only_the_last_failure_counts(worker: Worker, other: Worker, taken: list[str]) -> None:
    fail(worker, taken[0])
    make_due(worker, taken[0], ago_ms=2000)
    worker.recover()
    fail(worker, taken[0], name="w2")
    assert other.recover().entry is None
    assert worker.recover_id() == taken[0]


def test_messages_behind_it_do_not_wait_for_it(
    worker: Worker, other: Worker, taken: list[str]
) -> None:
    fail(worker, taken[0])
    make_due(worker, taken[0], ago_ms=100)
    fail(worker, taken[1], name="w2")
    worker.park(taken[2], delay_ms=HOUR_MS)
    found = worker.recover()
    assert found.entry is not None
    assert found.entry.id == taken[1]
    assert found.next_due_seconds is not None
    assert found.next_due_seconds <= 1.0


def test_a_message_at_which_a_worker_broke_is_for_one_that_has_worked(
    worker: Worker, other: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    worker.fault(taken[0])
    found = other.scan(has_worked=False)
    assert found.entries == []
    assert found.next_due_seconds == pytest.approx(60, abs=5)
    assert [entry.id for entry in other.scan(has_worked=True).entries] == [taken[0]]
    other.fault(taken[0])
    make_due(worker, taken[0], ago_ms=60_001)
    assert [entry.id for entry in worker.scan(has_worked=False).entries] == [taken[0]]
    worker.fault(taken[0])
    admin.end_lease("w2")
    found = worker.scan(has_worked=False, foreign=())
    assert [entry.id for entry in found.entries] == [taken[0]], "there is nobody else"


def test_a_message_that_was_charged_with_a_fault_is_for_any_worker(
    worker: Worker, other: Worker, taken: list[str]
) -> None:
    worker.fault(taken[0])
    assert worker.recover_id() == taken[0]
    assert worker.park(taken[0], delay_ms=0, failure="") == 1
    assert [entry.id for entry in other.scan(has_worked=False).entries] == [taken[0]]


def test_histories_that_no_release_has_written_delay_nothing(
    worker: Worker, other: Worker, admin: GroupAdmin, taken: list[str]
) -> None:
    for message_id, notes in zip(taken, ("\t\t", "no JSON\n", '["w1"]\n'), strict=True):
        worker.park(message_id, delay_ms=0)
        admin.client.hset(KEYS.history, message_id, notes)
    assert [worker.recover_id() for _ in taken] == taken
