"""Through which circuit breakers an error has come: noted on the error itself, so that it stays
with it through threads, causes and other processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

_ATTRIBUTE: Final = "_circuit_breakers"


@dataclass(frozen=True, slots=True)
class Passage:
    """That a circuit breaker has refused a call with this error, or counted it as a failure."""

    name: str
    breaker: Any = None
    """The breaker; None if the error comes from another process."""

    def __reduce__(self) -> tuple[object, ...]:
        return Passage, (self.name,)


def add_passage(error: BaseException, passage: Passage) -> None:
    """Note a passage on an error, once."""
    passages = error.__dict__.get(_ATTRIBUTE, ())
    if passage not in passages:
        error.__dict__[_ATTRIBUTE] = (*passages, passage)


def passages_of(error: BaseException) -> Sequence[Passage]:
    """Return the passages of an error, without those of its causes."""
    found: Sequence[Passage] = error.__dict__.get(_ATTRIBUTE, ())
    return found
