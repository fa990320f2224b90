"""A link that the server closes while a job runs costs no outcome, no delay and no alarm."""

from __future__ import annotations

import pytest
import redis
from consumers import STREAM, Make
from helpers import Figures, eventually

from shared_sync import RedisStreamProducer
from shared_sync.redis_consumer import reader


def test_a_link_that_was_closed_during_a_long_job_is_replaced_before_its_outcome_is_sent(
    make: Make,
    client: redis.Redis,
    producer: RedisStreamProducer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reader, "LONG_SECONDS", 0.0)
    monkeypatch.setattr(reader, "SLOW_SECONDS", 0.0)
    figures = Figures()

    def of_the_reader() -> list[str]:
        return [
            each["id"]
            for each in client.client_list()
            if each["name"] == "shared_sync:c1" and each["cmd"] == "xreadgroup"
        ]

    def processor(*_: object) -> None:
        for number in of_the_reader():
            client.client_kill_filter(_id=number)
        eventually(lambda: not of_the_reader())

    consumer = make(processor, consumer_id="c1", metrics=figures)
    with consumer:
        for _ in range(3):
            producer.publish({"n": 1})
            eventually(lambda: client.xlen(STREAM) == 0)
        eventually(lambda: figures.counters["jobs_processed"] == 3)
        assert consumer.redis_connected
    assert not [text for text in caplog.messages if "fails" in text]
