"""Through which circuit breakers an error has come: noted on the error itself, so that it stays
with it through threads, causes and other processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

_ATTRIBUTE: Final = "_circuit_breakers"
_LONGEST_CHAIN: Final = 100


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


def chain_of(error: BaseException) -> Sequence[BaseException]:
    """Return an error, and those that it was raised from or while they were handled.

    What `raise ... from None` has cut off is left out.
    """
    chain, seen = [error], {id(error)}
    while len(chain) < _LONGEST_CHAIN:
        one = chain[-1]
        before = one.__cause__
        if before is None and not one.__suppress_context__:
            before = one.__context__
        if before is None or id(before) in seen:
            break
        chain.append(before)
        seen.add(id(before))
    return chain
