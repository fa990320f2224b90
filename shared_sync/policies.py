"""RetryPolicy: how often a failed message is tried again, and how long it waits in between."""

from __future__ import annotations

import random
from dataclasses import dataclass

from shared_sync.common import arguments, backoff

MAX_DELAY_SECONDS = 366 * 86_400.0
"""The longest that a message can wait for its next attempt: 366 days, in seconds."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a failed message is tried, and how long it waits before each next attempt.

    After failure number `n` a message waits `base_seconds * 2**(n - 1)` seconds, at most
    `max_seconds`, less a random share of up to `jitter`. After `max_attempts` failures it becomes a
    dead letter. Crashes are counted separately, by `max_crashes` of the consumer.

    A policy cannot be changed, so any number of consumers and threads may share one.

    Args:
        max_attempts: Failures after which a message becomes a dead letter, 1 or more.
        base_seconds: Seconds to wait after the first failure, from 0 to `max_seconds`.
        max_seconds: The longest wait in seconds, from 0 to 366 days.
        jitter: The share of each wait that is left to chance, from 0 (none) to 1 (all), so that
            messages that failed together do not all come back at once.

    Raises:
        ConfigurationError: An argument is of the wrong type or out of its range.
    """

    max_attempts: int = 5
    base_seconds: float = 1.0
    max_seconds: float = 300.0
    jitter: float = 0.25

    def __post_init__(self) -> None:
        arguments.whole_number("max_attempts", self.max_attempts, 1)
        arguments.number("max_seconds", self.max_seconds, 0, MAX_DELAY_SECONDS)
        arguments.number("base_seconds", self.base_seconds, 0, self.max_seconds)
        arguments.number("jitter", self.jitter, 0, 1)

    def delay_seconds(self, failures: int, chance: backoff.Chance = random.random) -> float:
        """Return how many seconds a message waits that has failed `failures` times.

        `failures` is 1 or more. `chance` returns a random number from 0 to less than 1; tests pass
        a fixed one. Never blocks; any thread may call it.
        """
        return backoff.exponential(
            failures,
            base_seconds=self.base_seconds,
            max_seconds=self.max_seconds,
            jitter=self.jitter,
            chance=chance,
        )
