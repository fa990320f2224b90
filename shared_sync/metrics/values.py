"""Checks of the numbers that programs record."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Mapping, Sequence
from numbers import Integral, Real
from sys import float_info
from typing import Final, TypeVar

from shared_sync.errors import ConfigurationError
from shared_sync.metrics.labels import shown

T = TypeVar("T")

LARGEST: Final = float_info.max
LARGEST_EXACT: Final = 2**53
"""The largest integer up to which floats represent all of them."""

LONGEST_DURATION: Final = 1e15
"""In seconds. Longer durations are refused."""


def within(number: float) -> float:
    """Return the number, or the largest float if a sum has grown beyond it."""
    return max(-LARGEST, min(number, LARGEST))


def number(name: str, value: float, least: float) -> float:
    """Return `value` as an int or a float, also if it is one of numpy's numbers.

    Raises ConfigurationError for anything but a finite number of at least `least`.
    """
    if value.__class__ is float and least <= value <= LARGEST:
        return value
    if value.__class__ is int and 0 <= value <= LARGEST_EXACT:
        return value
    try:
        if isinstance(value, Real) and not isinstance(value, bool):
            # A large int becomes a float, so that sums with floats never fail.
            is_exact = isinstance(value, Integral) and -LARGEST_EXACT <= value <= LARGEST_EXACT
            converted = int(value) if is_exact else float(value)
            if least <= converted <= LARGEST:
                return converted
    except Exception:  # noqa: BLE001, S110 - such as OverflowError, or of the number's own code
        pass
    limits = "a finite number" if least else "a finite number of 0 or more"
    raise ConfigurationError(f"{shown(name)} takes {limits}, not {shown(value)}")


def duration(name: str, seconds: float, unit: str = " seconds") -> float:
    """Return a duration in seconds as an int or a float; raises ConfigurationError otherwise."""
    checked = number(name, seconds, 0)
    if checked > LONGEST_DURATION:
        raise ConfigurationError(f"{shown(name)} takes at most 1e15{unit}, not {shown(seconds)}")
    return checked


def durations(name: str, several: Iterable[float]) -> Sequence[float]:
    """Return several durations, each checked as by `duration`."""
    if several.__class__ is not list:
        raise not_several(name, several)
    return [
        each if each.__class__ is float and 0 <= each <= LONGEST_DURATION else duration(name, each)
        for each in several
    ]


def not_several(name: str, value: object) -> ConfigurationError:
    """Return the error that a batch gives one value where several belong."""
    return ConfigurationError(
        f"{shown(name)} takes several durations in a batch, not {shown(value)}"
    )


def as_lists(durations: Mapping[str, Iterable[float]]) -> Mapping[str, Iterable[float]]:
    """Return several durations for each name as lists; what cannot be one stays as it is."""
    pairs = items("durations", durations)
    for _, several in pairs:
        if several.__class__ is not list:
            return {
                name: list(each) if isinstance(each, Iterable) else each for name, each in pairs
            }
    return durations


def items(what: str, by_name: Mapping[str, T]) -> ItemsView[str, T]:
    """Return the items of a mapping; raises ConfigurationError for anything else."""
    if by_name.__class__ is not dict and not isinstance(by_name, Mapping):
        raise ConfigurationError(
            f"the {what} of a batch are a dict by name, such as {{'a': 1}}, not {shown(by_name)}"
        )
    return by_name.items()
