"""What cannot work is refused at once, in the caller's thread, and named; no password is shown."""

from __future__ import annotations

import json
import logging
import os.path
import re
from functools import partial
from typing import Any

import pytest
import redis
from consumers import STREAM, Make
from helpers import Gate, eventually

from shared_sync import (
    Batching,
    CircuitBreaker,
    RedisStreamConsumer,
    RedisStreamProducer,
    WorkerMetrics,
)
from shared_sync.errors import ConfigurationError, RedisUnavailable
from shared_sync.protocol.process_identity import ONE_BY_ONE, ProcessIdentity


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("threads", 0),
        ("threads", 1.5),
        ("threads", True),
        ("prefetch", 0),
        ("prefetch", 1001),
        ("prefetch", 2.5),
        ("prefetch", "automatic"),
        ("prefetch", None),
        ("lease_seconds", 0.5),
        ("foreign_idle_seconds", 0),
        ("foreign_idle_seconds", float("nan")),
        ("foreign_idle_seconds", "never"),
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
        ("connect_seconds", -1),
        ("connect_seconds", "forever"),
        ("connect_seconds", float("nan")),
        ("result_channel", "results:{client_id.__class__}"),
        ("result_stream", STREAM),
        ("result_stream", "out:{id.__class__}"),
        ("result_stream", "out:{}"),
        ("result_stream", "out}"),
        ("logger", "stt"),
        ("logger", logging.Logger),
        ("metrics", 5),
        ("metrics", WorkerMetrics),
        ("max_age_seconds", 0),
        ("max_age_seconds", float("inf")),
        ("dead_letter_expired", 1),
        ("result_max_entries", 0),
        ("result_max_entries", 100),
        ("result_ttl_seconds", 60),
        ("dead_max_entries", 2.5),
        ("dead_ttl_seconds", 0.5),
        ("dead_ttl_seconds", float("inf")),
        ("devices", "cuda:0"),
        ("devices", {"cuda:0"}),
        ("devices", ["cuda:0", 1]),
        ("devices", [""]),
        ("devices", ["cuda:0"]),
        ("max_jobs_per_processor", 0),
        ("max_jobs_per_processor", 1.5),
        ("max_jobs_per_processor", 100),
        ("processor_factory", lambda _: None),
        ("fatal_errors", "AcceleratorError"),
        ("fatal_errors", None),
        ("fatal_errors", [int]),
        ("fatal_errors", ["CUDA error"]),
        ("fatal_errors", [ValueError("x")]),
        ("fatal_errors", [Exception]),
        ("max_failures_in_a_row", 1),
        ("max_failures_in_a_row", 2.5),
        ("consumer_id", "~parked"),
        ("consumer_id", ""),
        ("batch", 16),
        ("batch", Batching()),
        ("batch_processor", 5),
        ("batch_processor", lambda _: None),
        ("isolation", "processes"),
        ("isolation", None),
        ("kill_grace_seconds", -1),
        ("kill_grace_seconds", float("inf")),
        ("max_memory_mb", 500),
        ("progress_per_second", 0),
        ("progress_per_second", 1001),
        ("circuit_breakers", None),
        ("circuit_breakers", CircuitBreaker()),
        ("circuit_breakers", ["translator"]),
        ("circuit_breakers", [CircuitBreaker(name="same"), CircuitBreaker(name="same")]),
    ],
)
def test_an_argument_that_cannot_work_is_named_at_once(
    make: Make, argument: str, value: object
) -> None:
    with pytest.raises(ConfigurationError, match=argument):
        make(lambda *_: None, **{argument: value})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"devices": ["cuda:0", "cuda:1"]},
            "devices has 2 devices and threads is 1, so that 'cuda:1' would have no reader; "
            "set threads to 2 or more, or leave devices out",
        ),
        (
            {"processor_factory": lambda: None},
            "processor_factory is called with one argument, a ProcessorContext",
        ),
        ({"processor_factory": "worker"}, 'an import path such as "package.module:name"'),
    ],
)
def test_what_a_factory_cannot_do_is_refused_with_the_remedy(
    make: Make, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        make(None, **{"processor_factory": lambda _: None, **options})


def test_a_function_has_no_device_and_no_successor_and_the_error_names_the_remedy(
    make: Make,
) -> None:
    for options in ({"devices": ["cuda:0"]}, {"max_jobs_per_processor": 5}):
        with pytest.raises(ConfigurationError, match="needs processor_factory"):
            make(lambda *_: None, **options)


def test_a_consumer_without_a_processor_says_what_it_may_be(redis_url: str) -> None:
    with pytest.raises(ConfigurationError, match="exactly one of message_processor"):
        RedisStreamConsumer(redis_url, STREAM, "workers", None, None)


def test_a_single_crash_may_be_the_limit_only_where_a_process_has_a_single_message(
    make: Make, client: redis.Redis
) -> None:
    """An automatic prefetch is 1 then, as others read in the identity of the process."""
    make(lambda *_: None, max_crashes=1, consumer_id="single").connect()
    identity = json.loads(client.hget("{jobs}:workers:holders", "single"))
    assert identity["prefetch"] == 1
    for options in ({"threads": 2}, {"prefetch": 2}):
        with pytest.raises(ConfigurationError, match="max_crashes=1"):
            make(lambda *_: None, max_crashes=1, **options)


def test_a_batch_counts_as_what_a_process_has_at_a_time(make: Make, client: redis.Redis) -> None:
    for batch, max_crashes, most in ((Batching(7), 3, 7), (None, 3, 16), (None, 1, 1)):
        name = f"c{most}"
        options: dict[str, Any] = {"batch_processor": list, "batch": batch}
        make(None, consumer_id=name, max_crashes=max_crashes, **options).connect()
        identity, _ = json.JSONDecoder().raw_decode(
            client.hget("{jobs}:workers:holders", name).decode()
        )
        assert identity["prefetch"] == most
    with pytest.raises(ConfigurationError, match="batches of 1"):
        make(None, batch_processor=list, batch=Batching(2), max_crashes=1)


def test_batches_leave_no_choice_of_the_prefetch_and_the_error_names_the_remedy(
    make: Make,
) -> None:
    for batch in (None, Batching()):
        with pytest.raises(ConfigurationError, match="set max_size of Batching instead"):
            make(None, batch_processor=list, batch=batch, prefetch=10)


@pytest.mark.parametrize(
    ("processor", "text"),
    [
        (lambda _id, _fields: None, "batch_processor is called with one argument, the messages"),
        ("transcribe", 'an import path such as "package.module:name"'),
    ],
)
def test_what_takes_no_batch_is_no_batch_processor(make: Make, processor: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        make(None, batch_processor=processor)


async def _asynchronous(_: str, __: object) -> None: ...


def test_the_limit_of_a_job_leaves_time_to_end_its_child(make: Make) -> None:
    hard = {"isolation": "process", "job_deadline_seconds": 10, "kill_grace_seconds": 5}
    make(os.path.join, job_limit_seconds=15, **hard)
    with pytest.raises(ConfigurationError, match="job_limit_seconds must be 15 or more"):
        make(os.path.join, job_limit_seconds=14.9, **hard)


class _Takes:
    def one(self, job: object) -> None: ...
    def two(self, message_id: str, job: object, more: int = 0) -> None: ...
    def three(self, message_id: str, job: object, more: int) -> None: ...


@pytest.mark.parametrize(
    "processor",
    [lambda job: job, lambda: 1, _Takes().one, _Takes().three, partial(_Takes().one, job=1)],
)
def test_a_processor_that_cannot_take_a_message_is_refused_with_what_it_takes(
    make: Make, processor: Any
) -> None:
    with pytest.raises(ConfigurationError, match=r"message_id and message_data; .* takes \("):
        make(processor)


@pytest.mark.parametrize(
    "processor", [_Takes().two, lambda *_: None, partial(_Takes().three, more=1), dict, print, max]
)
def test_whatever_may_take_two_arguments_is_a_processor(make: Make, processor: Any) -> None:
    make(processor)


@pytest.mark.parametrize("end", ["", ":{gateway}"])
@pytest.mark.parametrize(("stream", "results"), [("a", "{a}:out"), ("a:{b}", "out:{b}")])
@pytest.mark.parametrize("url", ["redis://x", "redis+cluster://x"])
def test_the_hash_tag_of_the_stream_may_be_in_the_result_stream(
    url: str, stream: str, results: str, end: str
) -> None:
    RedisStreamConsumer(url, stream, "g", None, None, print, result_stream=results + end)


@pytest.mark.parametrize("results", ["out:{gateway}", "{gateway}:{a}", "{gateway}{a}"])
def test_in_a_cluster_no_field_of_a_message_may_decide_about_the_slot_of_its_result(
    results: str,
) -> None:
    with pytest.raises(ConfigurationError, match="another slot of the cluster"):
        RedisStreamConsumer("redis+cluster://x", "a", "g", None, None, print, result_stream=results)


@pytest.mark.parametrize("processor", [_asynchronous, "text", None, 5])
def test_what_would_not_run_is_no_processor(make: Make, processor: Any) -> None:
    with pytest.raises(ConfigurationError, match="message_processor"):
        make(processor)


def test_how_much_it_reads_at_most_is_in_the_identity_of_the_process(
    make: Make, client: redis.Redis
) -> None:
    """As a number, which workers of earlier releases read, too."""
    for prefetch, most in (("auto", 100), (7, 7)):
        make(lambda *_: None, prefetch=prefetch, consumer_id=f"c{most}").connect()
        text = client.hget("{jobs}:workers:holders", f"c{most}").decode()
        identity, end = json.JSONDecoder().raw_decode(text)
        assert identity["prefetch"] == most
        assert (text[end:] == ONE_BY_ONE) is (prefetch == "auto")


def test_the_identity_says_that_it_reads_one_message_at_a_time_until_it_reads_more(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    def identity() -> ProcessIdentity | None:
        return ProcessIdentity.parse(client.hget("{jobs}:workers:holders", "c1").decode())

    gate = Gate()
    producer.publish_many({"n": n} for n in range(300))
    make(gate, consumer_id="c1").start()
    assert gate.entered.wait(10)
    before = identity()
    assert before is not None
    assert before.prefetch == 1
    gate.opened.set()
    eventually(lambda: client.xlen(STREAM) == 0)
    after = identity()
    assert after is not None
    assert after.prefetch == 100
    assert after.token == before.token


def test_the_identity_says_that_batches_hold_several_messages_before_the_first_is_collected(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    """Also where each read asks for a single one, as long as costs are unknown."""
    batch = Batching(max_size=2, max_wait_seconds=30.0, size=lambda _: 1.0, max_total=9.0)
    make(None, batch_processor=list, batch=batch, consumer_id="c1").start()
    eventually(lambda: client.hget("{jobs}:workers:holders", "c1"))
    producer.publish({"n": 1})

    def prefetch() -> int:
        found = ProcessIdentity.parse(client.hget("{jobs}:workers:holders", "c1").decode())
        assert found is not None
        return found.prefetch

    eventually(lambda: prefetch() == 2)


def test_a_redis_that_is_not_there_is_an_error_in_the_callers_thread(make: Make) -> None:
    with pytest.raises(RedisUnavailable):
        make(lambda *_: None, url="redis://127.0.0.1:1").connect()
    with pytest.raises(RedisUnavailable):
        make(lambda *_: None, url="redis://127.0.0.1:1", connect_seconds=0).start_consuming()


def test_a_key_that_is_no_stream_is_an_error_that_names_it(make: Make, client: redis.Redis) -> None:
    client.set(STREAM, "text")
    with pytest.raises(ConfigurationError, match="'jobs'"):
        make(lambda *_: None).connect()
    client.delete(STREAM)
    client.set("results", "text")
    with pytest.raises(ConfigurationError, match="result_stream"):
        make(lambda *_: None, result_stream="results").connect()


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
