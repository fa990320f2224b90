"""Publishing with RedisStreamProducer beside redis-py.

    python benchmarks/bench_producer.py [--rounds N] [--seconds N] [--json FILE]
                                        [--redis-server PATH]

Compared are `publish` with `client.xadd`, and `publish_many` of 1,000 messages with a pipeline of
1,000 `xadd` (`transaction=False`); both also with `max_queue_depth`, which redis-py has not. A
message has 3 short text fields, some 100 bytes in all. All take turns in each round, so that other
work on the machine strikes all alike; the stream is emptied before each turn. Server and client run
on different cores.

The exit status is 1 if `publish` has less than 1.0 of the messages per second of `xadd`, or
`publish_many` less than 0.9 of those of the pipeline (medians).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import redis
from measuring import WORKER_CORE, describe_machine, pin, pinned_redis
from report import Bound, Measurements, show_and_keep

from shared_sync import RedisStreamProducer

STREAM = "bench"
MANY = 1_000
LIMIT = 100_000_000
"""More than are ever in the stream."""

Contender = Callable[[], int]
"""Publishes once and returns how many messages that were."""


def _ratio(ours: str, theirs: str, at_least: float) -> Bound:
    def value(found: Measurements) -> float:
        return found.median(ours, "messages/s") / found.median(theirs, "messages/s")

    return Bound(f"{ours} / {theirs}", value, at_least=at_least)


BOUNDS = (_ratio("publish", "xadd", 1.0), _ratio("publish_many", "pipeline", 0.9))


def message(number: int) -> dict[str, str]:
    return {
        "client_id": f"client-{number:06d}",
        "language": "en-US",
        "audio_url": f"https://storage.example/{number:012d}.wav",
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
    """Messages per second, measured for so long."""
    published = 0
    began = time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        published += publish()
    return published / passed


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.2, help="of each turn")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the results there as well")
    parser.add_argument("--redis-server", type=Path, metavar="PATH")
    options = parser.parse_args()
    measured = Measurements()
    with pinned_redis(options.redis_server) as server, ExitStack() as stack:
        facts: dict[str, object] = {**describe_machine(server)}
        pin(os.getpid(), WORKER_CORE)
        client = stack.enter_context(redis.Redis.from_url(server.url, protocol=2))
        taking_turns = contenders(server.url, stack)
        for _ in range(options.rounds):
            for name, publish in taking_turns.items():
                client.delete(STREAM)
                publish()  # connects, and loads what it needs
                measured.add(name, {"messages/s": rate(publish, options.seconds)})
    facts["run"] = f"{options.rounds} rounds of {options.seconds:g} s each"
    return show_and_keep(measured, BOUNDS, facts, options.json)


if __name__ == "__main__":
    sys.exit(main())
