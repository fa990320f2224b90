"""Through which circuit breakers an error has come: noted on the error itself, so that it stays
with it through threads, causes and other processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and those that it was raised from or while they were handled.

    What `raise ... from None` has cut off is left out.
    """
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen and len(seen) < _LONGEST_CHAIN:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
