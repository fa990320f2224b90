"""Jobs that run past their deadline are given to others, and their readers count as stuck."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from consumers import DEAD, GROUP, STREAM, Make, dead_letters, owners, results
from helpers import Figures, eventually

from shared_sync import RedisStreamProducer, RetryPolicy, current_message
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import ConfigurationError
from shared_sync.redis_consumer import recovery

QUICK = RetryPolicy(max_attempts=5, base_seconds=0.05, max_seconds=0.1)
SHORT: dict[str, Any] = {
    "job_deadline_seconds": 0.3,
    "job_limit_seconds": 600,
    "retry": QUICK,
    "result_stream": "results",
}


@pytest.fixture(autouse=True)
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recovery takes turns more often than users need it."""
    monkeypatch.setattr(recovery, "INTERVAL_SECONDS", 0.2)


class Hanging:
    """A processor that hangs on some messages until it is let go."""

    def __init__(self, by: str, *hang_on: str) -> None:
        self.by = by
        self.hang_on = set(hang_on)
        self.let_go = threading.Event()
        self.attempts: Counter[str] = Counter()

    def __call__(self, _: str, job: dict[str, str]) -> str:
        self.attempts[job["n"]] = current_message().attempt
        if job["n"] in self.hang_on:
            assert self.let_go.wait(60)
        return self.by


@pytest.fixture
def hanging() -> Iterator[Callable[..., Hanging]]:
    """Makes processors that are let go at the end of the test."""
    made: list[Hanging] = []

    def make_one(by: str, *hang_on: str) -> Hanging:
        made.append(Hanging(by, *hang_on))
        return made[-1]

    yield make_one
    for processor in made:
        processor.let_go.set()


def test_a_late_message_goes_to_others_and_its_reader_is_stuck_until_it_returns(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, hanging: Callable[..., Hanging]
) -> None:
    message_id = producer.publish({"n": 1})
    figures = Figures()
    stuck = hanging("first", "1")
    first = make(stuck, threads=2, metrics=figures, **SHORT)
    first.start()
    eventually(lambda: first.get_health_data()["readers_stuck"] == 1)
    health = first.get_health_data()
    assert (health["status"], health["live"], health["ready"]) == ("degraded", True, True)
    (reason,) = health["reasons"]
    assert "consumer-1-reader-" in reason
    assert message_id in reason
    eventually(lambda: owners(client) == {"~parked": 1})
    producer.publish({"n": 2})
    eventually(lambda: [answer["result"] for answer in results(client)] == ["first"])
    assert owners(client) == {"~parked": 1}, "this consumer does not take it again"

    other = hanging("other")
    make(other, **SHORT).start()
    eventually(lambda: [answer["result"] for answer in results(client)] == ["first", "other"])
    assert other.attempts["1"] == 2
    stuck.let_go.set()
    eventually(lambda: "status" not in first.get_health_data())
    eventually(lambda: figures.counters["jobs_lost"] == 1)
    assert len(results(client)) == 2, "the late result is refused"
    assert figures.counters["jobs_overdue"] == 1
    assert figures.counters["jobs_failed"] == 1
    assert figures.counters["errors.deadline"] == 1
    assert client.xlen(STREAM) == 0


def test_a_late_result_is_accepted_where_nobody_was_quicker(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, hanging: Callable[..., Hanging]
) -> None:
    producer.publish({"n": 1})
    stuck = hanging("first", "1")
    first = make(stuck, **SHORT)
    first.start()
    eventually(lambda: owners(client) == {"~parked": 1})
    stuck.let_go.set()
    eventually(lambda: len(results(client)) == 1)
    eventually(lambda: client.xlen(STREAM) == 0)
    assert client.zcard("{jobs}:workers:due") == 0
    assert client.hlen("{jobs}:workers:history") == 0
    producer.publish({"n": 2})
    eventually(lambda: len(results(client)) == 2)


def test_a_message_that_is_always_late_becomes_a_dead_letter_that_shows_where_it_hung(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, hanging: Callable[..., Hanging]
) -> None:
    producer.publish({"n": 1})
    twice = SHORT | {"retry": RetryPolicy(max_attempts=2, base_seconds=0.05)}
    for name in ("first", "second"):
        make(hanging(name, "1"), **twice).start()
    eventually(lambda: len(dead_letters(client)) == 1)
    (letter,) = dead_letters(client)
    assert letter["dead.reason"] == "failed 2 times"
    assert letter["dead.error_type"] == "deadline"
    assert "job_deadline_seconds" in letter["dead.error"]
    assert "self.let_go.wait" in letter["dead.traceback"]
    assert letter["dead.crashes"] == "0"
    assert letter["dead.history"].count('"error_type": "deadline"') == 2
    assert [answer["status"] for answer in results(client)] == ["dead"]


