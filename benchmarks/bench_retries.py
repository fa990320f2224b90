"""What failures cost: 2 % of empty jobs fail once and are tried again after 0.1 s.

    python benchmarks/bench_retries.py [--messages N] [--rounds N] [--prefetch auto|N]
                                       [--json FILE] [--redis-server PATH]

One worker of 4 threads, metrics on, its log switched off; server and worker run on different
cores. In each round all messages wait in the stream before the worker starts, first without and
then with failures. Two things are measured:

- the throughput, from the first message until the last one is done;
- how late retries start: from 0.1 s after the processor raised until it is called with the message
  again. That includes the time until the failure is settled in Redis, so it is a little more than
  what the server calls late.

The exit status is 1 if the throughput with failures is below 0.8 of that without (medians), or if
any retry started more than 1 s late.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import sys
import threading
import time

import redis
from measuring import Worker, describe_machine, fill, pending, pinned_redis
from report import Bound, Measurements, add_common_options, percentile, show_and_keep
from worker_reports import GROUP, STREAM, at_end_of_input, write_report

from shared_sync import RedisStreamConsumer, RetryPolicy, WorkerMetrics, current_message

FAILING_EVERY = 50
RETRY_SECONDS = 0.1
THREADS = 4
Values = dict[str, float]
WITHOUT, WITH = "without failures", "2 % fail once"
BOUNDS = (
    Bound(
        "throughput with failures / without",
        lambda found: found.median(WITH, "messages/s") / found.median(WITHOUT, "messages/s"),
        at_least=0.8,
    ),
    Bound(
        "latest retry, seconds after it was due",
        lambda found: found.highest(WITH, "latest retry s"),
        at_most=1.0,
    ),
)


# --- the worker process -------------------------------------------------------------------------


class Processor:
    """Fails once for every 50th message, if it is to. Called by all threads of the pool."""

    def __init__(self, messages: int, fails: bool) -> None:
        self._messages = messages
        self._fails = fails
        self._count = itertools.count(1).__next__
        self._due: dict[int, float] = {}
        self.began: list[float] = []
        self.ended: list[float] = []
        self.lateness: list[float] = []
        self.done = threading.Event()

    def __call__(self, _message_id: str, fields: dict[str, str]) -> None:
        if not self.began:
            self.began.append(time.monotonic())
        number = int(fields["n"])
        if number % FAILING_EVERY == 0 and self._fails:  # both runs look at every number
            if current_message().attempt == 1:
                self._due[number] = time.monotonic() + RETRY_SECONDS
                raise RuntimeError("the first attempt fails")
            self.lateness.append(time.monotonic() - self._due.pop(number))
        if self._count() == self._messages:
            self.ended.append(time.monotonic())
            self.done.set()


def work(url: str, messages: int, fails: bool, prefetch: int | str) -> None:
    """Run all messages, report, and end."""
    logger = logging.getLogger("bench")
    logger.setLevel(logging.CRITICAL)
    processor = Processor(messages, fails)
    at_end_of_input(processor.done.set)
    consumer = RedisStreamConsumer(
        url,
        STREAM,
        GROUP,
        "worker",
        logger,
        processor,
        metrics=WorkerMetrics("bench"),
        threads=THREADS,
        prefetch=prefetch,
        binary_fields=("data",),
        retry=RetryPolicy(base_seconds=RETRY_SECONDS, jitter=0.0),
    )
    with consumer:
        processor.done.wait()
        write_report(began=processor.began, ended=processor.ended, lateness=processor.lateness)


# --- the whole ----------------------------------------------------------------------------------


def measure(url: str, client: redis.Redis, options: argparse.Namespace, *, fails: bool) -> Values:
    """One run, with or without failures."""
    messages = options.messages
    fill(client, messages)
    specification = [url, messages, fails, options.prefetch]
    with Worker([sys.executable, __file__, "worker", json.dumps(specification)]) as worker:
        report = worker.read("ended")
        worker.wait()
    if left := pending(client) + client.xlen(STREAM):
        raise SystemExit(f"{left} messages were left unfinished")
    values = {"messages/s": messages / (report["ended"][0] - report["began"][0])}
    if fails:
        lateness = report["lateness"]
        if len(lateness) != len(range(0, messages, FAILING_EVERY)):
            raise SystemExit(f"{len(lateness)} retries instead of one for each failed message")
        values["median retry s"] = percentile(lateness, 0.5)
        values["latest retry s"] = max(lateness)
    return values


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--messages", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    add_common_options(parser)
    options = parser.parse_args()
    measured = Measurements()
    with (
        pinned_redis(options.redis_server) as server,
        redis.Redis.from_url(server.url, protocol=2) as client,
    ):
        facts: dict[str, object] = {**describe_machine(server)}
        for _ in range(options.rounds):
            measured.add(WITHOUT, measure(server.url, client, options, fails=False))
            measured.add(WITH, measure(server.url, client, options, fails=True))
    facts["run"] = (
        f"{options.rounds} rounds, {options.messages:,} messages, prefetch {options.prefetch}"
    )
    return show_and_keep(measured, BOUNDS, facts, options.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        work(*json.loads(sys.argv[2]))
    else:
        sys.exit(main())
