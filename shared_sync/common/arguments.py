"""Checks of arguments: each error names the argument, what it may be, and what it was."""

from __future__ import annotations

import math
from collections.abc import Collection

from shared_sync.errors import ConfigurationError


def text(name: str, value: object) -> None:
    """Raise ConfigurationError unless `value` is non-empty text of valid Unicode."""
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{name} must be text and not empty, not {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"{name} must be valid Unicode text, not {value!r}") from None


def number(name: str, value: object, lowest: float, highest: float = math.inf) -> None:
    """Raise ConfigurationError unless `value` is a finite number within the limits, inclusive."""
    if not _is_number(value, (int, float), lowest, highest) or value == math.inf:
        raise ConfigurationError(f"{name} must be a number {_span(lowest, highest)}, not {value!r}")


def whole_number(name: str, value: object, lowest: int, highest: float = math.inf) -> None:
    """Raise ConfigurationError unless `value` is an int within the limits, inclusive."""
    if not _is_number(value, (int,), lowest, highest):
        raise ConfigurationError(
            f"{name} must be a whole number {_span(lowest, highest)}, not {value!r}"
        )


def names(name: str, value: object) -> None:
    """Raise ConfigurationError unless `value` is a collection of texts, and not a text itself."""
    if (
        isinstance(value, str)
        or not isinstance(value, Collection)
        or not all(isinstance(item, str) for item in value)
    ):
        raise ConfigurationError(f"{name} must be a collection of field names, not {value!r}")


def _is_number(
    value: object, kinds: tuple[type[int] | type[float], ...], lowest: float, highest: float
) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool) and lowest <= value <= highest


def _span(lowest: float, highest: float) -> str:
    return f"of at least {lowest}" if highest == math.inf else f"from {lowest} to {highest}"
