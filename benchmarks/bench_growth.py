"""Whether a group that has grown large slows a worker or the server down.

    python benchmarks/bench_growth.py [--waiting N] [--dead-pending N] [--dead N] [--parked N]
                                      [--live N] [--runs N] [--prefetch auto|N] [--json FILE]
                                      [--redis-server PATH]

Three scenarios take turns, each with one worker of 4 threads, empty jobs and a million waiting
messages; server and worker run on different cores:

- `fresh`: nothing else;
- `dead`: before them 50,000 messages are pending of 1,000 consumers that are dead, as after a fleet
  was preempted: 50 messages each, delivered once, in one read, with a lease that has ended;
- `parked`: 100,000 messages wait for a retry that is an hour away, and 1,000 other consumers are
  alive and hold one message each.

Measured from the worker's first message until its last fresh one, or for `--seconds` at most:

- fresh messages per second, and messages of the dead taken over per second meanwhile;
- the share of script calls within 5 ms: SLOWLOG has the longer ones, INFO counts them all;
- the longest answer to a PING that another client sends every 10 ms.

The exit status is 1 if a bound is missed, which the last table names. They hold for the medians of
all runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis
from measuring import Worker, add, describe_machine, fill, pinned_redis
from report import Bound, Measurements, add_common_options, percentile, show_and_keep
from worker_reports import GROUP, STREAM, at_end_of_input, write_report

from shared_sync import RedisStreamConsumer, Retry, WorkerMetrics

THREADS = 4
LONGEST_MILLISECONDS = 5.0
"""How long a script may take."""
SLOWLOG_MICROSECONDS = 1000
"""What SLOWLOG keeps, so that the longest script is known where all are short enough."""
SLOWLOG_LENGTH = 100_000
SCENARIOS = ("fresh", "dead", "parked")
PING_SECONDS = 0.01
DISTANT_SECONDS = 3600.0
SCRIPT_COMMANDS = ("eval", "evalsha", "fcall")
PRESENCE = f"{{{STREAM}}}:{GROUP}:presence"
HOLDERS = f"{{{STREAM}}}:{GROUP}:holders"

Values = dict[str, float]


def _ratio(scenario: str) -> Callable[[Measurements], float]:
    return lambda found: (
        found.median(scenario, "fresh messages/s") / found.median("fresh", "fresh messages/s")
    )


def _median(scenario: str, quantity: str) -> Callable[[Measurements], float]:
    return lambda found: found.median(scenario, quantity)


def _bounds() -> Iterator[Bound]:
    for scenario in ("dead", "parked"):
        yield Bound(f"{scenario}: fresh throughput / fresh alone", _ratio(scenario), at_least=0.8)
        within = _median(scenario, "% within 5 ms")
        yield Bound(f"{scenario}: % of scripts within 5 ms", within, at_least=99.9)
    yield Bound("dead: taken over a second", _median("dead", "taken over/s"), at_least=300)


BOUNDS = tuple(_bounds())


# --- the worker process -------------------------------------------------------------------------


def work(url: str, old: int, fresh: int, seconds: float, prefetch: int | str) -> None:
    """Run until all fresh messages are done, or for so long, and report; then until it is killed.

    Messages whose number is below `old` are not fresh.
    """
    began: list[float] = []
    old_done: list[float] = []
    fresh_done = [0, 0.0]
    done = threading.Event()
    count = itertools.count(1).__next__

    def processor(_message_id: str, fields: dict[str, str]) -> None:
        if not began:
            began.append(time.monotonic())
        if int(fields["n"]) < old:
            old_done.append(time.monotonic())
            return
        number = count()
        if number % 100 == 0 or number == fresh:
            fresh_done[:] = number, time.monotonic()
            if number == fresh:
                done.set()

    at_end_of_input(lambda: os._exit(0))
    with consumer_of(url, "worker", processor, prefetch=prefetch):
        done.wait(seconds)
        number, moment = fresh_done
        write_report(
            fresh_per_second=number / (moment - began[0]) if number else 0.0,
            old=len(old_done),
            old_per_second=len(old_done) / (old_done[-1] - began[0]) if old_done else 0.0,
        )
        threading.Event().wait()


def park(url: str, messages: int) -> None:
    """Put all messages off for an hour, and end."""
    done = threading.Event()
    count = itertools.count(1).__next__

    def processor(_message_id: str, _fields: object) -> None:
        if count() == messages:
            done.set()
        raise Retry(DISTANT_SECONDS)

    at_end_of_input(done.set)
    with consumer_of(url, "parking", processor, prefetch=100):
        done.wait()
    write_report(parked=messages)


def consumer_of(
    url: str, name: str, processor: Callable[..., None], *, prefetch: int | str
) -> RedisStreamConsumer:
    logger = logging.getLogger("bench")
    logger.setLevel(logging.CRITICAL)
    return RedisStreamConsumer(
        url,
        STREAM,
        GROUP,
        name,
        logger,
        processor,
        metrics=WorkerMetrics("bench"),
        threads=THREADS,
        prefetch=prefetch,
        binary_fields=("data",),
    )


# --- the scenarios ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """The server, and what the group is filled with."""

    url: str
    client: redis.Redis
    options: argparse.Namespace

    def prepare(self, scenario: str) -> int:
        """Fill the group as the scenario says; return the number of the first fresh message."""
        options = self.options
        if scenario == "dead":
            identity = self.identity_of_a_worker()
            fill(self.client, options.dead_pending + options.waiting)
            self.read_for_others(options.dead, options.dead_pending // options.dead)
            self.lease(self.others(options.dead), identity, seconds=-1.0)
            # As long as nobody is alive, nobody is taken for dead: Redis may have been away.
            self.lease(["survivor"], identity, seconds=DISTANT_SECONDS)
            return int(options.dead_pending)
        if scenario == "parked":
            identity = self.identity_of_a_worker()
            fill(self.client, options.parked)
            with self.run("park", self.url, options.parked) as parking:
                parking.read("parked")
                parking.wait()
            old = options.parked + options.live
            add(self.client, range(options.parked, old + options.waiting))
            self.read_for_others(options.live, 1)
            self.lease(self.others(options.live), identity, seconds=DISTANT_SECONDS)
            return int(old)
        fill(self.client, options.waiting)
        return 0

    def identity_of_a_worker(self) -> Any:
        """Return what a worker's process writes about itself, which the others get a copy of."""
        fill(self.client, 0)
        consumer = consumer_of(self.url, "model", lambda *_: None, prefetch=50)
        consumer.connect()
        identity = self.client.hget(HOLDERS, "model")
        consumer.stop()
        return identity

    def read_for_others(self, consumers: int, messages: int) -> None:
        """Deliver to each of so many consumers so many messages, in one read."""
        with self.client.pipeline(transaction=False) as pipeline:
            for name in self.others(consumers):
                pipeline.xreadgroup(GROUP, name, {STREAM: ">"}, count=messages)
            pipeline.execute()

    @staticmethod
    def others(count: int) -> list[str]:
        """Return the names of so many other consumers."""
        return [f"other-{number}" for number in range(count)]

    def lease(self, names: Sequence[str], identity: Any, *, seconds: float) -> None:
        """Let the leases of these consumers end in so many seconds, or before now."""
        end = round((time.time() + seconds) * 1000)
        self.client.zadd(PRESENCE, dict.fromkeys(names, end))
        self.client.hset(HOLDERS, mapping=dict.fromkeys(names, identity))

    @staticmethod
    def run(*arguments: object) -> Worker:
        return Worker([sys.executable, __file__, "worker", json.dumps(arguments)])

    def measure(self, scenario: str) -> Values:
        """One run of a scenario."""
        old = self.prepare(scenario)
        self.client.config_set("slowlog-max-len", SLOWLOG_LENGTH)
        self.client.config_set("slowlog-log-slower-than", SLOWLOG_MICROSECONDS)
        self.client.slowlog_reset()
        self.client.config_resetstat()
        options = self.options
        arguments = (self.url, old, options.waiting, options.seconds, options.prefetch)
        with answer_times(self.url) as pings, self.run("work", *arguments) as worker:
            report = worker.read("fresh_per_second")
            scripts = self.script_times()
        values = {"fresh messages/s": report["fresh_per_second"], **scripts}
        if scenario == "dead":
            values["taken over/s"] = report["old_per_second"]
        values["p99 PING ms"] = percentile(pings, 0.99) * 1000
        values["longest PING ms"] = max(pings) * 1000
        return values

    def script_times(self) -> Values:
        """Return how long the scripts took since the statistics were reset."""
        statistics: Any = self.client.info("commandstats")
        calls = sum(
            row["calls"]
            for name, row in statistics.items()
            if name.removeprefix("cmdstat_") in SCRIPT_COMMANDS
        )
        slow: Any = self.client.slowlog_get(SLOWLOG_LENGTH)
        milliseconds = [
            entry["duration"] / 1000
            for entry in slow
            if entry["command"].split(b" ", 1)[0].lower().decode() in SCRIPT_COMMANDS
        ]
        too_long = sum(time > LONGEST_MILLISECONDS for time in milliseconds)
        return {
            "script calls": calls,
            "% within 5 ms": 100 * (1 - too_long / calls),
            "longest script ms": max(milliseconds, default=SLOWLOG_MICROSECONDS / 1000),
        }


