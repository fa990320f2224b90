"""A worker for Prometheus to scrape, which records what its messages tell it to.

    python scraped_worker.py REDIS_URL PROMETHEUS_PORT JSON_PORT

Its messages are a call of WorkerMetrics each: the name of a method, and its arguments as JSON.
"""

from __future__ import annotations

import json
import logging
import sys

from prometheus_client import CollectorRegistry, start_http_server

from shared_sync import HealthServer, RedisStreamConsumer, WorkerMetrics

logger = logging.getLogger("stt")
metrics = WorkerMetrics("stt-1", service="stt", namespace="speech")
earlier = WorkerMetrics("stt-2", namespace="earlier", bound_ratio=1.05)
"""Stands in for a worker of a release with more bounds; the same durations, three times each."""


def record(message_id: str, call: dict[str, str]) -> None:
    arguments = json.loads(call["arguments"])
    getattr(metrics, call["method"])(**arguments)
    if call["method"] == "record_batch":
        for _ in range(3):
            earlier.record_batch(**arguments)


def main(redis_url: str, prometheus_port: str, json_port: str) -> None:
    metrics.declare("audio_read", "counter", "Audio read.", unit="bytes", labels=["language"])
    metrics.declare("model_memory", "gauge", "Memory of the model.", unit="megabytes")
    metrics.declare("bimodal", "duration", "Hits and misses.")
    registry = CollectorRegistry()
    registry.register(metrics)
    registry.register(earlier)
    start_http_server(int(prometheus_port), "127.0.0.1", registry)
    consumer = RedisStreamConsumer(
        redis_url, "calls", "stt-workers", "stt-1", logger, record, metrics=metrics, prefetch=10
    )
    with HealthServer(
        *("stt-1", int(json_port), logger, consumer.get_health_data, metrics.get_metrics_data),
        host="127.0.0.1",
    ):
        consumer.start_consuming()


if __name__ == "__main__":
    main(*sys.argv[1:])
