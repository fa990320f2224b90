"""Running messages report progress: in order, throttled, and never after their result."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from consumers import Make, results
from helpers import Figures, eventually
from outboxes import LOGGER, REFUSED, Sender
from protocol_client import KEYS, Worker

from shared_sync import RedisStreamProducer, RetryPolicy, current_message
from shared_sync.batching import Batching
from shared_sync.connection import discovery
from shared_sync.connection.connection import Connect
from shared_sync.errors import ConsumerStateError, InvalidMessage
from shared_sync.message import Message
from shared_sync.protocol import progress
from shared_sync.protocol.live_job import JobContext, LiveJob
from shared_sync.protocol.messages import Address, Answer, Entry
from shared_sync.protocol.results import Results
from shared_sync.redis_consumer.jobs.progress import ProgressSender

NEVER_AGAIN = 0.01
"""Reports in a second: the second one of a test would be due after its end."""


class Reporter:
    """A message that the consumer w1 runs, and the sender of its progress."""

    def __init__(
        self, entry: Entry, connect: Connect, worker: Worker, per_second: float = 1000.0
    ) -> None:
        self.figures = Figures()
        self.sender = ProgressSender(
            "w1-progress",
            connect=connect,
            commands=worker.commands,
            results=Results(
                stream=KEYS.stream,
                result_stream="results",
                result_channel=None,
                carry_fields=(),
                binary_fields=(),
            ),
            binary_fields=(),
            per_second=per_second,
            recorder=self.figures,
            logger=LOGGER,
        )
        context = JobContext(KEYS, False, lambda: 0.0, self.sender)
        self.job = LiveJob(entry, context)
        self.message = Message(entry.id, {}, entry.deliveries, self.job)

    def end(self, outbox: Sender) -> None:
        self.job.end()
        self.sender.end([self.job], outbox.outbox)


Start = Callable[..., Reporter]


@pytest.fixture
def connect(redis_url: str) -> Connect:
    return discovery.connector(redis_url, key=KEYS.stream, reply_timeout_seconds=10)


@pytest.fixture
def start(worker: Worker, connect: Connect) -> Iterator[Start]:
    """Starts a message, and stops the sender of its progress in the end."""
    made: list[Reporter] = []

    def start_one(connect: Connect = connect, **options: float) -> Reporter:
        worker.publish([b"text", b"a"])
        (entry,) = worker.read(1)
        made.append(Reporter(entry, connect, worker, **options))
        return made[-1]

    yield start_one
    assert all(one.sender.stop() for one in made)


def sent(client: redis.Redis) -> list[str]:
    return [one["progress"] for one in results(client) if one["status"] == "progress"]


def test_if_progress_is_too_fast_the_newest_is_sent_and_the_last_with_the_outcome(
    start: Start, worker: Worker, client: redis.Redis
) -> None:
    reporter = start(per_second=NEVER_AGAIN)
    reporter.message.report_progress(0.1, text="a")
    eventually(lambda: sent(client) == ["0.1"])
    for value in (0.2, 0.3, 0.4):
        reporter.message.report_progress(value, text="b")
    outbox = Sender(connection=worker.connection, commands=worker.commands)
    reporter.end(outbox)
    outbox.put(reporter.message.id)
    outbox.outbox.exchange(("TIME",))
    assert sent(client) == ["0.1", "0.4"]
    assert client.xpending("jobs", "workers")["pending"] == 0
    assert client.exists(KEYS.progress) == 0
    assert outbox.figures.counters["progress_sent"] == 1


def test_all_progress_that_is_sent_comes_in_its_order(start: Start, client: redis.Redis) -> None:
    reporter = start()
    for number in range(101):
        reporter.message.report_progress(number / 100)
    eventually(lambda: sent(client)[-1:] == ["1.0"])
    shares = [float(value) for value in sent(client)]
    assert shares == sorted(set(shares))
    eventually(lambda: reporter.figures.counters["progress_sent"] == len(shares))
    kept: Any = client.hget(KEYS.progress, reporter.message.id)
    assert progress.parse(kept) == {"progress": 1.0}


def test_a_message_that_another_worker_has_sends_nothing(
    start: Start, worker: Worker, other: Worker, client: redis.Redis
) -> None:
    reporter = start()
    reporter.message.report_progress(0.1)
    eventually(lambda: sent(client) == ["0.1"])
    worker.park(reporter.message.id, delay_ms=0)
    entry = other.recover().entry
    assert entry is not None
    reporter.message.report_progress(0.2)
    eventually(lambda: reporter.figures.counters["redis_operations"] == 2)
    reporter.message.report_progress(0.3)
    outbox = Sender(connection=worker.connection, commands=worker.commands)
    reporter.end(outbox)
    outbox.put(reporter.message.id)
    assert len(outbox.outbox._pack()) == 2  # what is done, and nothing to report
    assert sent(client) == ["0.1"]
    assert LiveJob(entry).resume_data == {"progress": 0.1}


def test_while_redis_is_away_the_newest_progress_waits(
    start: Start, connect: Connect, client: redis.Redis
) -> None:
    tries: list[int] = []
    answers = threading.Event()

    def away_at_first() -> Any:
        made: Any = connect()
        really_connect = made.connect

        def try_to_connect() -> None:
            tries.append(1)
            if not answers.is_set():
                raise redis.ConnectionError("away")
            really_connect()

        made.connect = try_to_connect
        return made

    reporter = start(away_at_first)
    reporter.message.report_progress(0.1)
    eventually(lambda: len(tries) >= 1)
    reporter.message.report_progress(0.2)
    answers.set()
    eventually(lambda: sent(client) == ["0.2"])


def test_progress_for_a_stream_that_is_denied_is_dropped_and_that_of_others_is_sent(
    worker: Worker, redis_url: str, client: redis.Redis
) -> None:
    rights = ("on", "nopass", "~jobs", "~{jobs}:*", "~news", "&*", "+@all")
    client.execute_command("ACL", "SETUSER", "limited", *rights)
    worker.publish([b"text", b"a"], [b"text", b"b"])
    first, second = worker.read(2)
    url = redis_url.replace("redis://", "redis://limited:x@")
    limited = discovery.connector(url, key=KEYS.stream, reply_timeout_seconds=10)
    reporter = Reporter(first, limited, worker)
    try:
        denied, allowed = Answer([b"n", b"1"]), Answer([b"n", b"2"], address=Address("news"))
        answers = iter((denied, allowed))
        reporter.sender._results.progress = lambda *_: next(answers)  # type: ignore[method-assign]
        with reporter.sender._lock:  # so that both go together
            reporter.message.report_progress(0.1)
            LiveJob(second, reporter.job.context).report_progress(0.2, {})
        eventually(lambda: reporter.figures.counters["redis_operations"] == 2)
        assert client.xlen("news") == 1
        assert client.hkeys(KEYS.progress) == [second.id.encode()]
    finally:
        assert reporter.sender.stop()
        client.execute_command("ACL", "DELUSER", "limited")


def test_what_cannot_be_reported_is_refused_at_the_call(start: Start) -> None:
    reporter = start()
    with pytest.raises(InvalidMessage, match="from 0 to 1"):
        reporter.message.report_progress(50)
    with pytest.raises(InvalidMessage, match="'text'"):
        reporter.message.report_progress(0.5, text=object())
    reporter.job.end()
    with pytest.raises(ConsumerStateError, match="has ended"):
        reporter.message.report_progress(0.5)


def test_progress_without_a_reply_does_not_delay_the_outcome(start: Start) -> None:
    reporter = start(per_second=NEVER_AGAIN)
    reporter.message.report_progress(0.1)
    eventually(lambda: reporter.figures.counters["progress_sent"] == 1)
    reporter.message.report_progress(0.2)
    outbox = Sender()
    reporter.end(outbox)
    outbox.put(reporter.message.id)
    for _ in range(3):
        assert [one.command[0] for one in outbox.outbox._pack()] == ["EVALSHA", "EVALSHA", "HDEL"]
    assert [one.command[0] for one in outbox.outbox._pack()] == ["EVALSHA", "HDEL"]


def test_refused_progress_does_not_delay_the_outcome(start: Start) -> None:
    reporter = start(per_second=NEVER_AGAIN)
    reporter.message.report_progress(0.1)
    eventually(lambda: reporter.figures.counters["progress_sent"] == 1)
    reporter.message.report_progress(0.2)
    outbox = Sender(REFUSED, 1, 1)
    reporter.end(outbox)
    outbox.put(reporter.message.id)
    outbox.outbox.flush()
    assert outbox.jobs() == {"jobs_processed": 1}
    assert not outbox.outbox.is_held_up
    assert outbox.outbox._pack() == []


# --- in a consumer ---


def test_a_processor_reports_before_its_result_and_nothing_comes_after(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    figures = Figures()

    def processor(*_: object) -> str:
        message = current_message()
        for share in (0.25, 0.5, 0.75, 1):
            message.report_progress(share, text=f"part {share}")
        return "all"

    message_id = producer.publish({"n": 1})
    consumer = make(processor, result_stream="results", metrics=figures)
    consumer.start()
    eventually(lambda: any(one["status"] == "done" for one in results(client)))
    assert consumer.stop()
    *progress, last = results(client)
    assert last["result"] == "all"
    assert {one["message_id"] for one in progress} == {message_id}
    assert progress[-1]["text"] == "part 1"
    shares = [float(one["progress"]) for one in progress]
    assert shares == sorted(set(shares))
    assert figures.counters["progress_sent"] == len(progress)
    assert client.exists(KEYS.progress) == 0


def test_the_next_attempt_goes_on_where_the_last_one_was(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    seen: list[object] = []

    def processor(*_: object) -> None:
        message = current_message()
        seen.append(message.resume_data)
        if message.attempt < 3:
            message.report_progress(message.attempt / 10, done=[1] * message.attempt)
            raise ValueError("once more")

    producer.publish({"n": 1})
    make(processor, retry=RetryPolicy(max_attempts=3, base_seconds=0.01)).start()
    eventually(lambda: client.xlen("jobs") == 0)
    assert seen == [
        None,
        {"progress": 0.1, "done": [1]},
        {"progress": 0.2, "done": [1, 1]},
    ]


def test_each_message_of_a_batch_reports_progress(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    def process(messages: list[Message]) -> list[str]:
        for message in messages:
            message.report_progress(0.5, n=message.fields["n"])
        return [str(message.fields["n"]) for message in messages]

    producer.publish_many([{"n": number} for number in range(4)])
    consumer = make(
        None,
        batch_processor=process,
        batch=Batching(max_size=4, max_wait_seconds=5),
        result_stream="results",
    )
    consumer.start()
    eventually(lambda: sum(one["status"] == "done" for one in results(client)) == 4)
    assert consumer.stop()
    by_status: dict[str, list[str]] = {"progress": [], "done": []}
    for one in results(client):
        by_status[one["status"]].append(one.get("n") or one["result"])
    assert sorted(by_status["progress"]) == by_status["done"] == ["0", "1", "2", "3"]


def test_the_heartbeat_removes_progress_of_messages_that_have_ended(
    make: Make, client: redis.Redis
) -> None:
    client.hset(KEYS.progress, mapping={f"{number}-0": "ab 1 {}" for number in range(1, 9)})
    make(lambda *_: None, lease_seconds=1).start()
    eventually(lambda: client.exists(KEYS.progress) == 0)