@contextmanager
def answer_times(url: str) -> Iterator[list[float]]:
    """Send a PING every 10 ms; the list grows by the seconds until each was answered."""
    took: list[float] = []
    stop = threading.Event()

    def ping() -> None:
        with redis.Redis.from_url(url) as client:
            while not stop.wait(PING_SECONDS):
                began = time.monotonic()
                client.ping()
                took.append(time.monotonic() - began)

    thread = threading.Thread(target=ping)
    thread.start()
    try:
        yield took
    finally:
        stop.set()
        thread.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--waiting", type=int, default=1_000_000)
    parser.add_argument("--dead-pending", type=int, default=50_000)
    parser.add_argument("--dead", type=int, default=1000, help="consumers")
    parser.add_argument("--parked", type=int, default=100_000)
    parser.add_argument("--live", type=int, default=1000, help="consumers")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="longest run")
    add_common_options(parser)
    options = parser.parse_args()
    measured = Measurements()
    with (
        pinned_redis(options.redis_server) as server,
        redis.Redis.from_url(server.url, protocol=2) as client,
    ):
        facts: dict[str, object] = {**describe_machine(server)}
        group = Group(server.url, client, options)
        for _ in range(options.runs):
            for scenario in SCENARIOS:
                measured.add(scenario, group.measure(scenario))
    facts["run"] = (
        f"{options.runs} runs, {options.waiting:,} waiting, {options.dead_pending:,} pending of "
        f"{options.dead:,} dead, {options.parked:,} parked, {options.live:,} live, "
        f"prefetch {options.prefetch}"
    )
    return show_and_keep(measured, BOUNDS, facts, options.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        act, *rest = json.loads(sys.argv[2])
        {"work": work, "park": park}[act](*rest)
    else:
        sys.exit(main())
