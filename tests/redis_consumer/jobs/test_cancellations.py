"""How readers learn of cancelled messages, and how running messages are notified."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
from helpers import Clock
from protocol_client import KEYS
from readers import add_slot, name_of, start

from shared_sync.common.guarded import GuardedLogger
from shared_sync.connection.scripts import Command
from shared_sync.errors import RedisAccessDenied, RedisRefused, RedisUnavailable
from shared_sync.protocol.commands import MOST_MARKS, GroupCommands
from shared_sync.protocol.job_options import OPTIONS, JobOptions
from shared_sync.protocol.messages import Entry
from shared_sync.redis_consumer.in_flight import InFlight
from shared_sync.redis_consumer.jobs.cancellations import (
    FRESH_SECONDS,
    GAP_SECONDS,
    Cancellations,
    CancelWatch,
    Marks,
)

MANY = [b"7-%d" % number for number in range(MOST_MARKS)]
DENIED = RedisAccessDenied("no permission")


def entry(message_id: str, known_as: str = "") -> Entry:
    options = [OPTIONS.encode(), JobOptions(id=known_as).to_item()] if known_as else []
    return Entry(message_id, [b"n", b"1", *options])


class Server:
    """Answers by a script, and keeps what was called."""

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)
        self.called: list[Command] = []

    def call(self, command: Command) -> Any:
        self.called.append(command)
        reply = self.replies.pop(0)
        if isinstance(reply, BaseException):
            raise reply
        return reply

    @property
    def names(self) -> Sequence[str]:
        return [name_of(command) for command in self.called]


@pytest.fixture
def shared() -> Cancellations:
    commands = GroupCommands(KEYS, "w1", 30_000, identity="me")
    return Cancellations(commands, GuardedLogger(logging.getLogger("tests.cancellations")))


@pytest.fixture
def marks(shared: Cancellations, clock: Clock) -> Marks:
    return Marks(shared, clock=clock)


def test_marks_of_a_read_say_which_messages_are_cancelled_by_either_id(marks: Marks) -> None:
    server = Server()
    marks.has_read([b"1-0", b"job-2"], [], server.call, brought=True)
    cancelled = [entry("1-0"), entry("2-0", "job-2"), entry("3-0"), entry("4-0", "job-4")]
    assert [marks.has(one) for one in cancelled] == [True, True, False, False]
    assert not server.called
    marks.has_read([], [], server.call, brought=True)
    assert not marks.has(entry("1-0"))


def test_if_there_are_very_many_marks_the_waiting_messages_are_looked_up(
    marks: Marks,
) -> None:
    server = Server([[b"job-2"], -1])
    waiting = [entry("1-0"), entry("2-0", "job-2")]
    marks.has_read(MANY, waiting, server.call, brought=True)
    assert server.names == ["marked"]
    assert server.called[0][-3:] == ("1-0", "2-0", "job-2")
    assert [marks.has(one) for one in waiting] == [False, True]


def test_until_the_answer_has_come_nothing_that_waits_may_start(marks: Marks, clock: Clock) -> None:
    marks.has_read([], [], Server().call, brought=True)
    assert clock.now < marks.stale_at
    with pytest.raises(RedisUnavailable):
        marks.has_read(MANY, [entry("1-0")], Server(RedisUnavailable("gone")).call, brought=True)
    assert clock.now > marks.stale_at
    marks.refresh([entry("1-0")], Server([b"1-0"]).call)
    assert marks.stale_at == clock.now + FRESH_SECONDS
    assert marks.has(entry("1-0"))


def test_an_idle_reader_asks_nothing_unless_there_are_marks_or_it_was_away(
    marks: Marks, shared: Cancellations, clock: Clock
) -> None:
    asked = shared.commands.marks()
    assert marks.to_send(waits=True) == asked, "it does not know yet that the stream is empty"
    marks.has_read([], [], Server().call, brought=False)
    assert marks.to_send(waits=True) is None
    assert marks.to_send(waits=False) == asked
    clock.now += 2 * GAP_SECONDS
    assert marks.to_send(waits=True) == asked
    marks.has_read(None, [], Server().call, brought=False)
    assert marks.to_send(waits=True) is None
    shared.exist = True
    assert marks.to_send(waits=True) == asked


def test_a_message_of_a_blocking_read_may_start_and_one_from_a_sibling_may_not(
    marks: Marks, clock: Clock
) -> None:
    marks.has_read(None, [], Server().call, brought=False)
    assert clock.now > marks.stale_at
    marks.has_read(None, [], Server().call, brought=True)
    assert clock.now < marks.stale_at


@pytest.mark.parametrize("travels", [True, False])
def test_without_the_right_marks_are_not_read_again_and_the_log_says_so_once(
    marks: Marks, shared: Cancellations, caplog: pytest.LogCaptureFixture, travels: bool
) -> None:
    for _ in range(2):
        if travels:
            marks.has_read(DENIED, [], Server().call, brought=True)
        else:
            marks.refresh([], Server(DENIED).call)
    assert not shared.is_on
    assert marks.to_send(waits=False) is None
    assert marks.stale_at == float("inf")
    assert len(caplog.records) == 1
    assert "+zrange and +zscore" in caplog.text


def test_another_refusal_turns_nothing_off(marks: Marks, shared: Cancellations) -> None:
    marks.has_read(RedisRefused("WRONGTYPE", code="WRONGTYPE"), [], Server().call, brought=True)
    assert marks.to_send(waits=False) == shared.commands.marks()


def test_running_messages_are_notified_by_the_heartbeat_and_old_marks_checked_in_turn(
    shared: Cancellations,
) -> None:
    in_flight = InFlight()
    slot = add_slot(in_flight, "r1", "1-0", "2-0")
    other = add_slot(in_flight, "r2")
    other.waiting.append(entry("3-0", "job-3"))
    attempts = [start(slot), start(other)]
    watch = CancelWatch(shared, in_flight)
    server = Server()
    watch.check(0, server.call)
    assert not server.called
    server = Server([[b"job-3"], 7], [[b"1-0", b"job-3"], 0])
    watch.check(5, server.call)
    assert shared.exist
    assert server.called[0][-4:] == (0, "1-0", "3-0", "job-3")
    assert attempts[0].jobs is None
    assert attempts[1].job(attempts[1].entries[0]).is_cancelled
    watch.check(5, server.call)
    assert server.called[1][-4] == 7
    assert attempts[0].job(attempts[0].entries[0]).is_cancelled


def test_a_heartbeat_that_may_not_read_the_marks_turns_them_off(shared: Cancellations) -> None:
    watch = CancelWatch(shared, InFlight())
    watch.check(1, Server(DENIED).call)
    assert not shared.is_on
    watch.check(1, Server().call)
