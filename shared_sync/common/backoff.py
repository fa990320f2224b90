"""The delay before another attempt, which grows with the number of failures."""

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
    """Return the seconds to wait after failure `number` (1, 2, ...).

    The delay is `base_seconds` at first, doubles with each failure up to `max_seconds`, and is then
    reduced by chance. `jitter` is the largest share that may be taken off: 0 is none, 1 is all. It
    keeps many clients that failed together from coming back together (Marc Brooker, "Exponential
    Backoff And Jitter", AWS Architecture Blog, 2015).
    """
    doublings = min(number - 1, 60)
    delay = min(max_seconds, base_seconds * 2.0**doublings)
    return delay * (1.0 - jitter * chance())
