"""What each process has one of: a fork does not go on with its parent's, but begins anew."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """Makes a T for each process that asks, once. Any thread may ask.

    A fork copies memory but no threads: what these were about to change stays half done, and a
    lock they held stays locked for ever. So locks and what threads write belong in here. There is
    no lock in here itself, for the same reason; two threads that come first may make two of which
    one is dropped, so `make` must have no effects.
    """

    __slots__ = ("_made", "_make")

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make  # fixed after construction
        self._made: dict[int, T] = {}  # by process id; only added to, by setdefault, which is whole

    def get(self) -> T:
        """Return this process's own."""
        process = os.getpid()
        made = self._made.get(process)
        return self._made.setdefault(process, self._make()) if made is None else made
