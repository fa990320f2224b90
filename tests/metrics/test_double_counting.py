"""A metric that the program records beside its consumer is noticed, and logged once."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from consumers import STREAM, Make
from helpers import eventually

from shared_sync import RedisStreamProducer, WorkerMetrics


def test_a_processor_that_counts_what_the_consumer_counts_is_told_once(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = WorkerMetrics("stt-1", service="stt")

    def processor(*_: Any) -> None:
        metrics.increment_counter("jobs_processed")
        with metrics.timer("processing_latency"):
            metrics.increment_counter("successful_transcriptions")

    producer.publish_many([{"n": str(number)} for number in range(10)])
    with make(processor, metrics=metrics):
        eventually(lambda: client.xlen(STREAM) == 0)
        eventually(lambda: metrics.get_metrics_data()["jobs_processed"] == 20)
        eventually(lambda: metrics.get_metrics_data()["processing_latency_count"] == 20)
        metrics.render_prometheus()
    logged = [record.message for record in caplog.records if record.name == "shared_sync.metrics"]
    assert sorted(line.split()[0] for line in logged) == ["jobs_processed", "processing_latency"]
    assert all("records it for each message" in line for line in logged)


def test_a_program_that_leaves_the_consumers_metrics_alone_is_told_nothing(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = WorkerMetrics("stt-1", service="stt")

    def processor(_: str, fields: dict[str, str]) -> None:
        metrics.increment_counter("redis_operations")  # those of the program are others
        metrics.increment_counter("successful_transcriptions")
        if fields["n"] == "5":
            raise ValueError("five")

    producer.publish_many([{"n": str(number)} for number in range(10)])
    with make(processor, metrics=metrics, threads=2), make(processor, metrics=metrics):
        eventually(lambda: metrics.get_metrics_data()["jobs_processed"] == 9)
        eventually(lambda: metrics.get_metrics_data()["jobs_retried"] >= 1)
        for _ in range(100):
            metrics.get_metrics_data()
    assert [record for record in caplog.records if record.name == "shared_sync.metrics"] == []


def test_counting_with_labels_counts_too(
    metrics: WorkerMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    metrics.record_for_consumer(counters={"jobs_processed": 2}, durations={"queue_wait": [0.5]})
    metrics.get_metrics_data()
    assert caplog.records == []
    metrics.increment_counter("jobs_processed", labels={"language": "en"})
    assert metrics.get_metrics_data()["jobs_processed"] == 3
    (logged,) = caplog.records
    assert logged.message.startswith("jobs_processed counts 3, of which a consumer has recorded 2 ")
