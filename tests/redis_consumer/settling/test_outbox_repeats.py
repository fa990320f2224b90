"""After a lost reply an outbox sends again, and what Redis had settled already is no loss."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from types import FrameType
from typing import Any

import pytest
from outboxes import LOST, READ, Sender, bury, finish, park, settled
from protocol_client import GroupAdmin, Worker, make_connection, result

from shared_sync.connection import connection as connection_module
from shared_sync.connection.connection import Connection
from shared_sync.errors import RedisUnavailable
from shared_sync.protocol.messages import Bury, Finish, Outcome, Park, parse_read
from shared_sync.redis_consumer.settling import outbox as outbox_module

# --- which losses a repetition explains -------------------------------------------------------


def test_what_was_sent_before_a_lost_reply_is_sent_again_and_counts_once() -> None:
    sender = Sender(LOST, 0)
    sender.put("1-0", "2-0")
    with pytest.raises(RedisUnavailable):
        sender.outbox.flush()
    assert sender.outbox.is_held_up
    assert sender.outbox.ids() == ["1-0", "2-0"]
    sender.outbox.flush()
    first, second = sender.connection.sent
    assert first == second
    assert sender.jobs() == {"jobs_processed": 2}
    assert sender.connection.connects == 2
    assert sender.figures.counters["redis_reconnects"] == 1


@pytest.mark.parametrize(
    ("ended", "jobs"),
    [
        (5, {"jobs_processed": 5}),
        (3, {"jobs_processed": 5}),
        (2, {"jobs_processed": 4, "jobs_lost": 1}),
        (0, {"jobs_processed": 2, "jobs_lost": 3}),
    ],
)
def test_a_shortfall_beyond_what_was_sent_before_is_a_loss(
    ended: int, jobs: dict[str, int]
) -> None:
    sender = Sender(LOST, ended)
    sender.put("1-0", "2-0")
    with pytest.raises(RedisUnavailable):
        sender.outbox.flush()
    sender.put("3-0", "4-0", "5-0")
    sender.outbox.flush()
    assert sender.jobs() == jobs


def test_a_repetition_explains_nothing_any_more_once_it_was_answered() -> None:
    sender = Sender(LOST, 0, 0)
    sender.put("1-0")
    with pytest.raises(RedisUnavailable):
        sender.outbox.flush()
    sender.outbox.flush()
    sender.put("1-0")
    sender.outbox.flush()
    assert sender.jobs() == {"jobs_processed": 1, "jobs_lost": 1}


def test_what_could_not_be_sent_for_want_of_a_connection_was_not_sent() -> None:
    sender = Sender(0)
    sender.connection.fail_to_open = LOST
    sender.put("1-0")
    with pytest.raises(RedisUnavailable):
        sender.outbox.flush()
    sender.connection.fail_to_open = None
    sender.outbox.flush()
    assert sender.jobs() == {"jobs_lost": 1}


def test_what_broke_off_while_it_was_sent_may_have_arrived() -> None:
    sender = Sender(0)
    sender.connection.fail_to_send = LOST
    sender.put("1-0")
    with pytest.raises(RedisUnavailable):
        sender.outbox.flush()
    assert sender.outbox.is_held_up
    sender.connection.fail_to_send = None
    sender.outbox.flush()
    assert sender.jobs() == {"jobs_processed": 1}


@pytest.mark.parametrize(
    ("outcome", "counter"),
    [(finish("1-0"), "jobs_processed"), (park("1-0"), "jobs_retried"), (bury("1-0"), "jobs_dead")],
)
def test_an_outcome_whose_first_reply_was_lost_counts_as_what_it_was(
    outcome: Outcome, counter: str
) -> None:
    sender = Sender(LOST, settled(0))
    sender.outbox.add(outcome)
    with pytest.raises(RedisUnavailable):
        sender.outbox.flush()
    sender.outbox.flush()
    assert sender.jobs() == {counter: 1}


def test_only_what_had_no_reply_is_sent_again() -> None:
    sender = Sender(1, LOST, settled(0), settled(1), [1, 0])
    sender.put("1-0")
    sender.outbox.add(finish("2-0"))
    sender.outbox.add(park("3-0"))
    sender.outbox.hand_back(["4-0"])
    with pytest.raises(RedisUnavailable):
        sender.outbox.flush()
    assert sender.outbox.ids() == ["2-0", "3-0", "4-0"]
    sender.outbox.flush()
    assert sender.connection.names()[1:] == [["finish_with_results"], ["park"], ["hand_back"]]
    assert sender.jobs() == {"jobs_processed": 2, "jobs_retried": 1, "jobs_handed_back": 1}


def test_a_lost_reply_to_the_command_leaves_what_was_settled_before_it_settled() -> None:
    sender = Sender(1, LOST, "reply")
    sender.put("1-0")
    with pytest.raises(RedisUnavailable):
        sender.outbox.exchange(READ)
    assert sender.outbox.ids() == []
    assert sender.outbox.exchange(READ) == "reply"
    assert sender.connection.names()[1] == ["XREADGROUP"]
    assert sender.jobs() == {"jobs_processed": 1}


# --- on a real server -------------------------------------------------------------------------


class Losing(Connection):
    """A real connection that breaks, when it is told to, after Redis has replied."""

    def __init__(self, connection: Connection) -> None:
        self.__dict__.update(connection.__dict__)
        self.loses = 0
        """How many replies are lost from now on."""

    def receive(self) -> Any:
        reply = super().receive()
        if self.loses:
            self.loses -= 1
            self.close()
            raise RedisUnavailable("the reply was lost")
        return reply


@pytest.fixture
def losing(redis_url: str) -> Iterator[Losing]:
    with closing(Losing(make_connection(redis_url))) as made:
        yield made


def outbox_with_all(sender: Sender, worker: Worker) -> dict[str, str]:
    """Put in one message of each kind; their ids."""
    ids = worker.publish(*[[b"text", name.encode()] for name in KINDS])
    entries = {name: entry.id for name, entry in zip(KINDS, worker.read(), strict=True)}
    assert list(entries.values()) == ids
    sender.outbox.add_done(entries["done"])
    sender.outbox.add(Finish(entries["finish"], *result("done")[:3]))
    sender.outbox.add(Park(entries["park"], '{"n":1}', 3_600_000, 1))
    sender.outbox.add(Bury(entries["bury"], '{"n":1}', bury("").metadata, result("done")))
    sender.outbox.hand_back([entries["return"]])
    return entries


KINDS = ("done", "finish", "park", "bury", "return")
COUNTED = {"jobs_processed": 2, "jobs_retried": 1, "jobs_dead": 1}


def assert_settled_once(admin: GroupAdmin, ids: dict[str, str]) -> None:
    assert admin.pending() == {ids["park"]: ("~parked", 1), ids["return"]: ("~parked", 0)}
    assert set(admin.due()) == {ids["park"], ids["return"]}
    assert admin.history() == {ids["park"]: '{"n":1}\n'}
    assert len(admin.dead()) == 1
    assert len(admin.results()) == 2
    assert admin.bodies() == [ids["park"], ids["return"]]


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_however_often_the_reply_is_lost_redis_settles_each_message_once(
    losing: Losing, worker: Worker, admin: GroupAdmin, lost: int
) -> None:
    sender = sender_as(worker, losing)
    ids = outbox_with_all(sender, worker)
    losing.loses = lost
    for _ in range(lost):
        with pytest.raises(RedisUnavailable):
            sender.outbox.flush()
    sender.outbox.flush()
    assert sender.outbox.ids() == []
    assert_settled_once(admin, ids)
    handed_back = {"jobs_handed_back": 1} if lost == 0 else {}
    assert sender.jobs() == COUNTED | handed_back, "what went back before counts no more"


def sender_as(worker: Worker, connection: Connection) -> Sender:
    """An outbox that sends what this worker would."""
    sender = Sender(connection=connection)
    sender.outbox._commands = worker.commands
    return sender


FILES = (outbox_module.__file__, connection_module.__file__)


class Thrown(BaseException):
    """An error that another thread throws into this one, as a debugger does."""


def throw_at(line_number: int) -> Callable[[FrameType, str, Any], Any]:
    """A trace function that raises at the so many-th line that is run in an outbox or below."""
    lines = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            lines += 1
            if lines == line_number:
                raise Thrown
        return trace

    return trace


def broken_off(line_number: int, act: Callable[[], object]) -> bool:
    """Do something that is broken off at a line; whether there was such a line."""
    before = sys.gettrace()
    sys.settrace(throw_at(line_number))
    try:
        act()
    except Thrown:
        return True
    finally:
        sys.settrace(before)
    return False


def test_wherever_an_error_strikes_each_message_is_settled_once_and_replies_stay_in_step(
    redis_url: str, admin: GroupAdmin
) -> None:
    line, struck = 0, True
    while struck:
        line += 1
        admin.client.flushall()
        with (
            closing(make_connection(redis_url)) as own,
            closing(make_connection(redis_url)) as connection,
        ):
            worker = Worker(own, "w1")
            sender = sender_as(worker, connection)
            ids = outbox_with_all(sender, worker)
            exchange, commands = sender.outbox.exchange, worker.commands
            struck = broken_off(line, partial(exchange, commands.read(10)))
            assert exchange(("ECHO", f"line {line}")) == f"line {line}".encode()
            assert parse_read(exchange(commands.read(10))) == []
            assert sender.outbox.ids() == []
            assert_settled_once(admin, ids)
            assert "jobs_lost" not in sender.jobs()
    assert line > 100
