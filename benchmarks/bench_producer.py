"""Publishing with RedisStreamProducer beside redis-py: ratios of messages per second, in one run.

    python benchmarks/bench_producer.py [--redis-server PATH] [--rounds N] [--seconds N]

Compared are `publish` with `client.xadd`, and `publish_many` of 1,000 messages with a pipeline of
1,000 `xadd` (`transaction=False`), each with and without a limit of the queue where it has one.
A message has 3 short text fields, about 100 bytes. All run in turn in each round, so that other
work on the machine strikes all alike; the stream is emptied before each. The server and this
process are pinned to different cores where the machine has two. Quote the ratios of the medians:
absolute numbers are those of the machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import redis

from shared_sync import RedisStreamProducer
from shared_sync.connection.embedded import EmbeddedRedis, find_redis_server

STREAM = "bench"
MANY = 1_000
LIMIT = 10_000_000

Contender = Callable[[], int]
"""Publishes once and returns how many messages that were."""


def message(number: int) -> dict[str, str]:
    return {
        "client_id": f"client-{number:06d}",
        "language": "en-US",
        "audio_url": f"https://storage.example/audio/{number:012d}.wav",
    }


def contenders(url: str, stack: ExitStack) -> dict[str, Contender]:
    client = stack.enter_context(redis.Redis.from_url(url, protocol=2))
    producer = stack.enter_context(RedisStreamProducer(url, STREAM))
    limited = stack.enter_context(RedisStreamProducer(url, STREAM, max_queue_depth=LIMIT))
    one, many = message(0), [message(number) for number in range(MANY)]

    def pipeline() -> int:
        pipe = client.pipeline(transaction=False)
        for fields in many:
            pipe.xadd(STREAM, fields)
        return len(pipe.execute())

    return {
        "xadd": lambda: bool(client.xadd(STREAM, one)),
        "publish": lambda: bool(producer.publish(one)),
        "publish, limited": lambda: bool(limited.publish(one)),
        "pipeline": pipeline,
        "publish_many": lambda: len(producer.publish_many(many)),
        "publish_many, limited": lambda: len(limited.publish_many(many)),
    }


def rate(publish: Contender, seconds: float) -> float:
    """Messages per second."""
    published = 0
    began = time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        published += publish()
    return published / passed


def pin(server: EmbeddedRedis) -> str:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return "one core"
    os.sched_setaffinity(server.pid, cores[:1])
    os.sched_setaffinity(0, cores[1:2])
    return "server and client on cores of their own"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--redis-server", type=Path, default=None, metavar="PATH")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.2, help="of each contender and round")
    options = parser.parse_args()
    binary = options.redis_server or find_redis_server()
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedRedis(binary))
        pinned = pin(server)
        client = stack.enter_context(redis.Redis.from_url(server.url))
        measured = contenders(server.url, stack)
        rates: dict[str, list[float]] = {name: [] for name in measured}
        for _ in range(options.rounds):
            for name, publish in measured.items():
                client.delete(STREAM)
                publish()
                rates[name].append(rate(publish, options.seconds))
        version = client.info("server")["redis_version"]
    print(f"redis {version}, redis-py {redis.__version__}, {pinned}; {options.rounds} rounds")
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, opponent in (
        ("publish", "xadd"),
        ("publish, limited", "xadd"),
        ("publish_many", "pipeline"),
        ("publish_many, limited", "pipeline"),
    ):
        ratio = medians[name] / medians[opponent]
        print(
            f"{name:<22} {medians[name]:>9,.0f}/s   {opponent:<9} {medians[opponent]:>9,.0f}/s"
            f"   ratio {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
