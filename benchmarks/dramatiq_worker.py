"""Dramatiq as an opponent of bench_consumer.py: a worker process, and the publishing before it.

    python benchmarks/dramatiq_worker.py publish|work URL MESSAGES

As fast as its settings make it: a queue prefetch of 64 and no middleware but Retries. With its
defaults (six middlewares, a prefetch of twice the threads) it is slower.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time

from worker_reports import wait_for_end_of_input, write_report

os.environ["dramatiq_queue_prefetch"] = "64"  # noqa: SIM112  # its name for it; read on import

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Retries

THREADS = 4
PAYLOAD = "x" * 88


def main(act: str, url: str, messages: int) -> None:
    broker = RedisBroker(url=url, middleware=[Retries()])
    began: list[tuple[float, float]] = []
    done = threading.Event()
    count = itertools.count(1).__next__

    def run(_n: str, _data: str) -> None:
        if not began:
            began.append((time.monotonic(), time.process_time()))
        if count() == messages:
            ended, cpu = time.monotonic(), time.process_time()
            write_report(began=began[0][0], ended=ended, cpu=cpu - began[0][1])
            done.set()

    actor = dramatiq.actor(run, broker=broker)
    if act == "publish":
        for number in range(messages):
            actor.send(f"{number:07}", PAYLOAD)
        return
    worker = dramatiq.Worker(broker, worker_threads=THREADS)
    worker.start()
    wait_for_end_of_input()
    worker.stop()
    broker.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
