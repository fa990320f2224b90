"""The consumer as its users see it, on a real Redis, with real outages and real kills."""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import redis
from consumers import DEAD, GROUP, LOGGER, STREAM, Make, dead_letters, owners, pending, results
from helpers import Figures, Gate, eventually, in_a_fork, start_program
from protocol_client import Looker

from shared_sync import (
    RedisStreamConsumer,
    RedisStreamProducer,
    Reject,
    Retry,
    RetryPolicy,
    current_message,
    redis_consumer,
)
from shared_sync.connection import connection as redis_connection
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import (
    ConfigurationError,
    ConsumerBroken,
    ConsumerIdInUse,
    ConsumerStateError,
    RedisAccessDenied,
    RedisRefused,
    RedisUnavailable,
)
from shared_sync.protocol.commands import Entry, Outcome
from shared_sync.protocol.process_identity import Holder
from shared_sync.redis_consumer import identity, recovery

REDIS_PAGE = Path(__file__).parents[2] / "docs" / "redis.md"
QUICK = RetryPolicy(max_attempts=3, base_seconds=0.05, max_seconds=0.2)

# --- the main path ------------------------------------------------------------------------------


def test_six_arguments_are_enough_to_process_a_thousand_messages(
    redis_url: str, client: redis.Redis, producer: RedisStreamProducer
) -> None:
    seen: Counter[str] = Counter()
    ids = producer.publish_many({"number": number} for number in range(1000))
    consumer = RedisStreamConsumer(
        redis_url, STREAM, GROUP, "only", LOGGER, lambda message_id, _: seen.update([message_id])
    )
    with consumer:
        eventually(lambda: client.xlen(STREAM) == 0)
        assert pending(client) == 0
    assert seen == Counter(ids)


def test_the_processor_gets_text_and_the_binary_fields_as_bytes(
    make: Make, producer: RedisStreamProducer
) -> None:
    got: list[tuple[str, dict[str, object]]] = []
    message_id = producer.publish({"audio": b"\xff\x00", "name": "größer", "meta": {"rate": 16000}})
    make(lambda *job: got.append(job), binary_fields=("audio",)).start()
    eventually(lambda: got)
    fields = {"audio": b"\xff\x00", "name": "größer", "meta": '{"rate": 16000}'}
    assert got == [(message_id, fields)]


