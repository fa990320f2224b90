"""The limits beyond which a group is degraded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits beyond which a group is degraded; None switches one off."""

    max_wait_seconds: float | None = 300.0
    """How long the oldest message may wait to be read."""

    growth_seconds: float | None = 300.0
    """For how long more messages may arrive than are finished, while some wait."""

    max_dead_share: float | None = 0.1
    """Which share of the messages that end may become dead letters, over five minutes."""

    @property
    def window_seconds(self) -> float:
        """How long samples are kept."""
        return max(300.0, self.growth_seconds or 0.0)