def test_a_late_message_becomes_a_dead_letter_also_where_a_files_name_is_no_valid_unicode(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, hanging: Callable[..., Hanging]
) -> None:
    """As a module has in a folder whose name was written in another encoding."""
    inner = hanging("first", "1")
    names = {"inner": inner}
    source = "def processor(*job):\n    return inner(*job)\n"
    exec(compile(source, os.fsdecode(b"/caf\xe9/model.py"), "exec"), names)
    producer.publish({"n": 1})
    make(names["processor"], **SHORT | {"retry": RetryPolicy(max_attempts=1)}).start()
    eventually(lambda: len(dead_letters(client)) == 1)
    (letter,) = dead_letters(client)
    assert letter["dead.error_type"] == "deadline"
    assert 'File "/caf?/model.py", line 2, in processor' in letter["dead.traceback"]


def test_what_was_prefetched_behind_a_late_message_goes_back_uncharged(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, hanging: Callable[..., Hanging]
) -> None:
    producer.publish_many({"n": n} for n in range(1, 5))
    figures = Figures()
    make(hanging("first", "1"), prefetch=4, metrics=figures, **SHORT).start()
    eventually(lambda: owners(client) == {"~parked": 4})
    eventually(lambda: figures.counters["jobs_handed_back"] == 3)
    other = hanging("other")
    make(other, **SHORT).start()
    eventually(lambda: client.xlen(STREAM) == 0)
    assert other.attempts == {"1": 2, "2": 1, "3": 1, "4": 1}


def test_a_stuck_reader_is_not_waited_for_when_stopping(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, hanging: Callable[..., Hanging]
) -> None:
    producer.publish({"n": 1})
    consumer = make(hanging("first", "1"), drain_seconds=600, **SHORT)
    consumer.start()
    eventually(lambda: consumer.get_health_data()["readers_stuck"] == 1)
    assert consumer.stop() is False
    assert owners(client) == {"~parked": 1}


def test_a_job_that_is_late_while_redis_is_away_is_reported_at_once_and_given_up_later(
    make: Make, own_server: EmbeddedRedis, hanging: Callable[..., Hanging]
) -> None:
    stuck = hanging("first", "1")
    with RedisStreamProducer(own_server.url, STREAM) as producer:
        producer.publish({"n": 1})
    consumer = make(stuck, url=own_server.url, **SHORT | {"job_deadline_seconds": 0.7})
    consumer.start()
    eventually(lambda: stuck.attempts)
    own_server.kill()
    eventually(lambda: not consumer.redis_connected)
    eventually(lambda: consumer.get_health_data()["readers_stuck"] == 1)
    assert "its budget is 0.7 s" in str(consumer.get_health_data()["reasons"])
    own_server.start()
    with redis.Redis.from_url(own_server.url, protocol=2) as client:
        eventually(lambda: owners(client) == {"~parked": 1})
        stuck.let_go.set()
        eventually(lambda: client.xlen(STREAM) == 0)
        assert len(results(client)) == 1


def test_a_dead_stream_in_the_way_holds_up_nothing_else(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, hanging: Callable[..., Hanging]
) -> None:
    """What cannot be buried is tried again, and other late messages go on."""
    once = SHORT | {"retry": RetryPolicy(max_attempts=1)}
    make(hanging("first", "1", "2"), threads=2, **once).start()
    client.set(DEAD, "in the way")
    producer.publish_many([{"n": 1}, {"n": 2}])
    eventually(lambda: owners(client) == {"consumer-1": 2})
    calls = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    eventually(lambda: client.info("commandstats")["cmdstat_evalsha"]["calls"] > calls + 5)
    assert owners(client) == {"consumer-1": 2}
    client.delete(DEAD)
    eventually(lambda: len(dead_letters(client)) == 2)


@pytest.mark.parametrize("value", [0, -1, "soon", float("nan"), True])
def test_a_deadline_that_cannot_be_is_refused(make: Make, value: Any) -> None:
    with pytest.raises(ConfigurationError, match="job_deadline_seconds"):
        make(lambda *_: None, job_deadline_seconds=value)


def test_without_a_deadline_a_job_may_run_for_ever(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, hanging: Callable[..., Hanging]
) -> None:
    producer.publish({"n": 1})
    consumer = make(hanging("first", "1"), lease_seconds=1)
    consumer.start()
    presence = "{jobs}:workers:presence"
    eventually(lambda: client.zscore(presence, "consumer-1"))
    begun = client.zscore(presence, "consumer-1")
    eventually(lambda: client.zscore(presence, "consumer-1") > begun + 600)
    assert consumer.live
    assert client.xpending(STREAM, GROUP)["pending"] == 1
