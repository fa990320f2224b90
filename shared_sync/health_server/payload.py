"""Reads the health data that callbacks return, and prepares data for JSON and for strangers."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from types import NoneType
from typing import Any, Final
from uuid import UUID

from shared_sync.common.masking import MASK, is_secret_name, mask_secrets

HEALTHY: Final = "healthy"
DEGRADED: Final = "degraded"
UNHEALTHY: Final = "unhealthy"
STATUSES: Final = (HEALTHY, DEGRADED, UNHEALTHY)
"""From the best to the worst."""

DETAILS: Final = "details"
"""The key for what strangers should not see, at any depth of the data."""

_LARGEST_BITS: Final = 1023
"""Larger whole numbers count as infinite, because readers of JSON do not accept them."""

_LOADED: Final = ("started", "model_loaded")
"""Keys that are False while something is still being loaded."""


@dataclass(frozen=True, slots=True)
class HealthData:
    """What a check or callback returned, in one form."""

    status: str = HEALTHY
    reasons: tuple[str, ...] = ()
    live: bool | None = None
    """None if the data have no key `live`."""

    ready: bool = True
    started: bool = True
    values: Mapping[str, Any] = field(default_factory=dict)
    """The data as they were returned, ready for JSON."""


def parse(returned: object, critical: Collection[str], *, details: bool) -> HealthData:
    """Bring what a check returned into one form.

    `critical` are the keys that make the data unhealthy if they are False; `details` says whether
    to keep the values under the key `details`. Raises TypeError or ValueError for what is not
    health data, or does not fit into JSON.
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
    data = public_mapping(returned, details=details)
    status = data.get("status", HEALTHY)
    reasons = [f"{key} is false" for key in critical if data.get(key) is False]
    if reasons:
        status = UNHEALTHY
    elif status not in STATUSES:
        reasons = [f"unknown status {status!r}"]
        status = DEGRADED
    returned_reasons = data.get("reasons")
    if isinstance(returned_reasons, list):
        reasons += [str(reason) for reason in returned_reasons]
    return HealthData(
        status,
        tuple(reasons),
        live=data["live"] is not False if "live" in data else None,
        ready=data.get("ready") is not False,
        started=all(data.get(key) is not False for key in _LOADED),
        values=data,
    )


def worst(statuses: Iterable[str]) -> str:
    """Return the worst of these statuses; healthy if there are none."""
    return max(statuses, key=STATUSES.index, default=HEALTHY)


def public(value: object, *, details: bool) -> Any:
    """Return the value in a form that JSON can hold and that strangers may see.

    Numbers that JSON does not have, or that its readers do not accept, become null; dates, decimals
    and UUIDs become text. Secrets become `***`, in text as `mask_secrets()` finds them and under
    keys such as `password`. Values under the key `details` are left out unless `details` is true.
    Raises TypeError for what JSON cannot hold, and RecursionError for a container that contains
    itself.
    """
    if isinstance(value, Mapping):
        return public_mapping(value, details=details)
    if isinstance(value, (list, tuple)):
        return [public(item, details=details) for item in value]
    if isinstance(value, str):
        return mask_secrets(value)
    if isinstance(value, (bool, int, float, NoneType)):
        return value if _is_json(value) else None
    if isinstance(value, (date, Decimal, UUID)):  # a datetime is a date
        return str(value)
    raise TypeError(f"JSON cannot hold a {type(value).__name__}")


def public_mapping(value: Mapping[Any, object], *, details: bool) -> dict[str, Any]:
    """Return `public` of a mapping."""
    return {
        _key(key): MASK if _is_secret(key, item) else public(item, details=details)
        for key, item in value.items()
        if details or key != DETAILS
    }


def _is_json(value: float | None) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or value.bit_length() <= _LARGEST_BITS


def _is_secret(key: object, value: object) -> bool:
    return bool(isinstance(key, str) and isinstance(value, str) and value and is_secret_name(key))


def _key(key: object) -> str:
    if isinstance(key, str):
        return mask_secrets(key) if "://" in key else key
    if key is None or isinstance(key, (bool, int, float)):
        return json.dumps(key)
    raise TypeError(f"a key of JSON cannot be a {type(key).__name__}")
