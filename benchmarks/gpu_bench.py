"""What the sections of bench_gpu.py share: messages, workers, and what became of the messages."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import redis
from measuring import Worker, fill, pending
from report import Measurements
from worker_reports import GROUP, STREAM

from shared_sync.dead_letters import DeadLetter, DeadLetters

RESULTS = f"{STREAM}:results"
PATIENCE_SECONDS = 120.0
WORKER_PROGRAM = Path(__file__).with_name("gpu_worker.py")


class Bench:
    """One run: a Redis of its own, what was measured, and the options of the command line."""

    def __init__(self, url: str, client: redis.Redis, options: argparse.Namespace) -> None:
        # Fixed after construction.
        self.url = url
        self.client = client
        self.options = options
        self.measured = Measurements()

    def publish(self, messages: Iterable[Mapping[str, Any]]) -> list[str]:
        """Empty the server and publish these messages; return their ids."""
        fill(self.client, 0)
        return self.add(messages)

    def add(self, messages: Iterable[Mapping[str, Any]]) -> list[str]:
        """Publish messages and return their ids."""
        with self.client.pipeline() as pipeline:
            for message in messages:
                pipeline.xadd(STREAM, dict(message))
            ids: Any = pipeline.execute()
        return [message_id.decode() for message_id in ids]

    def worker(self, name: str = "worker", *, core: int | None = None, **consumer: Any) -> Worker:
        """Start a worker whose consumer has these options, on one core or, for None, on any."""
        options = {"url": self.url, "name": name, "consumer": consumer}
        return Worker([sys.executable, WORKER_PROGRAM, json.dumps(options)], core=core)

    def results(self) -> list[dict[str, Any]]:
        """Return the results that were published: each processor's, with `message_id`."""
        found = []
        rows: Any = self.client.xrange(RESULTS)
        for _, fields in rows:
            text = {name.decode(): value.decode() for name, value in fields.items()}
            if text["status"] == "done":
                found.append(text)
        return found

    def dead(self) -> list[DeadLetter]:
        with DeadLetters(self.url, STREAM, GROUP) as letters:
            return list(letters)

    def wait_until_done(self, within: float = PATIENCE_SECONDS) -> float:
        """Wait until no message is left, and return the seconds that this took."""
        began = time.monotonic()
        must(lambda: not self.client.xlen(STREAM) and not pending(self.client), "all done", within)
        return time.monotonic() - began

    @property
    def presence(self) -> str:
        """The key that has the end of each consumer's lease."""
        return f"{{{STREAM}}}:{GROUP}:presence"


def value(label: str, name: str) -> Callable[[Measurements], float]:
    """Return a function that returns the highest value of all rounds, as a `Bound` takes it."""
    return lambda found: found.highest(label, name)


def must(condition: Callable[[], object], what: str, within: float = PATIENCE_SECONDS) -> None:
    """Wait until the condition holds. Ends this program if it does not within so many seconds."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() >= deadline:
            raise SystemExit(f"not within {within:g} s: {what}")
        time.sleep(0.005)
