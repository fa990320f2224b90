"""A consumer is run until nothing is left; what is left otherwise is told."""

from __future__ import annotations

import threading

import pytest
import redis
from consumers import Make

from shared_sync import ConfigurationError, RedisStreamProducer, Retry, RetryPolicy
from shared_sync.testing import Faults, run_until_idle


def test_what_is_left_is_told_with_a_remedy(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    inside, may_end = threading.Event(), threading.Event()

    def process(_: str, fields: dict[str, str]) -> None:
        if "park" in fields:
            raise Retry(600)
        inside.set()
        may_end.wait(60)

    consumer = make(process)
    producer.publish_many([{"park": "1"}, {"n": "1"}, {"n": "2"}])
    with consumer:
        assert inside.wait(60)
        with pytest.raises(TimeoutError) as caught:
            run_until_idle(consumer, timeout=0)
        assert consumer.state == "running", "who starts a consumer stops it"
        may_end.set()
    text = str(caught.value)
    for part in (
        "group 'workers' of stream 'jobs' is not idle after 0 s: ",
        "1 are parked for a retry, the next one for ",
        "base_seconds=0.01",
    ):
        assert part in text
    assert "wait to be read" in text or "2 are pending" in text


def test_results_and_dead_letters_are_those_of_the_call(
    make: Make, producer: RedisStreamProducer
) -> None:
    def process(_: str, fields: dict[str, str]) -> str:
        return fields["n"]

    for n in ("1", "2"):
        producer.publish_many([{"n": n}, {"without": n}])
        done = run_until_idle(
            make(process, result_stream="done", retry=RetryPolicy(max_attempts=1))
        )
        assert [one.fields["result"] for one in done.results if one.ok] == [n]
        assert [one.fields for one in done.dead_letters] == [{"without": n.encode()}]


def test_a_worker_that_is_not_cut_off_and_an_address_without_one_server_are_told(
    make: Make, redis_url: str
) -> None:
    with (
        Faults(redis_url) as faults,
        pytest.raises(TimeoutError, match="its processor has run 0 times"),
    ):
        faults.run_until_crash(make(lambda *_: None, url=faults.url), timeout=0)
    with pytest.raises(ConfigurationError, match="Faults needs a redis:// address of one server"):
        Faults("redis+sentinel://:secret@localhost:26379/main/0")
