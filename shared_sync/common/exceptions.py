"""What an exception says: its causes, types, text and traceback, whatever its methods do."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

LONGEST_CHAIN: Final = 100
"""How many causes of an error are looked at."""


def chain_of(error: BaseException) -> Sequence[BaseException]:
    """Return an error, and those that it was raised from or while they were handled.

    What `raise ... from None` has cut off is left out.
    """
    chain, seen = [error], {id(error)}
    while len(chain) < LONGEST_CHAIN:
        one = chain[-1]
        before = one.__cause__
        if before is None and not one.__suppress_context__:
            before = one.__context__
        if before is None or id(before) in seen:
            break
        chain.append(before)
        seen.add(id(before))
    return chain


def text_of(error: BaseException) -> str:
    """Return the text of an error. Never raises."""
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 - an error whose text fails is still an error
        return "(its text cannot be read)"


def traceback_of(error: BaseException) -> str:
    """Return the traceback of an error and its causes as text; empty if it cannot be formatted."""
    try:
        return "".join(traceback.format_exception(error))
    except BaseException:  # noqa: BLE001 - as above
        return ""


def name_of(kind: type) -> str:
    """Return the name of a type behind its module, unless that is `builtins`."""
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _names_of(kind: type) -> tuple[str, ...]:
    return tuple(name_of(base) for base in kind.__mro__)


names_of: Final[Callable[[type], tuple[str, ...]]] = lru_cache(maxsize=1000)(_names_of)
"""Returns the names of a type and of its base types, nearest first. Kept: many errors have few
types."""
