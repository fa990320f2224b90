"""What was published, how often each message ran, and what became of it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import redis
from helpers import eventually
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared_sync import (
    RedisStreamConsumer,
    RedisStreamProducer,
    Reject,
    RetryPolicy,
    current_message,
)
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import SharedSyncError
from shared_sync.protocol.keys import Keys

KEYS = Keys.of("jobs", "workers")
RESULTS = "results"
NUMBER = b"number"
"""The field that every message has."""

LOAD_BURST = 5
LOAD_PAUSE_SECONDS = 0.02
LOAD_BACKLOG = 50

Work = Callable[[str, Mapping[str, str | bytes]], object]
MakePool = Callable[..., RedisStreamConsumer]


def answer(_: str, job: Mapping[str, str | bytes]) -> dict[str, object]:
    """What a message is worth when nothing else is said."""
    return {"number": job["number"]}


QUICK = RetryPolicy(max_attempts=3, base_seconds=0.05, max_seconds=0.1)
"""Enough for `mixed` work."""


def mixed(message_id: str, job: Mapping[str, str | bytes]) -> object:
    """Work of a few milliseconds that succeeds, fails at first, or is in vain."""
    let_pass(0.003)
    number = int(job["number"])
    if number % 10 == 0:
        raise Reject("every tenth")
    if number % 3 == 0 and current_message().attempt == 1:
        raise ValueError("every third, at first")
    return answer(message_id, job)


def let_pass(seconds: float) -> None:
    """Let a fault last so long, where nothing tells that it has lasted long enough."""
    threading.Event().wait(seconds)


@dataclass
class _Seen:
    """Entries of a stream of endings, kept whatever becomes of the stream: entry -> message."""

    key: str
    of: bytes
    entries: dict[str, str] = field(default_factory=dict)

    def add(self, found: list[tuple[bytes, dict[bytes, bytes]]]) -> None:
        for entry_id, fields in found:
            self.entries[entry_id.decode()] = fields[self.of].decode()


class Ledger:
    """Publishes numbered messages and keeps the books on them. Safe from any thread.

    It looks at Redis directly, past any proxy. Messages that run in other processes have their
    runs added to `runs` by the test.
    """

    def __init__(self, url: str) -> None:
        self.client = _client(url)
        """For the test's own commands; it keeps to one connection if one thread uses it."""
        self._eyes = _client(url)
        self._producer = RedisStreamProducer(url, KEYS.stream)
        self._looking = threading.Lock()
        self._lock = threading.RLock()
        # Guarded by the lock.
        self.acknowledged: list[str] = []
        self.runs: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.destroyed: set[str] = set()
        """Messages that Redis lost by itself before they were finished."""
        self._numbers = 0
        self._results = _Seen(RESULTS, b"message_id")
        self._letters = _Seen(KEYS.dead, b"dead.id")
        self._known: set[str] = set()
        self._waiting: set[str] = set()
        self._fault_over: float | None = None

    def close(self) -> None:
        self._producer.close()
        self.client.close()
        self._eyes.close()

    # --- work ---

    def publish(
        self, count: int = 1, *, producer: RedisStreamProducer | None = None, **fields: object
    ) -> list[str]:
        """Publish messages one by one; their ids. Raises what the producer raises."""
        ids = []
        for _ in range(count):
            with self._lock:
                self._numbers += 1
                number = self._numbers
            message_id = (producer or self._producer).publish({"number": number, **fields})
            with self._lock:
                self.acknowledged.append(message_id)
            ids.append(message_id)
        return ids

    @contextmanager
    def load(self) -> Iterator[None]:
        """Publish a few messages every moment, unless many are waiting.

        What is refused or broken off was not acknowledged.
        """
        over = threading.Event()

        def publish() -> None:
            while not over.wait(LOAD_PAUSE_SECONDS):
                self.look()
                if len(self.unfinished()) < LOAD_BACKLOG:
                    with suppress(SharedSyncError):
                        self.publish(LOAD_BURST)

        publisher = threading.Thread(target=publish, name="load")
        publisher.start()
        try:
            self.progress()
            yield
        finally:
            over.set()
            publisher.join()

    def processor(self, work: Work = answer) -> Callable[[str, Mapping[str, str | bytes]], object]:
        """A processor that does the work and has its runs counted."""

        def process(message_id: str, job: Mapping[str, str | bytes]) -> object:
            with self._lock:
                self.runs[message_id] += 1
            try:
                return work(message_id, job)
            except BaseException:
                with self._lock:
                    self.failures[message_id] += 1
                raise

        return process

    def progress(self, count: int = 20) -> None:
        """Wait until so many more messages have ended."""
        self.look()
        begun = len(self._ended())

        def further() -> bool:
            self.look()
            return len(self._ended()) >= begun + count

        eventually(further, within=30)

    # --- the fault ---

    def destroy(self, *command: object) -> None:
        """Send a command that destroys data; in the same step note what Redis loses by it."""
        with self._looking, self._eyes.pipeline(transaction=True) as step:
            self._survey(step)
            step.execute_command(*command)
            self._note(step.execute()[:3])
            self._note_destruction()
        self._fault_over = time.time()

    def kill(self, server: EmbeddedRedis) -> None:
        """Kill a Redis that keeps nothing. Nothing is written between the last look and the end."""
        self.client.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
        with self._looking, self._eyes.pipeline(transaction=False) as step:
            self._survey(step)
            self._note(step.execute())
            self._note_destruction()
            server.kill()

    def fault_is_over(self) -> None:
        """From now on it counts how long it takes until the next message ends."""
        self._fault_over = time.time()

    # --- the books ---

    def look(self) -> bool:
        """Read what has ended meanwhile; whether Redis could be asked."""
        with self._looking:
            with self._lock:
                known = set(self.acknowledged)
            try:
                # A full server refuses transactions. Without one the order matters: what has left
                # the stream before the first reading is among the endings of those that follow.
                with self._eyes.pipeline(transaction=False) as step:
                    self._survey(step)
                    self._note(step.execute())
            except redis.RedisError:
                return False
            with self._lock:
                self._known = known
            return True

    def unfinished(self) -> set[str]:
        """Acknowledged and not ended, apart from what Redis itself lost."""
        with self._lock:
            return set(self.acknowledged) - self._ended() - self.destroyed

    def lost(self) -> set[str]:
        """Acknowledged before the last look, and then neither ended nor in the stream."""
        with self._lock:
            return self._known & self.unfinished() - self._waiting

    def published_twice(self) -> set[str]:
        """More than one result or dead letter, whether the publishing was acknowledged or not."""
        with self._lock:
            twice: set[str] = set()
            for seen in (self._results, self._letters):
                ends = Counter(seen.entries.values())
                twice |= {message_id for message_id, count in ends.items() if count > 1}
            return twice

    def run_twice(self) -> set[str]:
        """Run again although no failure asked for it."""
        with self._lock:
            return {
                message_id
                for message_id, count in self.runs.items()
                if count > 1 + self.failures[message_id]
            }

    def ended(self, message_id: str) -> bool:
        with self._lock:
            return message_id in self._ended()

    def resumed_seconds(self) -> float | None:
        """From the end of the fault to the next ending, by the time in its entry's id."""
        if self._fault_over is None:
            return None
        with self._lock:
            ids = [*self._results.entries, *self._letters.entries]
        moments = [int(entry_id.partition("-")[0]) / 1000 for entry_id in ids]
        later = [moment - self._fault_over for moment in moments]
        return min((max(0.0, late) for late in later if late > -0.001), default=None)

    def settle(self, within: float = 30) -> None:
        """Wait until everything has ended, or is lost."""

        def settled() -> bool:
            return self.look() and self.unfinished() == self.lost()

        eventually(settled, within=within)

    def server(self) -> str:
        """Name and version of the Redis."""
        return server_of(self.client)

    def _ended(self) -> set[str]:
        with self._lock:
            return {*self._results.entries.values(), *self._letters.entries.values()}

    def _survey(self, step: redis.client.Pipeline) -> None:
        step.xrange(KEYS.stream)
        for seen in (self._results, self._letters):
            step.xrange(seen.key, min=f"({max(seen.entries, key=_order, default='0-0')}")

    def _note(self, replies: list[list[tuple[bytes, dict[bytes, bytes]]]]) -> None:
        waiting, results, letters = replies
        with self._lock:
            self._waiting = {entry_id.decode() for entry_id, _ in waiting}
            self._results.add(results)
            self._letters.add(letters)

    def _note_destruction(self) -> None:
        with self._lock:
            self.destroyed |= self._waiting - self._ended()


def _client(url: str) -> redis.Redis:
    """One that finds a Redis again which was away."""
    return redis.Redis.from_url(
        url,
        protocol=2,
        retry=Retry(NoBackoff(), 3),
        retry_on_error=[redis.ConnectionError, redis.TimeoutError],
    )


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)


def server_of(client: redis.Redis) -> str:
    """Name and version of the Redis that a client is connected to."""
    facts = client.info("server")
    name = facts.get("server_name", "redis")
    return f"{name} {facts.get(f'{name}_version', facts['redis_version'])}"
