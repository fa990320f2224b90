"""Choices that a consumer is given as one object."""

from __future__ import annotations

import random
from dataclasses import dataclass

from shared_sync.common import arguments, backoff

MAX_DELAY_SECONDS = 366 * 86_400.0
"""No message waits longer for its next attempt."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a failing message is tried, and how long it waits in between.

    The wait doubles from `base_seconds` up to `max_seconds`. `jitter` (0 to 1) is the share of
    each wait that is left to chance. After `max_attempts` failures the message is a dead letter.
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
        """Seconds until the next attempt of a message that has failed `failures` times."""
        return backoff.exponential(
            failures,
            base_seconds=self.base_seconds,
            max_seconds=self.max_seconds,
            jitter=self.jitter,
            chance=chance,
        )
