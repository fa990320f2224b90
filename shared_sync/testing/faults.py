"""Faults between a worker and Redis, so that processors are run again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import TracebackType
from typing import Any, Final
from urllib.parse import urlsplit

from shared_sync.connection import url
from shared_sync.connection.scripts import scripts
from shared_sync.errors import ConfigurationError
from shared_sync.redis_consumer import RedisStreamConsumer
from shared_sync.testing.redis_proxy import HOST, RedisProxy

SETTLING: Final = ("finish", "finish_with_results", "finish_with_outputs", "park", "bury")
"""The scripts that settle messages which have run."""

HEAD: Final = 100
"""In so many bytes of a request the digest of its script is found."""


class Faults:
    """A proxy in front of Redis that breaks what passes through it when it is told to.

        with Faults(redis_url) as faults:
            worker = RedisStreamConsumer(faults.url, "jobs", "workers", "w1", None,
                                         faults.crash_after(2, process), lease_seconds=1)
            faults.run_until_crash(worker)

    Only workers that are given its `url` are affected. Whoever uses another address sees what is
    really in Redis. Any thread may call any method.

    Args:
        redis_url: `redis://host:port/db`, with user and password if needed. No other scheme.

    Raises:
        ConfigurationError: The address is of another kind.
    """

    def __init__(self, redis_url: str) -> None:
        server = url.server_of(redis_url)
        if urlsplit(redis_url).scheme != "redis" or server is None or server[1] is None:
            raise ConfigurationError(
                f"Faults needs a redis:// address of one server, not {url.safe_address(redis_url)}"
            )
        # Fixed after construction.
        self._marks = [f"\r\n{scripts()[name].digest}\r\n".encode() for name in SETTLING]
        self._proxy = RedisProxy((server[0], server[1]), self._loses_reply)
        parts = urlsplit(redis_url)
        user, at, _ = parts.netloc.rpartition("@")
        self.url = parts._replace(netloc=f"{user}{at}{HOST}:{self._proxy.port}").geturl()
        """The address for workers that are to be affected."""
        self._crashed = threading.Event()
        # Guarded by the lock.
        self._lock = threading.Lock()
        self._runs = 0
        self._to_lose = 0
        self._lost = 0

    @property
    def lost_replies(self) -> int:
        """How many replies to settlements were lost."""
        return self._lost

    def crash_after(self, runs: int, processor: Callable[..., Any]) -> Callable[..., Any]:
        """Return the processor so that its worker is cut off when it has run so many times.

        All that the processor does is done then, and Redis never learns of it: to Redis and to
        other workers it is as if the process had been killed at that moment. After the lease,
        another worker runs the message again, and those before it that were not settled yet.

        It takes a `message_processor` or a `batch_processor`, and works with `isolation="thread"`.
        The runs of all functions that this object has returned count together.
        """
        if not isinstance(runs, int) or runs < 1:
            raise ConfigurationError(f"runs must be a whole number from 1 on, not {runs!r}")

        @wraps(processor)
        def run(*arguments: Any) -> Any:
            try:
                return processor(*arguments)
            finally:
                with self._lock:
                    self._runs += 1
                    is_due = self._runs == runs
                if is_due:
                    self.cut_off()

        return run

    def cut_off(self) -> None:
        """Cut all workers off for good, as if their processes had been killed."""
        self._proxy.close()
        self._crashed.set()

    def run_until_crash(self, consumer: RedisStreamConsumer, timeout: float = 30.0) -> None:
        """Run a consumer until it is cut off, and stop it without waiting for Redis.

        Raises `TimeoutError` if that has not happened within `timeout` seconds.
        """
        consumer.start()
        try:
            if not self._crashed.wait(timeout):
                raise TimeoutError(
                    f"the worker was not cut off within {timeout:g} s: its processor has run "
                    f"{self._runs} times. Is it given faults.url, and the function that "
                    "crash_after() has returned?"
                )
        finally:
            consumer.stop(timeout=0)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Within the block, let nothing pass, as if the machine of the workers stood still.

        If it lasts longer than the lease and 2 s, other workers take over what the frozen ones run.
        What was said meanwhile arrives at the end of the block.
        """
        self._proxy.freeze()
        try:
            yield
        finally:
            self._proxy.thaw()

    def lose_next_settlement(self, times: int = 1) -> None:
        """Lose the reply to the next settlement: Redis carries it out, and the worker cannot know.

        The connection breaks, and the worker sends the settlement again. `lost_replies` says how
        often that has happened.
        """
        with self._lock:
            self._to_lose += times

    def close(self) -> None:
        """End all connections."""
        self._proxy.close()

    def __enter__(self) -> Faults:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _loses_reply(self, request: bytes) -> bool:
        head = request[:HEAD]
        if not self._to_lose or not any(mark in head for mark in self._marks):
            return False
        with self._lock:
            if not self._to_lose:
                return False
            self._to_lose -= 1
            self._lost += 1
        return True
