"""How much longer `producer.request()` takes than the same by hand.

    python benchmarks/bench_request.py [--rounds N] [--seconds N] [--json FILE]
                                       [--redis-server PATH]

By hand means as gateways did it before: XADD, then a blocking XREAD of the worker's `result_stream`
after the last entry, both with redis-py. Both use the same worker, a process with one thread whose
processor returns a short text, and take turns of five calls. Measured is the time from one call to
its result, one call at a time. Redis, the worker and the caller share the cores of the machine.

The exit status is 1 if the median of a request is more than 1.3 times that by hand.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis
from measuring import Worker, describe_machine
from report import Bound, Measurements, show_and_keep

from shared_sync import RedisStreamConsumer, RedisStreamProducer
from shared_sync.connection.embedded import EmbeddedRedis

STREAM, RESULTS = "bench", "{bench}:results"
FIELDS = {"client_id": "client-000001", "language": "en-US", "text": "x" * 60}
TIMEOUT_SECONDS = 10.0
CALLS_OF_A_TURN = 5
"""So few that other work on the machine strikes both alike."""


def _ratio(found: Measurements) -> float:
    return found.median("request", "p50 us") / found.median("by hand", "p50 us")


BOUNDS = (Bound("request / by hand", _ratio, at_most=1.3),)


def by_hand(client: redis.Redis) -> Callable[[], None]:
    """A call that publishes and waits for the result with a plain client."""
    last = "0"

    def call() -> None:
        nonlocal last
        message_id = client.xadd(STREAM, FIELDS)
        while True:
            replies: Any = client.xread({RESULTS: last}, block=int(1000 * TIMEOUT_SECONDS))
            if not replies:
                raise SystemExit("the worker does not answer")
            for entry_id, fields in replies[0][1]:
                last = entry_id
                if fields[b"message_id"] == message_id:
                    return

    return call


def by_request(producer: RedisStreamProducer) -> Callable[[], None]:
    """The same with the library."""

    def call() -> None:
        producer.request(FIELDS, timeout=TIMEOUT_SECONDS).raise_for_status()

    return call


def durations(calls: dict[str, Callable[[], None]], seconds: float) -> dict[str, list[float]]:
    """Seconds that each call took, sorted. They take turns for so long."""
    took: dict[str, list[float]] = {name: [] for name in calls}
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        for name, call in calls.items():
            for _ in range(CALLS_OF_A_TURN):
                began = time.perf_counter()
                call()
                took[name].append(time.perf_counter() - began)
    return {name: sorted(times) for name, times in took.items()}


def work(url: str) -> None:
    """Answer until the standard input is closed."""
    answer = {"text": "hello"}
    consumer = RedisStreamConsumer(
        url, STREAM, "workers", "w1", None, lambda *_: answer, result_stream=RESULTS
    )
    with consumer:
        sys.stdout.write('{"ready": true}\n')
        sys.stdout.flush()
        sys.stdin.read()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the results there as well")
    parser.add_argument("--redis-server", type=Path, metavar="PATH")
    parser.add_argument("--worker", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker)
        return 0
    measured = Measurements()
    with EmbeddedRedis(options.redis_server) as server, ExitStack() as stack:
        facts: dict[str, object] = {**describe_machine(server)}
        facts["server and worker"] = "not pinned"
        command = (sys.executable, __file__, "--worker", server.url)
        worker = stack.enter_context(Worker(command, core=None))
        worker.read("ready")
        client = stack.enter_context(redis.Redis.from_url(server.url, protocol=2))
        producer = stack.enter_context(RedisStreamProducer(server.url, STREAM))
        taking_turns = {"by hand": by_hand(client), "request": by_request(producer)}
        for call in taking_turns.values():
            call()  # connects, and loads what it needs
        for _ in range(options.rounds):
            for name, took in durations(taking_turns, options.seconds).items():
                measured.add(
                    name,
                    {
                        "p50 us": statistics.median(took) * 1e6,
                        "p99 us": took[len(took) * 99 // 100] * 1e6,
                        "calls": len(took),
                    },
                )
            client.delete(RESULTS)
    facts["run"] = f"{options.rounds} rounds of {options.seconds:g} s each"
    return show_and_keep(measured, BOUNDS, facts, options.json)


if __name__ == "__main__":
    sys.exit(main())
