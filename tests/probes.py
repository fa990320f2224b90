"""Probes that ask a consumer time and again, as a health server does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from shared_sync import RedisStreamConsumer

QUICK: dict[str, Any] = {"block_seconds": 0.1, "lease_seconds": 2}
"""Loops that turn several times a second."""


class Probes:
    """Asks a consumer time and again, as a health server does, and keeps what it learned."""

    def __init__(self, consumer: RedisStreamConsumer) -> None:
        self._consumer = consumer
        self.learned: list[dict[str, Any]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def _ask(self) -> None:
        while True:
            ended = self._stop.wait(0.02)
            health = self._consumer.get_health_data()
            health["asked_at"] = time.monotonic()
            self.learned.append(health)
            if ended:
                break

    def __enter__(self) -> Probes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def always(self, name: str) -> bool:
        return len(self.learned) > 0 and all(health[name] for health in self.learned)

    def first(self, condition: Callable[[dict[str, Any]], bool], since: float) -> float:
        """How long after a moment the condition first held."""
        return next(
            health["asked_at"] - since
            for health in list(self.learned)
            if health["asked_at"] > since and condition(health)
        )


def is_well(consumer: RedisStreamConsumer) -> bool:
    health = consumer.get_health_data()
    well = health["live"] and health["ready"] and health["started"] and health["redis_connected"]
    return well and not {"status", "reasons", "details"} & set(health)


def all_reasons(consumer: RedisStreamConsumer) -> str:
    return "; ".join(consumer.get_health_data().get("reasons", []))
