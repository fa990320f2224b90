"""Messages per second with an empty processor, beside a loop written by hand, in one run.

    python benchmarks/bench_consumer.py [--redis-url URL] [--messages N] [--rounds N]

The hand-written loop is what one writes first with redis-py: XREADGROUP, run, XACK and XDEL for
each message, in as many threads. It has no retry, no dead letters, no recovery and no results.
Quote the ratios: the two are measured in turn on the same machine.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import redis

from shared_sync import RedisStreamConsumer, RedisStreamProducer, WorkerMetrics
from shared_sync.connection.embedded import EmbeddedRedis

STREAM, GROUP = "bench", "workers"


class Countdown:
    """An empty processor that notices when all messages have come."""

    def __init__(self, messages: int) -> None:
        self._left = messages
        self._lock = threading.Lock()
        self.done = threading.Event()

    def __call__(self, _message_id: object, _fields: object) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self.done.set()


def fill(url: str, messages: int) -> None:
    with redis.Redis.from_url(url) as client:
        client.flushall()
        client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    with RedisStreamProducer(url, STREAM) as producer:
        producer.publish_many({"n": n} for n in range(messages))


def ours(url: str, messages: int, threads: int, count: int) -> float:
    fill(url, messages)
    processor = Countdown(messages)
    consumer = RedisStreamConsumer(
        url,
        STREAM,
        GROUP,
        "bench",
        logging.getLogger("bench"),
        processor,
        threads=threads,
        prefetch=count,
        metrics=WorkerMetrics("bench"),
    )
    started = time.perf_counter()
    with consumer:
        processor.done.wait()
        return messages / (time.perf_counter() - started)


def by_hand(url: str, messages: int, threads: int, count: int) -> float:
    fill(url, messages)
    processor = Countdown(messages)

    def work() -> None:
        with redis.Redis.from_url(url) as client:
            while not processor.done.is_set():
                reply = client.xreadgroup(GROUP, "hand", {STREAM: ">"}, count=count, block=100)
                for _, entries in reply:
                    for entry_id, fields in entries:
                        processor(entry_id, fields)
                        client.xack(STREAM, GROUP, entry_id)
                        client.xdel(STREAM, entry_id)

    pool = [threading.Thread(target=work) for _ in range(threads)]
    started = time.perf_counter()
    for thread in pool:
        thread.start()
    processor.done.wait()
    rate = messages / (time.perf_counter() - started)
    for thread in pool:
        thread.join()
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--redis-url")
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with ExitStack() as stack:
        url = options.redis_url or stack.enter_context(EmbeddedRedis()).url
        print(f"{'threads':>8}{'prefetch':>10}{'ours/s':>10}{'by hand/s':>11}{'ratio':>8}")
        for threads in (1, 4):
            for count in (1, 10, 100):

                def median(measure: Callable[[str, int, int, int], float]) -> float:
                    rates = [
                        measure(url, options.messages, threads, count)  # noqa: B023
                        for _ in range(options.rounds)
                    ]
                    return statistics.median(rates)

                mine, theirs = median(ours), median(by_hand)
                print(
                    f"{threads:>8}{count:>10}{mine:>10.0f}{theirs:>11.0f}{mine / theirs:>8.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
