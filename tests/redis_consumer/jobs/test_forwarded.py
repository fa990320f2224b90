"""A caller cancels a job that was forwarded to another stream."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis
from consumers import GROUP, LOGGER
from helpers import eventually
from protocol_client import KEYS
from readers import add_slot, start

from shared_sync import RedisStreamConsumer, RedisStreamProducer, current_message
from shared_sync.common.guarded import GuardedLogger
from shared_sync.connection.scripts import Command
from shared_sync.errors import RedisAccessDenied, RedisRefused
from shared_sync.protocol.commands import GroupCommands
from shared_sync.protocol.job_options import OPTIONS, JobOptions
from shared_sync.protocol.messages import Entry
from shared_sync.redis_consumer.in_flight import InFlight
from shared_sync.redis_consumer.jobs.cancellations import (
    FIRST_READS,
    Cancellations,
    CancelWatch,
    Marks,
)
from shared_sync.redis_producer import JobHandle

FIRST, NEXT = "{speech}:audio", "{speech}:texts"
ELSEWHERE = "{jobs}:first:cancelled:forwarded"


def entry(message_id: str, known_as: str = "", reply_to: str = "{jobs}:first:replies:1") -> Entry:
    options = JobOptions(id=known_as, reply_to=reply_to)
    return Entry(message_id, [b"n", b"1", OPTIONS.encode(), options.to_item()])


class Server:
    """Knows of marks, and keeps what was asked."""

    def __init__(self, *marked: str, error: Exception | None = None) -> None:
        self._marked = marked
        self._error = error
        self.asked: list[Command] = []

    def call(self, command: Command) -> Any:
        self.asked.append(command)
        if self._error is not None:
            raise self._error
        return [[one.encode() for one in command if one in self._marked], -1]


@pytest.fixture
def shared() -> Cancellations:
    commands = GroupCommands(KEYS, "w1", 30_000, identity="me")
    return Cancellations(commands, GuardedLogger(logging.getLogger("tests.forwarded")))


def test_only_forwarded_messages_are_looked_up_from_the_first_one_on(
    shared: Cancellations,
) -> None:
    marks, server = Marks(shared), Server("5-0")
    own = entry("1-0", "scheduled-1", reply_to="{jobs}:replies:1")
    plain = Entry("2-0", [b"n", b"1"])
    marks.has_read((), [own, plain, entry("3-0", "")], server.call, brought=True)
    assert not server.asked
    forwarded, other = entry("4-0", "5-0"), entry("5-0", "6-0")
    marks.has_read((), [own, plain, forwarded, other], server.call, brought=True)
    ((*_, key, _tidy, first, second),) = server.asked
    assert (key, first, second) == (ELSEWHERE, "5-0", "6-0")
    assert marks.has(forwarded)
    assert not marks.has(other), "its own id in this stream is that of another job in the other one"


def test_a_reader_that_has_met_none_stops_looking_until_it_meets_one(
    shared: Cancellations,
) -> None:
    marks, server = Marks(shared), Server()
    for _ in range(FIRST_READS):
        assert marks.look_at_each
        marks.has_read((), [Entry("2-0", [b"n", b"1"])], server.call, brought=True)
    assert not marks.look_at_each
    marks.has(entry("4-0", "5-0"))
    assert marks.look_at_each
    assert not server.asked


def test_a_running_forwarded_message_is_notified_of_its_cancellation(shared: Cancellations) -> None:
    in_flight = InFlight()
    slot = add_slot(in_flight, "r1")
    slot.waiting.append(entry("1-0", "7-0"))
    attempt = start(slot)
    watch = CancelWatch(shared, in_flight)
    watch.check(0, Server().call)
    Marks(shared).has(entry("1-0", "7-0"))
    server = Server("7-0")
    watch.check(0, server.call)
    assert len(server.asked) == 1
    assert attempt.job(attempt.entries[0]).is_cancelled


def test_without_the_right_marks_are_not_read_again_and_the_log_says_so_once(
    shared: Cancellations, caplog: pytest.LogCaptureFixture
) -> None:
    marks, waiting = Marks(shared), [entry("4-0", "5-0")]
    for _ in range(FIRST_READS):
        marks.has_read((), [], Server().call, brought=True)
    marks.has(waiting[0])
    marks.has_read((), waiting, Server(error=RedisRefused("busy", code="BUSY")).call, brought=True)
    assert marks.look_at_each
    marks.has_read((), waiting, Server(error=RedisAccessDenied("denied")).call, brought=True)
    assert not marks.has(waiting[0])
    assert not marks.look_at_each
    assert shared.is_on
    assert len(caplog.records) == 1
    assert f"+zscore on {ELSEWHERE}" in caplog.text


@pytest.fixture
def producer(redis_url: str) -> Iterator[RedisStreamProducer]:
    with RedisStreamProducer(redis_url, FIRST) as made:
        yield made


def test_a_handle_cancels_its_job_at_the_next_stage_where_it_waits_or_runs(
    redis_url: str, client: redis.Redis, producer: RedisStreamProducer
) -> None:
    ran: list[str] = []
    runs = threading.Event()

    def forward(_: str, fields: dict[str, Any]) -> None:
        current_message().emit(NEXT, fields, forward_reply=True)

    def work(_: str, fields: dict[str, Any]) -> str:
        ran.append(fields["n"])
        if fields["n"] == "1":
            runs.set()
            assert current_message().cancelled.wait(30)
            current_message().raise_if_cancelled()
        return "done"

    def forwarded(count: int) -> list[JobHandle]:
        handles = [producer.submit({"n": number}) for number in range(count)]
        eventually(lambda: client.xlen(NEXT) == count)
        return handles

    def cancel(handle: JobHandle) -> None:
        assert (handle.cancel(), handle.done) == ("ended", False)

    def consumer(stream: str, processor: Any) -> RedisStreamConsumer:
        options: dict[str, Any] = {"threads": 1, "block_seconds": 0.2}
        return RedisStreamConsumer(redis_url, stream, GROUP, "c1", LOGGER, processor, **options)

    with ExitStack() as stack:
        stack.enter_context(consumer(FIRST, forward))
        gone, running, waiting, other = forwarded(4)
        cancel(gone)
        cancel(waiting)
        stack.enter_context(consumer(NEXT, work))
        assert runs.wait(10)
        cancel(running)
        statuses = [one.result(30).status for one in (gone, running, waiting, other)]
        assert statuses == ["cancelled", "cancelled", "cancelled", "done"]
    assert ran == ["1", "3"]
    assert client.pttl(f"{FIRST}:cancelled:forwarded") > 0
