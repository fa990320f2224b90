"""From the number of a try to the delay before the next one."""

from __future__ import annotations

import random
from collections.abc import Callable

Chance = Callable[[], float]
"""Uniform in [0, 1), like `random.random`."""


def exponential(
    number: int,
    *,
    base_seconds: float,
    max_seconds: float,
    jitter: float,
    chance: Chance = random.random,
) -> float:
    """Seconds to wait after failure `number` (1, 2, ...): doubled each time, capped, then jittered.

    `jitter` is the share of the delay that is left to chance: 0 none, 1 all. It keeps many
    clients that failed together from coming back together (Marc Brooker, "Exponential Backoff
    And Jitter", AWS Architecture Blog, 2015).
    """
    doublings = min(number - 1, 60)
    delay = min(max_seconds, base_seconds * 2.0**doublings)
    return delay * (1.0 - jitter * chance())
