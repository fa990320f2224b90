"""What a soak puts into Redis and takes out again: messages, results and dead letters."""

from __future__ import annotations

import json
import random
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis
from soak_ledger import Ledger
from soak_worker import GROUP, RESULTS, STREAM, job

from shared_sync import DeadLetters, RedisStreamProducer
from shared_sync.errors import QueueFull, RedisUnavailable

TICK_SECONDS = 0.1
MAX_QUEUE_DEPTH = 3000


class Service:
    """A thread that repeats a step until it is stopped. An error ends it and is a problem."""

    def __init__(self, ledger: Ledger, pause_seconds: float) -> None:
        self.ledger = ledger
        self._pause_seconds = pause_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def step(self) -> None:
        raise NotImplementedError

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._pause_seconds):
                self.step()
        except Exception as error:
            self.ledger.problem(f"{type(self).__name__} ended: {type(error).__name__}: {error}")


class Publisher(Service):
    """Publishes at a steady rate. A number is used again only if its message is surely not in."""

    def __init__(self, url: str, ledger: Ledger, seed: int, rate: float) -> None:
        super().__init__(ledger, TICK_SECONDS)
        self._seed = seed
        self._largest_batch = max(1, round(2 * rate * TICK_SECONDS) - 1)
        self._chance = random.Random(f"{seed}/publisher")
        self._producer = RedisStreamProducer(
            url, STREAM, max_queue_depth=MAX_QUEUE_DEPTH, timeout_seconds=2.0
        )
        self._next = 0

    def step(self) -> None:
        batch = range(self._next, self._next + self._chance.randint(1, self._largest_batch))
        try:
            ids = self._producer.publish_many(job(self._seed, number) for number in batch)
            self._next = batch.stop
        except QueueFull as full:
            ids = list(full.published)
            self._next += len(ids)
        except RedisUnavailable as error:
            ids = list(error.published)
            self.ledger.unanswered(batch[len(ids) :])
            self._next = batch.stop
        self.ledger.acknowledged(batch[: len(ids)], ids)

    def stop(self) -> None:
        super().stop()
        self._producer.close()


class Collector(Service):
    """Reads results and dead letters as they come and removes them from Redis."""

    def __init__(self, url: str, ledger: Ledger, ends: Path) -> None:
        super().__init__(ledger, 0.05)
        self._client = redis.Redis.from_url(url, socket_timeout=5.0, protocol=2)
        self._dead_letters = DeadLetters(url, STREAM, GROUP, timeout_seconds=5.0)
        self._ends = ends.open("a")
        self._last_result = "0-0"
        self._last_dead_letter = ""
        self._unpurged: list[str] = []

    def step(self) -> None:
        with suppress(redis.RedisError, OSError):
            self._read_results()
        with suppress(RedisUnavailable):
            self._read_dead_letters()

    def finish(self) -> None:
        """Read what is left, when nothing is added any more."""
        self._read_results()
        self._read_dead_letters()
        self._ends.close()
        self._client.close()
        self._dead_letters.close()

    def _read_results(self) -> None:
        while True:
            reply: Any = self._client.xread({RESULTS: self._last_result}, count=500)
            if not reply:
                return
            ((_, entries),) = reply
            for entry_id, raw in entries:
                fields = {name.decode(): value.decode() for name, value in raw.items()}
                self._last_result = entry_id.decode()
                self._note("result", fields)
                self.ledger.result(int(fields["n"]), fields["message_id"], fields["status"])
            self._client.xtrim(RESULTS, minid=self._last_result, approximate=False)

    def _read_dead_letters(self) -> None:
        while page := self._dead_letters.list(after=self._last_dead_letter):
            for letter in page:
                self._last_dead_letter = letter.id
                self._unpurged.append(letter.id)
                number, act = int(letter.fields["n"]), letter.fields["act"].decode()
                facts = {
                    "n": number,
                    "message_id": letter.message_id,
                    "reason": letter.reason,
                    "attempts": letter.attempts,
                    "crashes": letter.crashes,
                    "history": letter.history,
                }
                self._note("dead letter", facts)
                self.ledger.dead_letter(number, letter.message_id, act, letter.reason)
            self._purge()
        if self._unpurged:  # the answer to their removal was lost
            self._purge()

    def _purge(self) -> None:
        self._dead_letters.purge(self._unpurged)
        self._unpurged.clear()

    def _note(self, kind: str, facts: dict[str, Any]) -> None:
        self._ends.write(json.dumps({"end": kind, **facts}) + "\n")
        self._ends.flush()
