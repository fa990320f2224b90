"""Seconds from the SIGKILL of a worker until everything is done, with the library's defaults.

    python benchmarks/crash_recovery.py [--runs N] [--jobs N] [--lease SECONDS]
                                        [--redis-url URL | --redis-server PATH]

Two worker processes of 4 threads share 200 jobs of 50 ms. When half of them have run, the first
worker is killed, and the clock runs until every job has its result. The jobs that the killed worker
had fetched are taken over when its lease has ended, so the bound is the lease and 2 s. The exit
status is 1 if a run takes longer, or if a job is lost or its result published twice.
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from worker_reports import at_end_of_input

from shared_sync import RedisStreamConsumer, RedisStreamProducer
from shared_sync.connection.embedded import EmbeddedRedis

GROUP = "workers"
JOB_SECONDS = 0.05
THREADS = 4
LEASE_SECONDS = 30.0  # the library's default
TAKE_OVER_SECONDS = 2.0
PATIENCE_SECONDS = 60.0
MAX_REPEATS = 5


@dataclass(frozen=True)
class Recovery:
    """The result of one run."""

    seconds: float
    in_flight: int
    """Jobs that the killed worker had fetched and not settled."""

    twice: int
    """Results that were published a second time."""

    lost: int


# --- the worker process -------------------------------------------------------------------------


def work(url: str, stream: str, name: str, lease: str) -> None:
    """Work until SIGTERM, or until the program that started this process ends."""
    at_end_of_input(lambda: os._exit(1))

    def processor(_message_id: str, _job: object) -> dict[str, str]:
        time.sleep(JOB_SECONDS)
        return {"by": name}

    RedisStreamConsumer(
        url,
        stream,
        GROUP,
        name,
        logging.getLogger(name),
        processor,
        threads=THREADS,
        lease_seconds=float(lease),
        result_stream=f"{stream}:results",
    ).start_consuming()


@contextmanager
def worker(url: str, stream: str, name: str, lease: float) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, __file__, "worker", url, stream, name, str(lease)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


# --- one run ------------------------------------------------------------------------------------


def recover(url: str, jobs: int, lease: float) -> Recovery | None:
    """Kill a worker half way and wait for the rest; None if it had fetched none at that moment."""
    stream = f"crash-recovery-{secrets.token_hex(4)}"
    results = f"{stream}:results"
    with redis.Redis.from_url(url, protocol=2) as client:
        try:
            with (
                worker(url, stream, "first", lease) as first,
                worker(url, stream, "second", lease) as second,
            ):
                presence = f"{{{stream}}}:{GROUP}:presence"
                must(lambda: client.zcard(presence) == 2, "both workers take part")
                with RedisStreamProducer(url, stream) as producer:
                    ids = producer.publish_many({"n": n} for n in range(jobs))
                must(lambda: client.xlen(results) >= jobs // 2, "half of the jobs have run")
                first.kill()
                killed = time.monotonic()
                first.wait()
                client.ping()  # what the worker had sent before is carried out by now
                in_flight = pending(client, stream).get(b"first", 0)
                if not in_flight:
                    return None
                wait(
                    lambda: client.xlen(stream) == 0 and not pending(client, stream),
                    lease + PATIENCE_SECONDS,
                )
                seconds = time.monotonic() - killed
                second.send_signal(signal.SIGTERM)
                second.wait(PATIENCE_SECONDS)
            reply: Any = client.xrange(results)
            published = [fields[b"message_id"].decode() for _, fields in reply]
            return Recovery(
                seconds=seconds,
                in_flight=in_flight,
                twice=len(published) - len(set(published)),
                lost=len(set(ids) - set(published)),
            )
        finally:
            client.delete(stream, results, *client.scan_iter(match=f"{{{stream}}}:{GROUP}:*"))


def wait(condition: Callable[[], object], within: float) -> bool:
    """Wait until the condition holds, or for so long; return whether it does."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.005)
    return True


def must(condition: Callable[[], object], what: str) -> None:
    if not wait(condition, PATIENCE_SECONDS):
        raise SystemExit(f"not within {PATIENCE_SECONDS:g} s: {what}")


def pending(client: redis.Redis, stream: str) -> dict[bytes, int]:
    summary: Any = client.xpending(stream, GROUP)
    return {row["name"]: row["pending"] for row in summary["consumers"]}


@contextmanager
def fresh_redis(options: argparse.Namespace) -> Iterator[str]:
    """The URL of a Redis of our own, or of the given one, where each run has its own keys."""
    if options.redis_url:
        yield options.redis_url
        return
    with EmbeddedRedis(options.redis_server) as server:
        yield server.url


def measure(options: argparse.Namespace) -> Recovery:
    for _ in range(MAX_REPEATS):
        with fresh_redis(options) as url:
            recovery = recover(url, options.jobs, options.lease)
        if recovery is not None:
            return recovery
        print("(the killed worker had fetched nothing; once more)", flush=True)
    raise SystemExit(f"the killed worker had fetched nothing in {MAX_REPEATS} runs: raise --jobs")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--lease", type=float, default=LEASE_SECONDS, metavar="SECONDS")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--redis-url", metavar="URL")
    where.add_argument("--redis-server", type=Path, metavar="PATH")
    options = parser.parse_args()
    bound = options.lease + TAKE_OVER_SECONDS
    held = True
    print(f"{'run':>4}{'seconds':>10}{'in flight':>10}{'twice':>8}{'lost':>8}", flush=True)
    for run in range(1, options.runs + 1):
        found = measure(options)
        print(
            f"{run:>4}{found.seconds:>10.2f}{found.in_flight:>10}{found.twice:>8}{found.lost:>8}",
            flush=True,
        )
        held = held and found.seconds <= bound and found.twice == found.lost == 0
    print(
        f"bound: {bound:g} s, the lease of {options.lease:g} s and {TAKE_OVER_SECONDS:g} s: "
        f"{'held' if held else 'BROKEN'}"
    )
    return 0 if held else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        work(*sys.argv[2:])
    else:
        sys.exit(main())
