"""Jobs that expire or are cancelled at random moments, while one of two workers is killed.

    python benchmarks/cancel_and_expire.py [--jobs N] [--seconds N] [--seed N] [--lease SECONDS]
                                           [--redis-server PATH]

Of 1,000 jobs 300 expire and 300 are cancelled, within 8 s: while they are scheduled, wait, are
parked for a retry, run, or have just finished. Two worker processes of 4 threads share them, and
one is killed with SIGKILL in the middle. Prints how the jobs ended, by what was to become of them
and by how far they were when they were cancelled. The exit status is 1 unless each job has exactly
one end, and no job started that was cancelled while it waited, or after it was cancelled while it
was scheduled or parked.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from worker_reports import at_end_of_input

from shared_sync import Job, RedisStreamConsumer, RedisStreamProducer, Retry, current_message
from shared_sync.connection.embedded import EmbeddedRedis

STREAM, GROUP, RESULTS, RUNS = "jobs", "workers", "results", "runs"
THREADS = 4
JOB_SECONDS = 0.01
LONG_SECONDS = 0.5
"""How long some jobs run unless they are cancelled."""
PATIENCE_SECONDS = 60.0
SHARE_EXPIRED, SHARE_CANCELLED = 0.3, 0.3
FINAL = {"done", "dead", "expired", "cancelled"}
NEVER_STARTED = {"scheduled", "waiting"}
NOT_STARTED_AFTERWARDS = {*NEVER_STARTED, "parked"}


# --- the worker process -------------------------------------------------------------------------


def work(url: str, name: str, lease: str, retry_seconds: str) -> None:
    """Work until SIGTERM, or until the program that started this process ends."""
    at_end_of_input(lambda: os._exit(1))
    client = redis.Redis.from_url(url)
    logging.disable(logging.WARNING)

    def processor(message_id: str, job: dict[str, Any]) -> dict[str, str]:
        message = current_message()
        client.xadd(RUNS, {"name": job["name"], "worker": name})
        if job["kind"] == "parked" and message.attempt == 1:
            raise Retry(delay_seconds=float(retry_seconds))
        message.cancelled.wait(LONG_SECONDS if job["kind"] == "long" else JOB_SECONDS)
        message.raise_if_cancelled()
        return {"by": name}

    RedisStreamConsumer(
        url,
        STREAM,
        GROUP,
        name,
        logging.getLogger(name),
        processor,
        threads=THREADS,
        lease_seconds=float(lease),
        result_stream=RESULTS,
        carry_fields=["name"],
    ).start_consuming()


@contextmanager
def worker(url: str, name: str, *options: float) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, __file__, "worker", url, name, *map(str, options)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


# --- the jobs -----------------------------------------------------------------------------------


@dataclass
class Planned:
    """A job, and what is to become of it."""

    name: str
    fate: str
    """`run`, `expire` or `cancel`."""
    kind: str
    """`short`, `long`, or `parked` after its first run."""
    options: dict[str, float] = field(default_factory=dict)
    cancel_after_seconds: float = 0.0
    id: str = ""

    @property
    def job(self) -> Job:
        return Job({"name": self.name, "kind": self.kind}, **self.options)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Cancelled:
    """How far a job was when it was cancelled, and how many runs had begun by then."""

    place: str
    runs_before: int


def plan(count: int, seconds: float, chance: random.Random) -> list[Planned]:
    expired, cancelled = round(count * SHARE_EXPIRED), round(count * SHARE_CANCELLED)
    fates = ["expire"] * expired + ["cancel"] * cancelled
    fates += ["run"] * (count - len(fates))
    chance.shuffle(fates)
    planned = []
    for number, fate in enumerate(fates):
        kind = chance.choices(("short", "long", "parked"), (6, 1, 2))[0]
        one = Planned(f"job-{number}", fate, kind)
        if fate == "expire":
            one.options["expires_seconds"] = chance.uniform(0.05, 0.75 * seconds)
        elif fate == "cancel":
            one.cancel_after_seconds = chance.uniform(0.0, seconds)
            if chance.random() < 0.1:
                one.options["delay_seconds"] = chance.uniform(0.1, seconds)
        planned.append(one)
    return planned


class Scene:
    """The server, the workers, and what became of the jobs."""

    def __init__(
        self, url: str, planned: Sequence[Planned], *, seconds: float, lease: float
    ) -> None:
        self._url = url
        self._planned = planned
        self._seconds = seconds
        self._options = (lease, seconds / 3)
        self._client = redis.Redis.from_url(url, decode_responses=True)
        self.cancelled: dict[str, Cancelled] = {}

    def play(self) -> float:
        """Publish, cancel and kill; return how many seconds all took."""
        with (
            worker(self._url, "first", *self._options) as first,
            worker(self._url, "second", *self._options),
            RedisStreamProducer(self._url, STREAM) as producer,
        ):
            presence = f"{{{STREAM}}}:{GROUP}:presence"
            wait(lambda: self._client.zcard(presence) == 2, "both workers take part")
            began = time.monotonic()
            killer = threading.Timer(self._seconds / 5, first.kill)
            killer.start()
            ids = producer.publish_many([one.job for one in self._planned])
            for one, message_id in zip(self._planned, ids, strict=True):
                one.id = message_id
            self._cancel_all(producer, began)
            killer.join()
            wait(lambda: len(self.ends()) >= len(self._planned), "every job has ended")
            wait(lambda: self._client.xlen(STREAM) == 0, "the stream is empty")
            return time.monotonic() - began

    def _cancel_all(self, producer: RedisStreamProducer, began: float) -> None:
        doomed = [one for one in self._planned if one.fate == "cancel"]
        for one in sorted(doomed, key=lambda one: one.cancel_after_seconds):
            time.sleep(max(0.0, began + one.cancel_after_seconds - time.monotonic()))
            place = producer.cancel(one.id)
            self.cancelled[one.name] = Cancelled(place, self.runs()[one.name])

    def ends(self) -> dict[str, list[str]]:
        """The statuses with which each job has ended."""
        found: dict[str, list[str]] = {}
        for _, fields in self._client.xrange(RESULTS):
            if fields["status"] in FINAL:
                found.setdefault(fields["name"], []).append(fields["status"])
        return found

    def runs(self) -> Counter[str]:
        """How often each job has started."""
        return Counter(fields["name"] for _, fields in self._client.xrange(RUNS))

    def faults(self) -> list[str]:
        """What must not be."""
        ends, runs = self.ends(), self.runs()
        found = []
        for one in self._planned:
            statuses = ends.get(one.name, [])
            if len(statuses) != 1:
                found.append(f"{one.name} ({one.fate}) has the ends {statuses}")
            elif one.fate == "run" and statuses != ["done"]:
                found.append(f"{one.name} was to run, and is {statuses[0]}")
            elif one.fate == "expire" and statuses[0] not in ("done", "expired"):
                found.append(f"{one.name} was to expire, and is {statuses[0]}")
        for name, cancelled in self.cancelled.items():
            place, before = cancelled.place, cancelled.runs_before
            if place in NEVER_STARTED and runs[name]:
                found.append(f"{name} has run although it was cancelled while it was {place}")
            elif place in NOT_STARTED_AFTERWARDS and runs[name] > before:
                found.append(f"{name} has run again although it was cancelled while it was {place}")
            elif place in NOT_STARTED_AFTERWARDS and ends.get(name) != ["cancelled"]:
                found.append(f"{name} was cancelled while {place}, and is {ends.get(name)}")
        return found

    def show(self) -> None:
        ends = self.ends()
        by_fate = Counter((one.fate, *ends.get(one.name, ["lost"])) for one in self._planned)
        by_place = Counter(
            (found.place, *ends.get(name, ["lost"])) for name, found in self.cancelled.items()
        )
        for title, table in (("was to", by_fate), ("cancelled while", by_place)):
            print(f"\n{title:<17}{'ended':<12}{'jobs':>6}")
            for (what, *statuses), jobs in sorted(table.items()):
                print(f"{what:<17}{' '.join(statuses):<12}{jobs:>6}")


def wait(condition: Any, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() >= deadline:
            print(f"not within {PATIENCE_SECONDS:g} s: {what}", flush=True)
            return
        time.sleep(0.05)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--lease", type=float, default=2.0, metavar="SECONDS")
    parser.add_argument("--redis-server", type=Path, metavar="PATH")
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    with EmbeddedRedis(options.redis_server) as server:
        planned = plan(options.jobs, options.seconds, random.Random(seed))
        scene = Scene(server.url, planned, seconds=options.seconds, lease=options.lease)
        took = scene.play()
        scene.show()
        faults = scene.faults()
    for fault in faults[:20]:
        print(fault)
    verdict = f"BROKEN: {len(faults)} faults" if faults else "each job has one end: held"
    print(f"\n{options.jobs} jobs, seed {seed}, {took:.1f} s; {verdict}")
    return 1 if faults else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        work(*sys.argv[2:])
    else:
        sys.exit(main())
