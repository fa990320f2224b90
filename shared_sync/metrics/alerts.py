"""Alerts: values that must not stay above, or below, a limit for long."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from sys import float_info
from typing import Any, Final

from shared_sync.common.fork import renew_lock_in_forks
from shared_sync.errors import ConfigurationError
from shared_sync.metrics.labels import shown

SIMILAR: Final = 0.85
"""From this ratio on (that of `difflib`) a name counts as another one misspelled: some three wrong
letters of twenty."""

STATUSES: Final = ("healthy", "degraded", "unhealthy")  # from best to worst


@dataclass(frozen=True, slots=True)
class Threshold:
    """A value of the metrics' JSON, its limit, and the status if it is beyond the limit."""

    figure: str
    above: float | None
    below: float | None
    for_seconds: float
    status: str

    def __post_init__(self) -> None:
        limits = [limit for limit in (self.above, self.below) if limit is not None]
        if len(limits) != 1 or not _is_finite(limits[0]):
            raise ConfigurationError(
                f"the alert on {self.figure!r} takes one number, as above= or as below=; "
                f"not above={shown(self.above)}, below={shown(self.below)}"
            )
        if not _is_finite(self.for_seconds) or self.for_seconds < 0:
            raise ConfigurationError(
                f"for_seconds must be a number of 0 or more, not {self.for_seconds!r}"
            )
        if self.status not in STATUSES[1:]:
            raise ConfigurationError(
                f"status must be 'degraded' or 'unhealthy', not {self.status!r}"
            )

    def broken_by(self, value: object) -> bool:
        """Return whether a value is beyond the limit; what is no number, such as None, is not."""
        if not _is_finite(value):
            return False
        if self.above is not None:
            return value > self.above  # type: ignore[operator]
        return value < self.below  # type: ignore[operator]

    def reason(self, value: object, seconds: float) -> str:
        """Return the reason in words, for a value that has been beyond the limit for so long."""
        side, limit = ("above", self.above) if self.above is not None else ("below", self.below)
        return f"{self.figure} is {value:g}, {side} {limit:g} for {seconds:.0f} s"


class Alerts:
    """The alerts of a registry, and since when each value has been beyond its limit.

    Any thread may call any method. Times are seconds of one clock that never runs backwards.
    """

    def __init__(self) -> None:
        # Guarded by the lock, which is re-entrant: a signal handler may read metrics.
        self._lock = threading.RLock()
        self._thresholds: list[Threshold] = []
        self._broken_since: dict[Threshold, float] = {}
        renew_lock_in_forks(self)

    def __bool__(self) -> bool:
        return bool(self._thresholds)

    def add(self, threshold: Threshold) -> None:
        """Add an alert, from the next check on; one that is there already is not added again."""
        with self._lock:
            if threshold not in self._thresholds:
                self._thresholds.append(threshold)

    def check(self, data: Mapping[str, Any], now: float) -> list[dict[str, Any]]:
        """Return the state of each alert, given the metrics' JSON of `now`.

        A value has been beyond its limit since the first of the consecutive checks, up to this one,
        that found it there.
        """
        with self._lock:
            return [self._state(threshold, data, now) for threshold in self._thresholds]

    def _state(self, threshold: Threshold, data: Mapping[str, Any], now: float) -> dict[str, Any]:
        value = data.get(threshold.figure)
        if threshold.broken_by(value):
            seconds = now - self._broken_since.setdefault(threshold, now)
            firing = seconds >= threshold.for_seconds
        else:
            self._broken_since.pop(threshold, None)
            seconds, firing = 0.0, False
        return {
            "figure": threshold.figure,
            "value": value,
            "above": threshold.above,
            "below": threshold.below,
            "for_seconds": threshold.for_seconds,
            "beyond_seconds": round(seconds, 3),
            "status": threshold.status if firing else STATUSES[0],
            "reason": threshold.reason(value, seconds) if firing else None,
        }


def check_spelling(figure: str, known: Collection[str]) -> None:
    """Raise ConfigurationError if the name of a value seems to be a known one misspelled.

    Any other name may become one of the program's own metrics, which need not be recorded yet.
    """
    name = figure.partition("{")[0]
    if name in known:
        return
    similar = difflib.get_close_matches(name, known, n=1, cutoff=SIMILAR)
    if similar:
        raise ConfigurationError(
            f"there is no value {figure!r} to watch; did you mean {similar[0]!r}? If it is a "
            "metric of your own, declare() or record it before"
        )


def health_of(states: list[dict[str, Any]]) -> dict[str, Any]:
    """Return `status` and `reasons` for a health page, from the states of alerts.

    The status is the worst of those that fire; nothing is returned while none fires.
    """
    firing = [state for state in states if state["reason"] is not None]
    if not firing:
        return {}
    return {
        "status": max((state["status"] for state in firing), key=STATUSES.index),
        "reasons": [state["reason"] for state in firing],
    }


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return -float_info.max <= value <= float_info.max