def test_messages_published_before_the_first_worker_came_are_processed(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    producer.publish({"n": 1})
    make(lambda *_: None).start()
    eventually(lambda: client.xlen(STREAM) == 0)


def test_threads_run_messages_at_the_same_time(make: Make, producer: RedisStreamProducer) -> None:
    together = threading.Barrier(4)
    producer.publish_many({"n": n} for n in range(4))
    done: list[int] = []
    make(lambda *_: done.append(together.wait(10)), threads=4).start()
    eventually(lambda: len(done) == 4)


@pytest.mark.parametrize("prefetch", [1, 10, 100])
def test_every_message_is_processed_once_with_any_prefetch(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, prefetch: int
) -> None:
    seen: Counter[str] = Counter()
    figures = Figures()
    ids = producer.publish_many({"n": n} for n in range(500))
    make(
        lambda message_id, _: seen.update([message_id]),
        threads=3,
        prefetch=prefetch,
        metrics=figures,
    ).start()
    eventually(lambda: client.xlen(STREAM) == 0)
    eventually(lambda: figures.counters["jobs_processed"] == 500)
    assert seen == Counter(ids)
    assert figures.durations["queue_wait"] == 500
    assert figures.durations["processing_latency"] == 500


def test_an_outcome_is_told_while_the_next_read_blocks(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    figures = Figures()
    make(lambda *_: None, metrics=figures, block_seconds=2).start()
    producer.publish({"n": 1})
    eventually(lambda: figures.counters["jobs_processed"] == 1)
    assert client.xlen(STREAM) == 0


# --- results ------------------------------------------------------------------------------------


def test_a_mapping_becomes_the_fields_of_a_result_and_anything_else_the_field_result(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    first = producer.publish({"client_id": "c1", "kind": "mapping"})
    second = producer.publish({"client_id": "c2", "kind": "text"})
    producer.publish({"client_id": "c3", "kind": "none"})

    def processor(_: str, job: dict[str, str]) -> object:
        return {"mapping": {"text": "hello", "words": 1}, "text": "plain"}.get(job["kind"])

    make(processor, result_stream="results", carry_fields=("client_id",)).start()
    eventually(lambda: client.xlen(STREAM) == 0)
    assert results(client) == [
        {"message_id": first, "status": "done", "client_id": "c1", "text": "hello", "words": "1"},
        {"message_id": second, "status": "done", "client_id": "c2", "result": "plain"},
    ]


def test_results_are_published_on_the_channel_named_by_the_message(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    with client.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe("results:c7")
        eventually(lambda: client.pubsub_numsub("results:c7")[0][1] == 1)
        message_id = producer.publish({"client_id": "c7"})
        make(lambda *_: {"text": "schön"}, result_channel="results:{client_id}").start()
        received: list[dict[str, Any]] = []
        eventually(lambda: received.append(listener.get_message()) or any(received))
    (told,) = filter(None, received)
    expected = {"message_id": message_id, "status": "done", "text": "schön"}
    assert json.loads(told["data"]) == expected


def test_who_waits_for_a_message_that_dies_gets_an_error_result(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    message_id = producer.publish({"client_id": "c1"})

    def processor(*_: object) -> None:
        raise Reject("no speech in it")

    make(processor, result_stream="results", carry_fields=("client_id",)).start()
    eventually(lambda: client.xlen("results"))
    (told,) = results(client)
    assert told["message_id"] == message_id
    assert told["status"] == "dead"
    assert told["client_id"] == "c1"
    assert told["reason"] == "rejected: no speech in it"


# --- failures -----------------------------------------------------------------------------------


def test_a_failing_message_waits_is_tried_again_and_succeeds(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    attempts: list[int] = []
    figures = Figures()

    def processor(*_: object) -> str:
        attempts.append(current_message().attempt)
        if len(attempts) < 3:
            raise ValueError("not yet")
        return "done"

    producer.publish({"n": 1})
    make(processor, retry=QUICK, metrics=figures, result_stream="results").start()
    eventually(lambda: client.xlen("results") == 1)
    assert attempts == [1, 2, 3]
    eventually(lambda: figures.counters["jobs_processed"] == 1)
    assert figures.counters["jobs_failed"] == figures.counters["jobs_retried"] == 2
    assert figures.counters["errors.ValueError"] == 2
    assert client.hlen("{jobs}:workers:history") == 0


def test_a_message_that_waits_for_its_retry_is_held_by_no_worker(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    def processor(*_: object) -> None:
        raise Retry(delay_seconds=600)

    message_id = producer.publish({"n": 1})
    consumer = make(processor)
    consumer.start()
    eventually(lambda: client.zcard("{jobs}:workers:due") == 1)
    assert owners(client) == {"~parked": 1}
    due_in = client.zscore("{jobs}:workers:due", message_id) / 1000 - time.time()
    assert 590 < due_in < 601
    assert consumer.stop()
    assert owners(client) == {"~parked": 1}


def test_a_message_that_keeps_failing_becomes_a_dead_letter_with_its_history(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    def processor(*_: object) -> None:
        raise RuntimeError("out of cheese")

    message_id = producer.publish({"name": "n1"})
    figures = Figures()
    make(processor, retry=QUICK, metrics=figures).start()
    eventually(lambda: dead_letters(client))
    (letter,) = dead_letters(client)
    assert letter["name"] == "n1"
    assert letter["dead.id"] == message_id
    assert letter["dead.reason"] == "failed 3 times"
    assert letter["dead.error_type"] == "RuntimeError"
    assert letter["dead.attempts"] == "3"
    assert 'raise RuntimeError("out of cheese")' in letter["dead.traceback"]
    history = [json.loads(line) for line in letter["dead.history"].splitlines()]
    assert [failure["error"] for failure in history] == ["out of cheese"] * 3
    assert client.xlen(STREAM) == pending(client) == 0
    eventually(lambda: figures.counters["jobs_dead"] == 1)
    assert figures.counters["jobs_failed"] == 3


def test_an_entry_that_is_not_text_is_a_dead_letter_and_its_neighbours_live(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    good = []
    producer.publish({"n": 1})
    producer.publish({"audio": b"\xff\xfe"})
    producer.publish({"n": 2})
    make(lambda _, job: good.append(job["n"]), prefetch=10).start()
    eventually(lambda: client.xlen(STREAM) == 0)
    assert good == ["1", "2"]
    (letter,) = dead_letters(client)
    assert "'audio'" in letter["dead.reason"]
    assert "binary_fields" in letter["dead.reason"]
    assert client.xrange(DEAD)[0][1][b"audio"] == b"\xff\xfe"


def test_a_result_that_cannot_be_written_is_a_failure_that_names_the_field(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    producer.publish({"n": 1})
    make(
        lambda *_: {"tensor": object()},
        result_stream="results",
        retry=RetryPolicy(max_attempts=1),
    ).start()
    eventually(lambda: dead_letters(client))
    assert "'tensor'" in dead_letters(client)[0]["dead.error"]


def test_results_that_redis_refuses_are_kept_and_what_was_done_beside_them_counts_as_done(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    figures = Figures()
    producer.publish_many({"n": n} for n in range(4))

    def processor(_: str, job: dict[str, str]) -> str | None:
        if job["n"] == "0":
            client.set("results", "in the way")
        return job["n"] if job["n"] in "13" else None

    consumer = make(processor, prefetch=4, result_stream="results", metrics=figures)
    consumer.start()
    eventually(lambda: not consumer.redis_connected)
    assert pending(client) >= 3
    client.delete("results")
    eventually(lambda: client.xlen(STREAM) == 0)
    eventually(lambda: figures.counters["jobs_processed"] == 4)
    assert [told["result"] for told in results(client)] == ["1", "3"]
    assert figures.counters["jobs_lost"] == 0
    eventually(lambda: consumer.redis_connected)


# --- taking over --------------------------------------------------------------------------------


def test_messages_of_a_consumer_without_presence_are_taken_only_past_the_lease(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    done: list[str] = []
    message_id = producer.publish({"n": 1})
    client.xgroup_create(STREAM, GROUP, id="0")
    begun = time.monotonic()
    client.xreadgroup(GROUP, "stranger", {STREAM: ">"}, count=1)
    make(lambda found, _: done.append(found), lease_seconds=1, block_seconds=0.2).start()
    eventually(lambda: done == [message_id])
    assert time.monotonic() - begun >= 1


def test_what_a_predecessor_had_is_run_at_once_and_charged_however_early_its_successor_was_made(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    """Made before the predecessor read the message, as by a program that loads its model first."""
    attempts: list[int] = []
    successor = make(lambda *_: attempts.append(current_message().attempt), consumer_id="name")
    producer.publish({"n": 1})
    client.xgroup_create(STREAM, GROUP, id="0")
    client.xreadgroup(GROUP, "name", {STREAM: ">"}, count=1)
    Looker(client).pass_ms(5)
    successor.start()
    eventually(lambda: attempts == [2], within=4)


@pytest.mark.parametrize(("told", "at_once"), [(None, 1), (3, 1), (1, 3)])
def test_how_a_predecessor_read_says_how_much_of_what_it_left_runs_at_once(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    told: int | None,
    at_once: int,
) -> None:
    """And not how its successor reads, to which the name is given when it connects."""
    monkeypatch.setattr(recovery, "INTERVAL_SECONDS", 0.01)
    go_on, running = threading.Event(), Counter[str]()

    def processor(message_id: str, _: object) -> None:
        running[message_id] += 1
        assert go_on.wait(20)

    ids = producer.publish_many({"n": n} for n in range(3))
    client.xgroup_create(STREAM, GROUP, id="0")
    client.xreadgroup(GROUP, "name", {STREAM: ">"}, count=3)
    Looker(client).pass_ms(5)
    if told is not None:
        holder = Holder.here(prefetch=told).text()
        client.hset("{jobs}:workers:holders", "name", holder)
    successor = make(processor, consumer_id="name", threads=4, block_seconds=0.01)
    successor.connect()
    successor.start()
    eventually(lambda: len(running) == at_once)
    turns = scripts_run(client)
    eventually(lambda: scripts_run(client) > turns + 20)
    assert running == Counter(ids[:at_once])
    go_on.set()
    eventually(lambda: client.xlen(STREAM) == 0)
    assert running == Counter(ids)


@pytest.fixture
def two_readers(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> Iterator[tuple[list[str], list[str], RedisStreamConsumer]]:
    """What a killed read left, what ran since, and a consumer whose passes the test makes."""
    ids, ran = producer.publish_many({"n": n} for n in range(3)), list[str]()
    client.xgroup_create(STREAM, GROUP, id="0")
    client.xreadgroup(GROUP, "dead", {STREAM: ">"}, count=3)
    client.zadd("{jobs}:workers:presence", {"dead": 1})
    consumer = make(lambda message_id, _: ran.append(message_id), threads=2, block_seconds=0.01)
    consumer.connect()
    yield ids, ran, consumer
    for reader in consumer._readers:
        reader.link.close()


def test_while_it_is_not_known_here_what_a_reader_found_others_run_nothing_that_crashed(
    two_readers: tuple[list[str], list[str], RedisStreamConsumer],
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when a reply takes so long that the next turn comes: it may be of the same read."""
    (first, second, retried), ran, consumer = two_readers
    one, other = consumer._readers
    recoverer = consumer._recoverer
    found = recoverer.found
    client.xclaim(STREAM, GROUP, "~parked", 0, [retried], retrycount=0, justid=True)
    client.zadd("{jobs}:workers:due", {retried: time.time() * 1000 + 600_000})

    def late(reply: Any) -> list[Entry]:
        monkeypatch.setattr(recoverer, "found", found)
        client.zadd("{jobs}:workers:due", {retried: 1})
        for _ in range(3):
            recoverer.due_in(0)
            other.step()
        assert ran == [retried], "which has crashed nobody, and runs beside all"
        return found(reply)

    monkeypatch.setattr(recoverer, "found", late)
    one.step()
    assert ran == [retried, first]
    one.step()  # which settles it
    other.step()
    assert ran == [retried, first, second]


def test_a_reader_that_failed_to_look_keeps_nobody_from_running_what_crashed(
    two_readers: tuple[list[str], list[str], RedisStreamConsumer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (_, second, _), ran, consumer = two_readers
    one, other = consumer._readers
    recoverer = consumer._recoverer

    def fails(_: object) -> list[Entry]:
        monkeypatch.undo()
        raise MemoryError

    monkeypatch.setattr(recoverer, "found", fails)
    with pytest.raises(MemoryError):
        one.step()
    one.step()
    recoverer.due_in(0)
    other.step()
    assert ran == [second]


def scripts_run(client: redis.Redis) -> int:
    return int(client.info("commandstats")["cmdstat_evalsha"]["calls"])


def test_a_late_result_of_a_message_that_was_taken_over_is_refused(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    slow = Gate("late")
    figures = Figures()
    producer.publish({"n": 1})
    make(slow, result_stream="results", metrics=figures).start()
    assert slow.entered.wait(10)
    client.zadd("{jobs}:workers:presence", {"consumer-1": 0})
    (entry,) = client.xpending_range(STREAM, GROUP, "-", "+", 1)
    client.xclaim(STREAM, GROUP, "other", 0, [entry["message_id"]])
    client.xack(STREAM, GROUP, entry["message_id"])
    slow.opened.set()
    eventually(lambda: figures.counters["jobs_lost"] == 1)
    assert client.xlen("results") == 0
    assert figures.counters["jobs_processed"] == 0


# --- Redis goes away ----------------------------------------------------------------------------


def test_a_redis_that_is_not_there_is_an_error_in_the_callers_thread(make: Make) -> None:
    with pytest.raises(RedisUnavailable):
        make(lambda *_: None, url="redis://127.0.0.1:1").connect()
    with pytest.raises(RedisUnavailable):
        make(lambda *_: None, url="redis://127.0.0.1:1").start_consuming()


def test_a_key_that_is_no_stream_is_an_error_that_names_it(make: Make, client: redis.Redis) -> None:
    client.set(STREAM, "text")
    with pytest.raises(ConfigurationError, match="'jobs'"):
        make(lambda *_: None).connect()
    client.delete(STREAM)
    client.set("results", "text")
    with pytest.raises(ConfigurationError, match="result_stream"):
        make(lambda *_: None, result_stream="results").connect()


def test_a_full_redis_is_worked_off_and_its_workers_stay_alive(
    own_server: EmbeddedRedis, make: Make
) -> None:
    """Also by a worker that starts only then."""
    with (
        redis.Redis.from_url(own_server.url, protocol=2) as client,
        RedisStreamProducer(own_server.url, STREAM) as producer,
    ):
        first = make(lambda *_: "done", url=own_server.url)
        first.start()
        assert first.stop()
        producer.publish_many({"audio": b"x" * 10_000} for _ in range(20))
        client.config_set("maxmemory", 1)
        with pytest.raises(RedisRefused) as caught:
            producer.publish({"n": 1})
        assert caught.value.code == "OOM"
        make(
            lambda *_: "done", url=own_server.url, result_stream="results", lease_seconds=3
        ).start()
        eventually(lambda: client.xlen(STREAM) == 0)
        assert client.xlen("results") == 20
        presence = "{jobs}:workers:presence"
        begun = client.zscore(presence, "consumer-2")
        eventually(lambda: client.zscore(presence, "consumer-2") > begun)


# --- leaving ------------------------------------------------------------------------------------


def test_stop_waits_for_what_runs_and_leaves_nothing_behind(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    slow = Gate("done")
    producer.publish({"n": 1})
    consumer = make(slow, result_stream="results")
    consumer.start()
    assert slow.entered.wait(10)
    ended: list[bool] = []
    stopper = threading.Thread(target=lambda: ended.append(consumer.stop()))
    stopper.start()
    eventually(lambda: consumer.state == "draining")
    assert not ended
    slow.opened.set()
    stopper.join(10)
    assert ended == [True]
    assert client.xlen("results") == 1
    assert client.xlen(STREAM) == 0
    assert client.xinfo_consumers(STREAM, GROUP) == []
    assert client.zcard("{jobs}:workers:presence") == 0


def test_prefetched_messages_go_back_at_once_and_uncharged_while_the_running_one_goes_on(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    slow = Gate()
    ids = producer.publish_many({"n": n} for n in range(5))
    first = make(slow, prefetch=5)
    first.start()
    assert slow.entered.wait(10)
    assert owners(client) == {"consumer-1": 5}
    stopper = threading.Thread(target=first.stop)
    stopper.start()
    eventually(lambda: owners(client) == {"consumer-1": 1, "~parked": 4})
    attempts: dict[str, int] = {}
    second = make(lambda message_id, _: attempts.update({message_id: current_message().attempt}))
    second.start()
    eventually(lambda: len(attempts) == 4)
    assert attempts == dict.fromkeys(ids[1:], 1)
    slow.opened.set()
    stopper.join(10)
    eventually(lambda: client.xlen(STREAM) == 0)
    assert len(attempts) == 4


def test_what_still_runs_after_the_drain_is_handed_back_uncharged(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    stuck = Gate()
    message_id = producer.publish({"n": 1})
    first = make(stuck, drain_seconds=0.1)
    first.start()
    assert stuck.entered.wait(10)
    assert first.stop() is False
    assert owners(client) == {"~parked": 1}
    (entry,) = client.xpending_range(STREAM, GROUP, "-", "+", 1)
    assert entry["times_delivered"] == 0
    done: list[tuple[str, int]] = []
    make(lambda found, _: done.append((found, current_message().attempt))).start()
    eventually(lambda: done == [(message_id, 1)])
    stuck.opened.set()


def test_stop_is_quick_when_idle_and_harmless_twice_and_before_start(make: Make) -> None:
    never_started = make(lambda *_: None)
    assert never_started.stop() is True
    for act in (never_started.start, never_started.connect):
        with pytest.raises(ConsumerStateError, match=r"stopped.*make a new RedisStreamConsumer"):
            act()
    consumer = make(lambda *_: None, threads=4, block_seconds=2)
    consumer.start()
    threads = threading.active_count()
    assert consumer.stop(timeout=1.5) is True
    assert consumer.stop() is True
    assert threading.active_count() == threads - 5
    assert consumer.state == "stopped"


def test_a_processor_may_stop_its_own_consumer(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    said: list[bool] = []
    producer.publish({"n": 1})
    consumer = make(lambda *_: said.append(consumer.stop()))
    consumer.start()
    assert consumer.join(15)
    assert said == [False]
    assert client.xlen(STREAM) == 0


def test_stop_ends_during_an_outage(own_server: EmbeddedRedis, make: Make) -> None:
    consumer = make(lambda *_: None, url=own_server.url, threads=2)
    consumer.start()
    own_server.kill()
    eventually(lambda: not consumer.redis_connected)
    begun = time.monotonic()
    consumer.stop(timeout=2)
    assert time.monotonic() - begun < 8
    assert consumer.state == "stopped"


def test_stop_keeps_its_limit_while_redis_hangs(
    own_server: EmbeddedRedis, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a job that does not end, and prefetched ones to hand back."""
    monkeypatch.setattr(redis_consumer, "GOODBYE_SECONDS", 1.0)
    stuck = Gate()
    with RedisStreamProducer(own_server.url, STREAM) as producer:
        producer.publish_many({"n": n} for n in range(5))
    consumer = make(stuck, url=own_server.url, prefetch=5)
    consumer.start()
    assert stuck.entered.wait(10)
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        assert consumer.stop(timeout=1) is False
        assert time.monotonic() - begun < 1 + redis_consumer.GOODBYE_SECONDS + 1
        eventually(lambda: consumer.state == "stopped")
    finally:
        os.kill(own_server.pid, signal.SIGCONT)
        stuck.opened.set()


def test_many_may_stop_it_at_once_and_the_shortest_limit_counts(
    make: Make, producer: RedisStreamProducer
) -> None:
    stuck = Gate()
    producer.publish({"n": 1})
    consumer = make(stuck)
    consumer.start()
    assert stuck.entered.wait(10)
    said: list[bool] = []
    limits = (600, 600, 0.2)
    stoppers = [
        threading.Thread(target=lambda limit=limit: said.append(consumer.stop(limit)))
        for limit in limits
    ]
    for stopper in stoppers:
        stopper.start()
    for stopper in stoppers:
        stopper.join(20)
    assert said == [False] * 3
    stuck.opened.set()


def test_start_consuming_ends_when_another_thread_stops_it(make: Make) -> None:
    consumer = make(lambda *_: None)
    ended: list[bool] = []
    runner = threading.Thread(target=lambda: ended.append(consumer.start_consuming()))
    runner.start()
    eventually(lambda: consumer.state == "running")
    consumer.stop()
    runner.join(10)
    assert ended == [True]


def test_a_consumer_that_is_stopped_while_it_starts_starts_nothing(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a signal handler does that runs in the thread which is just starting it."""
    monkeypatch.setattr(redis_connection, "REPLY_MARGIN_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        consumer = make(lambda *_: None, url=url, block_seconds=0.1)
        failed: list[BaseException] = []

        def start() -> None:
            try:
                consumer.start()
            except RedisUnavailable as error:
                failed.append(error)

        starter = threading.Thread(target=start)
        starter.start()
        eventually(lambda: consumer.state == "starting")
        assert consumer.stop() is True
        starter.join(20)
    assert len(failed) == 1
    assert consumer.state == "stopped"
    assert consumer.get_health_data()["readers_alive"] == 0


# --- one name, one process -----------------------------------------------------------------------


def test_a_second_consumer_of_the_same_name_is_refused_and_the_first_goes_on(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(identity, "POLL_SECONDS", 0.05)
    first = make(lambda *_: None, consumer_id="twin", lease_seconds=3)
    first.start()
    second = make(lambda *_: None, consumer_id="twin", lease_seconds=3)
    with pytest.raises(ConsumerIdInUse, match="'twin'") as caught:
        second.start()
    assert (caught.value.host, caught.value.pid) == (socket.gethostname(), os.getpid())
    producer.publish({"n": 1})
    eventually(lambda: client.xlen(STREAM) == 0)
    assert first.live
    assert first.stop() is True
    second.start()
    producer.publish({"n": 2})
    eventually(lambda: client.xlen(STREAM) == 0)


def test_a_consumer_whose_name_was_taken_ends_itself_and_says_who_has_it(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    consumer = make(lambda *_: None, consumer_id="twin", lease_seconds=1)
    raised: list[BaseException] = []

    def consume() -> None:
        try:
            consumer.start_consuming()
        except ConsumerBroken as error:
            raised.append(error)

    runner = threading.Thread(target=consume, daemon=True)
    runner.start()
    eventually(lambda: consumer.state == "running")
    other = replace(Holder.here(), host="gpu-7", pid=4711)
    client.hset("{jobs}:workers:holders", "twin", other.text())
    runner.join(20)
    assert isinstance(raised[0], ConsumerIdInUse)
    assert "process 4711 on gpu-7" in str(raised[0])
    health = consumer.get_health_data()
    assert (health["live"], health["status"]) == (False, "unhealthy")
    assert client.hget("{jobs}:workers:holders", "twin") == other.text().encode()


def test_a_start_that_waits_for_a_name_can_be_stopped(make: Make, client: redis.Redis) -> None:
    client.hset("{jobs}:workers:holders", "twin", "a holder that cannot be judged")
    now_ms = int(client.time()[0]) * 1000
    client.zadd("{jobs}:workers:presence", {"twin": now_ms + 600_000})
    consumer = make(lambda *_: None, consumer_id="twin", lease_seconds=600)
    starter = threading.Thread(target=consumer.start)
    starter.start()
    eventually(lambda: consumer.state == "starting")
    assert consumer.stop() is True
    starter.join(20)
    assert not starter.is_alive()
    assert client.hget("{jobs}:workers:holders", "twin") == b"a holder that cannot be judged"
    assert client.zscore("{jobs}:workers:presence", "twin") == now_ms + 600_000


def test_a_consumer_that_was_only_connected_gives_its_name_back_when_it_is_stopped(
    make: Make, client: redis.Redis
) -> None:
    first = make(lambda *_: None, consumer_id="twin", prefetch=7)
    first.connect()
    holder = client.hget("{jobs}:workers:holders", "twin")
    assert json.loads(holder)["prefetch"] == 7, "by which others judge what it leaves behind"
    assert first.stop() is True
    assert client.hget("{jobs}:workers:holders", "twin") is None
    with pytest.raises(ConsumerStateError):
        first.connect()
    make(lambda *_: None, consumer_id="twin").start()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_does_not_sign_its_parent_off(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    slow = Gate()
    producer.publish({"n": 1})
    consumer = make(slow)
    consumer.start()
    assert slow.entered.wait(10)
    assert in_a_fork(lambda: consumer.stop(timeout=0)) is False
    assert owners(client) == {"consumer-1": 1}
    assert client.hexists("{jobs}:workers:holders", "consumer-1")
    slow.opened.set()
    eventually(lambda: client.xlen(STREAM) == 0)


FORKING_WORKER = """
    import logging, multiprocessing, sys, time
    from shared_sync import RedisStreamConsumer

    def sleep(ready):
        ready.set()
        time.sleep(600)

    def processor(message_id, job):
        fork = multiprocessing.get_context("fork")
        ready = fork.Event()
        child = fork.Process(target=sleep, args=(ready,), daemon=True)
        child.start()
        assert ready.wait(10)
        child.terminate()
        child.join(10)
        print(child.exitcode, flush=True)

    RedisStreamConsumer(sys.argv[1], "jobs", "workers", "w", None, processor).start_consuming()
"""


def test_sigterm_ends_what_a_processor_has_forked(
    redis_url: str, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    producer.publish({"n": 1})
    with start_program(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(FORKING_WORKER), redis_url],
        stdout=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stdout is not None
        printed = worker.stdout.readline()
        worker.terminate()
        assert worker.wait(30) == 0
    assert printed == f"{-signal.SIGTERM}\n"


def test_without_a_thread_to_drain_in_the_caller_drains(
    make: Make, producer: RedisStreamProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the interpreter shuts down."""
    consumer = make(lambda *_: None)
    consumer.start()
    monkeypatch.setattr(threading.Thread, "start", refuse_to_start)
    assert consumer.stop() is True
    assert consumer.state == "stopped"


def test_a_start_without_threads_leaves_no_name_behind(
    make: Make, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = make(lambda *_: None)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse_to_start)
        with pytest.raises(ConsumerBroken, match="threads"):
            consumer.start()
    assert consumer.state == "stopped"
    assert not client.exists("{jobs}:workers:holders")


def refuse_to_start(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


# --- nothing ends a reader silently --------------------------------------------------------------


class OwnKind(BaseException):
    """Of no kind that anybody would expect."""


KINDS = (ValueError, SystemExit, KeyboardInterrupt, MemoryError, RecursionError, OwnKind)


class RaisingFigures:
    """Metrics that raise whatever is recorded."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def increment_counter(self, name: str, value: float = 1) -> None:
        raise self.kind

    def record_duration(self, name: str, seconds: float) -> None:
        raise self.kind

    def set_gauge(self, name: str, value: float) -> None:
        raise self.kind


class Unencodable:
    """A result that raises when it is written."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def keys(self) -> object:
        raise self.kind

    def __getitem__(self, name: str) -> object:
        raise self.kind


class RaisingHandler(logging.Handler):
    """A log that raises whatever is written."""

    def __init__(self, kind: type[BaseException]) -> None:
        super().__init__()
        self.kind = kind

    def emit(self, record: logging.LogRecord) -> None:
        raise self.kind


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("where", ["processor", "result", "metrics", "logger"])
def test_whatever_raises_wherever_the_pool_keeps_all_its_readers_and_works(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    where: str,
    kind: type[BaseException],
) -> None:
    def processor(_: str, job: dict[str, str]) -> object:
        if job["n"] == "bad" and where == "processor":
            raise kind
        if job["n"] == "bad" and where == "result":
            return MappingProxyType(Unencodable(kind))
        if job["n"] == "bad":
            raise ValueError("so that there is something to tell")
        return "done"

    logger = logging.getLogger(f"raising.{kind.__name__}")
    logger.propagate = False
    handler = RaisingHandler(kind)
    if where == "logger":
        logger.addHandler(handler)
    producer.publish_many({"n": "bad" if n % 3 == 0 else "good"} for n in range(9))
    try:
        consumer = make(
            processor,
            logger=logger,
            metrics=RaisingFigures(kind) if where == "metrics" else None,
            threads=2,
            prefetch=3,
            retry=RetryPolicy(max_attempts=2, base_seconds=0.01),
            result_stream="results",
        )
        consumer.start()
        eventually(lambda: client.xlen(STREAM) == 0)
        statuses = Counter(told["status"] for told in results(client))
        assert statuses == {"done": 6, "dead": 3}
        assert consumer.live
        assert consumer.get_health_data()["readers_alive"] == 2
        assert consumer.stop() is True
    finally:
        logger.removeHandler(handler)


def test_a_message_whose_attempt_came_to_no_outcome_is_run_again(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when there is no memory left to say what it came to; nor for anything else just then."""
    monkeypatch.setattr(redis_connection, "REPLY_MARGIN_SECONDS", 0.2)
    monkeypatch.setattr(recovery, "INTERVAL_SECONDS", 0.2)
    runs: list[str] = []
    consumer = make(lambda message_id, _: runs.append(message_id), block_seconds=0.05)
    delivery = consumer._readers[0]._delivery
    attempt = delivery.attempt

    def fails_once(entry: Entry) -> Outcome:
        outcome = attempt(entry)
        if len(runs) == 1:
            raise MemoryError
        return outcome

    in_hand = consumer._in_hand
    release = in_hand.release
    releases: list[object] = []

    def fails_at_first(ids: Iterable[str]) -> bool:
        releases.append(ids)
        if len(releases) == 1:
            raise MemoryError
        return release(ids)

    monkeypatch.setattr(delivery, "attempt", fails_once)
    monkeypatch.setattr(in_hand, "release", fails_at_first)
    message_id = producer.publish({"n": 1})
    consumer.start()
    eventually(lambda: client.xlen(STREAM) == 0)
    assert runs == [message_id] * 2
    eventually(lambda: in_hand.ids() == [])


# An error that strikes while a connection is made leaves its socket to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_error_thrown_into_a_reader_does_not_end_it(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wherever it strikes: such is KeyboardInterrupt, or a debugger's way to stop a thread."""
    monkeypatch.setattr(redis_connection, "REPLY_MARGIN_SECONDS", 0.5)
    # Thrown in at the wrong moment it would leave a log handler's lock taken for ever.
    silent = logging.Logger("silent")
    silent.disabled = True
    options = {"threads": 2, "block_seconds": 0.05, "lease_seconds": 2, "logger": silent}
    consumer = make(lambda *_: None, **options)
    consumer.start()
    throw = ctypes.pythonapi.PyThreadState_SetAsyncExc
    readers = [thread for thread in threading.enumerate() if "-reader-" in thread.name]
    for number in range(60):
        producer.publish({"n": number})
        throw(ctypes.c_ulong(readers[number % 2].ident or 0), ctypes.py_object(OwnKind))
    eventually(lambda: client.xlen(STREAM) == 0, within=30)
    assert consumer.live
    assert all(reader.is_alive() for reader in readers)
    gc.collect()


def test_a_pool_that_lost_a_thread_says_so_and_start_consuming_raises(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_consumer, "WATCH_SECONDS", 0.05)
    consumer = make(lambda *_: None, threads=2, block_seconds=0.1)
    raised: list[ConsumerBroken] = []

    def consume() -> None:
        try:
            consumer.start_consuming()
        except ConsumerBroken as error:
            raised.append(error)

    runner = threading.Thread(target=consume, daemon=True)
    runner.start()
    eventually(lambda: consumer.state == "running")
    # No error ends a loop, so it is ended by hand, as a defect in the interpreter might.
    consumer._reader_loops[0]._stop = SimpleNamespace(is_set=lambda: True)
    eventually(lambda: not consumer.live)
    assert "reader-1" in consumer.get_health_data()["reasons"][0]
    runner.join(20)
    assert "reader-1" in str(raised[0])
    assert consumer.state == "stopped"


# --- several groups, bad arguments --------------------------------------------------------------


def test_an_entry_is_deleted_only_when_every_group_has_finished_it(
    redis_url: str, make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    client.xgroup_create(STREAM, "archive", id="0", mkstream=True)
    producer.publish_many({"n": n} for n in range(5))
    figures = Figures()
    make(lambda *_: None, metrics=figures).start()
    eventually(lambda: figures.counters["jobs_processed"] == 5)
    assert client.xlen(STREAM) == 5
    with RedisStreamConsumer(redis_url, STREAM, "archive", "a1", LOGGER, lambda *_: None):
        eventually(lambda: client.xlen(STREAM) == 0)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("threads", 0),
        ("threads", 1.5),
        ("threads", True),
        ("prefetch", 0),
        ("lease_seconds", 0.5),
        ("block_seconds", 10),
        ("block_seconds", float("nan")),
        ("drain_seconds", -1),
        ("max_crashes", 0),
        ("binary_fields", "audio"),
        ("binary_fields", None),
        ("carry_fields", 5),
        ("result_stream", ""),
        ("result_channel", 5),
        ("retry", 5),
        ("drain_seconds", 10**400),
        ("carry_fields", ("client_id",)),
        ("result_channel", "results:{client_id.__class__}"),
        ("result_stream", STREAM),
        ("consumer_id", "~parked"),
        ("consumer_id", ""),
    ],
)
def test_an_argument_that_cannot_work_is_named_at_once(
    make: Make, argument: str, value: object
) -> None:
    with pytest.raises(ConfigurationError, match=argument):
        make(lambda *_: None, **{argument: value})


async def _asynchronous(_: str, __: object) -> None: ...


def _generating(_: str, __: object) -> Iterator[None]:
    yield


@pytest.mark.parametrize("processor", [_asynchronous, _generating, "text"])
def test_what_would_not_run_is_no_processor(make: Make, processor: Any) -> None:
    with pytest.raises(ConfigurationError, match="message_processor"):
        make(processor)


def test_a_result_that_has_not_run_is_a_failure_and_not_done(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    producer.publish({"n": 1})
    disguised = partial(lambda job, *_: _asynchronous(*job), ("id", {}))
    make(disguised, retry=RetryPolicy(max_attempts=1)).start()
    eventually(lambda: dead_letters(client))
    assert "has not run" in dead_letters(client)[0]["dead.error"]


def test_a_single_crash_may_be_the_limit_only_where_a_process_holds_a_single_message(
    make: Make,
) -> None:
    make(lambda *_: None, max_crashes=1)
    for options in ({"threads": 2}, {"prefetch": 2}):
        with pytest.raises(ConfigurationError, match="max_crashes=1"):
            make(lambda *_: None, max_crashes=1, **options)


def test_no_password_appears_in_a_log_or_error(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    consumer = make(lambda *_: None, url="redis://user:s3cret@127.0.0.1:1/0")
    with pytest.raises(RedisUnavailable) as caught:
        consumer.connect()
    assert "s3cret" not in str(caught.value) + caplog.text
    with pytest.raises(ConfigurationError) as refused:
        make(lambda *_: None, url="http://user:s3cret@example/0")
    assert "s3cret" not in str(refused.value)


(LEAST_RIGHTS,) = re.findall(r"^    (~audio:jobs .+)$", REDIS_PAGE.read_text(), re.MULTILINE)
OPTIONAL_RIGHTS = {"+publish", "+xgroup|delconsumer", "+xgroup|create"}


def grant(server: EmbeddedRedis, *rights: str) -> str:
    """Make a user with these rights; an address for it."""
    with redis.Redis.from_url(server.url, protocol=2) as admin:
        admin.execute_command("ACL", "SETUSER", "worker", "reset", "on", ">pw", *rights)
    return server.url.replace("redis://", "redis://worker:pw@")


def test_each_of_the_least_rights_is_needed_and_told_at_the_start_or_optional_and_told_once(
    own_server: EmbeddedRedis, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    rights = LEAST_RIGHTS.replace("audio:jobs", STREAM).split()
    assert set(rights) > OPTIONAL_RIGHTS
    make(lambda *_: None, url=own_server.url).connect()
    producer = RedisStreamProducer(own_server.url, STREAM)
    done: list[str] = []
    for missing in rights:
        url = grant(own_server, "resetchannels", *(right for right in rights if right != missing))
        consumer = make(
            lambda message_id, _: done.append(message_id),
            url=url,
            consumer_id="worker",
            result_channel="results:{client}",
        )
        if missing in OPTIONAL_RIGHTS:
            consumer.start()
            message_id = producer.publish({"client": "c"})
            eventually(lambda sought=message_id: sought in done)
            assert consumer.stop()
        else:
            with pytest.raises(RedisAccessDenied):
                consumer.start()
    producer.close()
    assert sum("xgroup|create" in text for text in caplog.messages) == 1


def test_the_documented_least_rights_are_enough(own_server: EmbeddedRedis, make: Make) -> None:
    rights = LEAST_RIGHTS.replace("audio:jobs", STREAM).split()
    with redis.Redis.from_url(own_server.url, protocol=2) as admin:
        admin.execute_command(
            "ACL",
            "SETUSER",
            "worker",
            "on",
            ">pw",
            "resetchannels",
            "&results:*",
            "~results",
            *rights,
        )
        url = own_server.url.replace("redis://", "redis://worker:pw@")
        failing = RetryPolicy(max_attempts=2, base_seconds=0.05)

        def processor(_: str, job: dict[str, str]) -> str:
            if job["n"] == "0":
                raise ValueError("0")
            return job["n"]

        figures = Figures()
        with RedisStreamProducer(url, STREAM, max_queue_depth=100) as producer:
            producer.publish_many({"n": n, "client": "c"} for n in range(10))
        options = {"result_stream": "results", "result_channel": "results:{client}"}
        consumer = make(processor, url=url, retry=failing, metrics=figures, prefetch=3, **options)
        consumer.start()
        eventually(lambda: admin.xlen("results") == 10 and admin.xlen(STREAM) == 0)
        admin.delete(STREAM)
        eventually(lambda: figures.counters["groups_recreated"] == 1)
        assert consumer.stop()
        assert admin.xlen(DEAD) == 1
        refused = {entry["object"] for entry in admin.acl_log()}
        # The driver's own greeting, and one try of what newer servers have.
        assert refused <= {"client|setinfo", "client", "xackdel"}


def test_a_right_that_is_missing_is_told_at_the_start(
    own_server: EmbeddedRedis, make: Make
) -> None:
    with redis.Redis.from_url(own_server.url, protocol=2) as admin:
        rights = ("on", ">pw", "~jobs", "~{jobs}:*", "+@all")
        admin.execute_command("ACL", "SETUSER", "worker", *rights)
    url = own_server.url.replace("redis://", "redis://worker:pw@")
    with pytest.raises(RedisAccessDenied, match="NOPERM"):
        make(lambda *_: None, url=url, result_stream="results").start()
    with pytest.raises(RedisAccessDenied):
        make(lambda *_: None, url=url.replace(":pw@", ":wrong@")).start()


def test_a_channel_that_may_not_be_used_is_told_once_and_counted(
    own_server: EmbeddedRedis, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with redis.Redis.from_url(own_server.url, protocol=2) as admin:
        rights = ("on", ">pw", "~*", "+@all", "resetchannels")
        admin.execute_command("ACL", "SETUSER", "worker", *rights)
    url = own_server.url.replace("redis://", "redis://worker:pw@")
    figures = Figures()
    with RedisStreamProducer(url, STREAM) as producer:
        producer.publish_many({"client": "c", "n": n} for n in range(3))

    def processor(_: str, job: dict[str, str]) -> str:
        if job["n"] == "2":
            raise Reject("no")
        return "done"

    make(processor, url=url, metrics=figures, result_channel="results:{client}").start()
    eventually(lambda: figures.counters["results_unpublished"] == 3)
    assert figures.counters["jobs_processed"] == 2
    eventually(lambda: figures.counters["jobs_dead"] == 1)
    assert sum("grant the worker's user" in text for text in caplog.messages) == 1
