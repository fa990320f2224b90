"""Choices that a consumer is given as one object."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from shared_sync import _backoff
from shared_sync.errors import ConfigurationError


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
        if self.max_attempts < 1:
            raise ConfigurationError(f"max_attempts must be 1 or more, not {self.max_attempts!r}")
        if not 0 <= self.base_seconds <= self.max_seconds < math.inf:
            raise ConfigurationError(
                "base_seconds and max_seconds must satisfy 0 <= base_seconds <= max_seconds, "
                f"not {self.base_seconds!r} and {self.max_seconds!r}"
            )
        if not 0 <= self.jitter <= 1:
            raise ConfigurationError(f"jitter must be between 0 and 1, not {self.jitter!r}")

    def delay_seconds(self, failures: int, chance: _backoff.Chance = random.random) -> float:
        """Seconds until the next attempt of a message that has failed `failures` times."""
        return _backoff.exponential(
            failures,
            base_seconds=self.base_seconds,
            max_seconds=self.max_seconds,
            jitter=self.jitter,
            chance=chance,
        )
