"""A worker process of bench_gpu.py: a consumer with the options that it is given as JSON.

It reports `ready` once all processors are loaded, and `calls` when its consumer has ended, which it
does when the standard input is closed. The exit status is that of `ConsumerBroken`, if the consumer
ended with it.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from typing import Any

from gpu_processors import calls, dependency
from worker_reports import GROUP, STREAM, at_end_of_input, write_report

from shared_sync import Batching, HealthServer, RedisStreamConsumer, RetryPolicy, WorkerMetrics
from shared_sync.errors import ConsumerBroken


def consumer_of(options: dict[str, Any], metrics: WorkerMetrics) -> RedisStreamConsumer:
    """Return the consumer; `retry` and `batch` are the arguments of what they stand for."""
    more = dict(options["consumer"])
    if "retry" in more:
        more["retry"] = RetryPolicy(**more["retry"])
    if "batch" in more:
        more["batch"] = Batching(**more["batch"])
    if more.pop("breaker", False):
        more["circuit_breakers"] = [dependency]
    logger = logging.getLogger(options["name"])
    return RedisStreamConsumer(
        options["url"], STREAM, GROUP, options["name"], logger, metrics=metrics, **more
    )


def report_when_ready(consumer: RedisStreamConsumer, port: int) -> None:
    began = time.monotonic()
    while not consumer.ready:
        time.sleep(0.005)
    write_report(ready=True, port=port, seconds=time.monotonic() - began)


def main() -> int:
    logging.basicConfig(level=logging.CRITICAL)
    options = json.loads(sys.argv[1])
    metrics = WorkerMetrics(options["name"])
    consumer = consumer_of(options, metrics)
    status = 0
    with HealthServer(options["name"], 0, consumer=consumer, metrics=metrics) as health:
        at_end_of_input(consumer.stop)
        arguments = (consumer, health.port)
        threading.Thread(target=report_when_ready, args=arguments, daemon=True).start()
        try:
            consumer.start_consuming()
        except ConsumerBroken as error:
            status = error.exit_code
    write_report(calls=calls, metrics=metrics.get_metrics_data())
    return status


if __name__ == "__main__":
    sys.exit(main())
