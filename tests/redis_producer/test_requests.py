"""A job is published, and its result comes back to the process that published it."""

from __future__ import annotations

import gc
import json
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from consumers import Make
from helpers import Figures, eventually, in_a_fork
from plain_workers import PlainWorker, double, reply_streams
from producers import STREAM, other_connections, together

from shared_sync import RedisStreamProducer, Reject, Result, ResultListener
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import (
    ConfigurationError,
    ConsumerStateError,
    JobFailed,
    RedisUnavailable,
    ResultTimeout,
)
from shared_sync.redis_producer.request_connections import MOST_REQUESTS


@pytest.fixture
def worker(redis_url: str) -> Iterator[PlainWorker]:
    with PlainWorker(redis_url, double) as made:
        yield made


# --- results ----------------------------------------------------------------------------------


def test_a_request_returns_the_result_with_its_types(worker: PlainWorker, redis_url: str) -> None:
    figures = Figures()
    with RedisStreamProducer(redis_url, STREAM, metrics=figures) as producer:
        result = producer.request({"n": 21}, timeout=10)
    assert (result.status, result.fields) == ("done", {"twice": 42})
    assert figures.counters == {"jobs_sent": 1, "results_received": 1}
    assert figures.durations == {"job_round_trip": 1}


def test_many_threads_get_their_own_results(
    worker: PlainWorker, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    def ask(number: int) -> None:
        for more in range(20):
            n = 100 * number + more
            assert producer.request({"n": n}, timeout=20).fields == {"twice": 2 * n}

    together(12, ask)
    streams = reply_streams(client)
    assert len(streams) <= MOST_REQUESTS + 1
    assert sum(map(client.xlen, streams)) <= len(streams), "what was read is removed"


def test_a_handle_has_the_result_once_it_has_arrived_and_the_newest_progress(
    redis_url: str, producer: RedisStreamProducer
) -> None:
    gate = threading.Event()

    def answer(_: dict[bytes, bytes]) -> list[dict[str, str]]:
        assert gate.wait(10)
        progress = {"status": "progress", "progress": "0.5"}
        return [progress, {"status": "dead", "reason": "no speech", "attempts": "1"}]

    with PlainWorker(redis_url, answer):
        handle = producer.submit({"n": 1})
        assert not handle.done
        assert handle.progress is None
        with pytest.raises(ResultTimeout, match=handle.id):
            handle.result(timeout=0)
        gate.set()
        assert handle.result(timeout=10) == handle.result()
    assert handle.progress is not None
    assert handle.progress.progress == 0.5
    assert (handle.done, handle.status(), handle.cancel()) == (True, "dead", "ended")
    assert handle.result().reason == "no speech"


def test_a_job_that_is_published_once_has_one_result_for_both_handles(
    worker: PlainWorker, producer: RedisStreamProducer
) -> None:
    first, second = (producer.submit({"n": 4}, deduplicate_key="four") for _ in range(2))
    assert first.id == second.id
    assert first.result(10) == second.result(10)


# --- without a result ---------------------------------------------------------------------------


def test_a_request_that_times_out_expires_and_is_cancelled(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    with pytest.raises(ResultTimeout, match=r"has not arrived within 0\.2 s") as caught:
        producer.request({"n": 1}, timeout=0.2)
    ((entry_id, fields),) = client.xrange(STREAM)
    assert caught.value.message_id == entry_id.decode()
    assert json.loads(fields[b"shared_sync.options"])["expires_seconds"] == 0.2
    assert client.zscore("{jobs}:cancelled", entry_id) is not None


def test_a_waiting_job_can_be_cancelled_and_asked_about(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    handle = producer.submit({"n": 1})
    assert handle.status() == producer.status(handle.id) == "waiting"
    assert handle.cancel() == "waiting"
    assert client.zscore("{jobs}:cancelled", handle.id) is not None
    assert producer.status("1-0") == "ended"


def test_closing_ends_waits_and_removes_the_stream_and_a_later_request_begins_anew(
    producer: RedisStreamProducer, redis_url: str, client: redis.Redis
) -> None:
    before = set(other_connections(client))
    handle = producer.submit({"n": 1})
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            handle.result()
        except ConsumerStateError as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    producer.close()
    thread.join(10)
    assert len(caught) == 1
    assert reply_streams(client) == []
    eventually(lambda: set(other_connections(client)) <= before)
    with PlainWorker(redis_url, double) as worker:
        assert producer.request({"n": 2}, timeout=10).ok
        assert worker.dropped == 1, "the result for a stream that is gone"


def test_nothing_is_made_before_the_first_submission(
    producer: RedisStreamProducer, client: redis.Redis
) -> None:
    producer.publish({"n": 1})
    assert reply_streams(client) == []
    assert not [thread for thread in threading.enumerate() if thread.name == "results"]


def test_a_submission_while_redis_is_away_is_an_error_and_a_later_one_works(
    own_server: EmbeddedRedis,
) -> None:
    own_server.kill()
    with RedisStreamProducer(own_server.url, STREAM) as producer:
        with pytest.raises(RedisUnavailable):
            producer.submit({"n": 1})
        own_server.start()
        with PlainWorker(own_server.url, double):
            assert producer.request({"n": 1}, timeout=10).ok


def test_a_producer_that_is_forgotten_leaves_neither_thread_nor_stream(
    redis_url: str, client: redis.Redis
) -> None:
    producer = RedisStreamProducer(redis_url, STREAM)
    producer.submit({"n": 1})
    del producer
    gc.collect()
    eventually(lambda: reply_streams(client) == [])


# --- the reply stream -----------------------------------------------------------------------------


def test_a_fork_waits_for_its_own_results(
    worker: PlainWorker, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    def ask() -> dict[str, Any]:
        result = producer.request({"n": 2}, timeout=10)
        producer.close()
        return dict(result.fields)

    assert producer.request({"n": 1}, timeout=10).ok
    before = reply_streams(client)
    assert in_a_fork(ask) == {"twice": 4}
    assert reply_streams(client) == before
    assert producer.request({"n": 3}, timeout=10).fields == {"twice": 6}


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_is_told_that_a_result_goes_to_its_parent(
    producer: RedisStreamProducer,
) -> None:
    handle = producer.submit({"n": 1})

    def wait() -> str:
        with pytest.raises(ConsumerStateError) as caught:
            handle.result()
        return str(caught.value)

    assert f"goes to process {os.getpid()}, which has submitted" in in_a_fork(wait)


@pytest.mark.parametrize("wrong", [None, "", b"1-0", 5, "\ud800"])
def test_an_argument_that_is_not_an_id_is_refused_before_anything_is_sent(
    producer: RedisStreamProducer, wrong: Any
) -> None:
    for ask in (producer.cancel, producer.status, ResultListener("redis://h", STREAM).wait):
        with pytest.raises(ConfigurationError, match=r"^message_id must be"):
            ask(wrong)


def test_redis_may_restart_while_results_are_waited_for(own_server: EmbeddedRedis) -> None:
    gate = threading.Event()

    def answer(fields: dict[bytes, bytes]) -> list[dict[str, str]]:
        assert gate.wait(10)
        return double(fields)

    with RedisStreamProducer(own_server.url, STREAM) as producer:
        handles = [producer.submit({"n": n}) for n in range(20)]
        own_server.kill()
        own_server.start()
        gate.set()
        with PlainWorker(own_server.url, answer):
            results = [handle.result(timeout=20) for handle in handles]
    assert [result.fields["twice"] for result in results] == [2 * n for n in range(20)]


def test_a_reply_stream_that_is_gone_is_created_before_the_next_job_is_published(
    producer: RedisStreamProducer, redis_url: str, client: redis.Redis, monkeypatch: Any
) -> None:
    monkeypatch.setattr("shared_sync.protocol.result_streams.CONFIRMED_SECONDS", 0.0)

    def submit(fields: dict[str, object], timeout: float) -> Result:
        return producer.submit(fields).result(timeout)

    with PlainWorker(redis_url, double):
        assert producer.request({"n": 1}, timeout=10).ok
        for _ in range(5):
            for ask in (producer.request, submit):
                client.delete(*reply_streams(client))
                assert ask({"n": 1}, timeout=10).ok


# --- with workers of this library ---------------------------------------------------------------


def test_each_request_has_a_result_whatever_its_outcome(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    returned: dict[str, object] = {
        "mapping": {"count": 7, "yes": True, "parts": [1, None], "audio": b"\xff", "text": "7"},
        "text": "hello",
        "none": None,
    }

    def processor(_: str, job: dict[str, Any]) -> object:
        if job["kind"] == "dead":
            raise Reject("no speech")
        return returned[job["kind"]]

    with make(processor, result_stream="results"):
        answers = {
            kind: producer.request({"kind": kind}, timeout=20) for kind in (*returned, "dead")
        }
    assert answers["mapping"].fields == returned["mapping"]
    assert answers["text"].fields == {"result": "hello"}
    assert answers["none"].raise_for_status().fields == {}
    assert (answers["dead"].status, answers["dead"].attempts) == ("dead", 1)
    with pytest.raises(JobFailed, match="rejected: no speech"):
        answers["dead"].raise_for_status()
    assert client.xlen("results") == 0
