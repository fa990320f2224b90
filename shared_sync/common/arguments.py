"""Checks of arguments: each error names the argument, what it may be, and what it was."""

from __future__ import annotations

import inspect
import math
import os
import re
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

from shared_sync.errors import ConfigurationError

_DIGITS = re.compile("[0-9]{1,5}")
_SERVICE_ADDRESS = re.compile("(?:^|(?<=:))(tcp|udp|sctp)://")


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


def logger(name: str, value: object) -> None:
    """Raise ConfigurationError unless `value` is a logger, an adapter of one, or None."""
    if value is not None:
        methods(
            name,
            value,
            ("log", "isEnabledFor"),
            'a logging.Logger, such as getLogger("stt"), or None',
        )


def methods(name: str, value: object, wanted: Sequence[str], kind: str) -> None:
    """Raise ConfigurationError unless `value` has these methods; `kind` says what it may be."""
    if isinstance(value, type) or not all(callable(getattr(value, one, None)) for one in wanted):
        raise ConfigurationError(f"{name} must be {kind}, not {value!r}")


def only_promises(function: object) -> bool:
    """Return whether calling a function does nothing yet: an async function or a generator."""
    called: Any = function
    while isinstance(called, partial):
        called = called.func
    return any(
        inspect.iscoroutinefunction(one)
        or inspect.isgeneratorfunction(one)
        or inspect.isasyncgenfunction(one)
        for one in (called, type(called).__call__)
    )


def port(name: str, value: object, lowest: int = 0) -> int:
    """Return the number of a port, given as an int or as digits in a text.

    Raises ConfigurationError for anything else. The error says so if it is an address that
    Kubernetes has put into an environment variable.
    """
    number = int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else value
    if isinstance(number, int) and not isinstance(number, bool) and lowest <= number <= 65535:
        return number
    raise ConfigurationError(
        f"{name} must be an int from {lowest} to 65535, not {value!r}{cause_of_address(value)}"
    )


def cause_of_address(value: object) -> str:
    """Return why a port is an address such as `tcp://10.0.0.1:80`, and the remedy; else nothing.

    Kubernetes sets variables to such addresses. `value` may have one in it.
    """
    if not isinstance(value, str) or not _SERVICE_ADDRESS.search(value):
        return ""
    variables = [
        one
        for one, address in os.environ.items()
        if one.endswith("_PORT") and _SERVICE_ADDRESS.match(address) and address in value
    ]
    named = " and ".join(variables) or "a variable"
    return (
        f": Kubernetes sets {named} to the address of the Service of that name. Rename the Service "
        "or your variable, or set enableServiceLinks: false in the pod"
    )


def _is_number(
    value: object, kinds: tuple[type[int] | type[float], ...], lowest: float, highest: float
) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool) and lowest <= value <= highest


def _span(lowest: float, highest: float) -> str:
    return f"of at least {lowest}" if highest == math.inf else f"from {lowest} to {highest}"
