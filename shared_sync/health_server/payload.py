"""What health data mean, read once when they arrive, and what of them may be shown."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from types import NoneType
from typing import Any, Final
from uuid import UUID

HEALTHY: Final = "healthy"
DEGRADED: Final = "degraded"
UNHEALTHY: Final = "unhealthy"
STATUSES: Final = (HEALTHY, DEGRADED, UNHEALTHY)

DETAILS: Final = "details"
"""The key under which data bring what strangers should not see, at any depth."""

_LARGEST_BITS: Final = 1023
"""Whole numbers of more are as good as infinite: no reader of JSON takes them."""

_LOADED: Final = ("started", "model_loaded")
"""Keys that are False while something is still being loaded."""

# The user and password of a URL, within any text. There is nothing in it to go back over: each
# character is either one of the class or ends the match.
_CREDENTIALS: Final = re.compile(r"(?<=://)[^/?#\s@]*@(?:[^/?#\s@]*@)*")


@dataclass(frozen=True, slots=True)
class HealthData:
    """What a check or a callback said, put into one form."""

    status: str = HEALTHY
    reasons: tuple[str, ...] = ()
    live: bool | None = None
    """None where the data do not say."""

    ready: bool = True
    started: bool = True
    figures: Mapping[str, Any] = field(default_factory=dict)
    """The data as they came, ready for JSON."""


def parse(returned: object, critical: Collection[str], *, details: bool) -> HealthData:
    """Put what a check returned into one form.

    Raises TypeError or ValueError for what is not health data, or cannot be told in JSON.
    """
    if returned is None or returned is True:
        return HealthData()
    if returned is False:
        return HealthData(UNHEALTHY)
    if not isinstance(returned, Mapping):
        raise TypeError(
            "health data must be a mapping, True, False or None, "
            f"not {type(returned).__name__}; return a mapping with the key 'status'"
        )
    data = presentable_mapping(returned, details=details)
    status = data.get("status", HEALTHY)
    reasons = [f"{key} is false" for key in critical if data.get(key) is False]
    if reasons:
        status = UNHEALTHY
    elif status not in STATUSES:
        reasons = [f"unknown status {status!r}"]
        status = DEGRADED
    theirs = data.get("reasons")
    if isinstance(theirs, list):
        reasons += [str(reason) for reason in theirs]
    return HealthData(
        status,
        tuple(reasons),
        live=data["live"] is not False if "live" in data else None,
        ready=data.get("ready") is not False,
        started=all(data.get(key) is not False for key in _LOADED),
        figures=data,
    )


def worst(statuses: Iterable[str]) -> str:
    return max(statuses, key=STATUSES.index, default=HEALTHY)


def presentable(value: object, *, details: bool) -> Any:
    """Return the same as JSON can hold it and strangers may see it.

    Numbers that JSON does not have, or no reader of it takes, become null; moments, decimals and
    UUIDs become text. URLs lose user and password. What stands under the key `details` is left out
    unless `details` is true. Raises TypeError for what JSON cannot hold, and RecursionError for
    what holds itself.
    """
    if isinstance(value, Mapping):
        return presentable_mapping(value, details=details)
    if isinstance(value, (list, tuple)):
        return [presentable(item, details=details) for item in value]
    if isinstance(value, str):
        return _without_credentials(value)
    if isinstance(value, (bool, int, float, NoneType)):
        return value if _is_json(value) else None
    if isinstance(value, (date, Decimal, UUID)):  # and so a datetime
        return str(value)
    raise TypeError(f"JSON cannot hold a {type(value).__name__}")


def _is_json(value: float | None) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or value.bit_length() <= _LARGEST_BITS


def presentable_mapping(value: Mapping[Any, object], *, details: bool) -> dict[str, Any]:
    """Return `presentable` of a mapping."""
    return {
        _key(key): presentable(item, details=details)
        for key, item in value.items()
        if details or key != DETAILS
    }


def _without_credentials(text: str) -> str:
    return _CREDENTIALS.sub("***@", text) if "://" in text else text


def _key(key: object) -> str:
    if isinstance(key, str):
        return _without_credentials(key)
    if key is None or isinstance(key, (bool, int, float)):
        return json.dumps(key)
    raise TypeError(f"a key of JSON cannot be a {type(key).__name__}")
