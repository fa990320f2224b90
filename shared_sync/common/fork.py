"""What a forked process must not share with its parent: a copy of its own, made at first use or at
the fork.

A fork copies memory, but of all threads only the one that forked. What another thread was changing
stays half changed in the copy, and a lock that it held stays locked for ever. So locks, and what
background threads write, belong into a `PerProcess`, or are renewed by `renew_in_forks` where a
look-up at each use would cost too much.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """Makes one T in each process, at the first `get` there. Any thread may call.

    There is no lock in here, as a fork would copy it locked. Two threads that come first at the
    same time may make two, of which one is dropped, so `make` must have no side effects.
    """

    __slots__ = ("_made", "_make")

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make  # fixed after construction
        self._made: dict[int, T] = {}  # by process id; only setdefault changes it, which is atomic

    def get(self) -> T:
        """Return the T of this process."""
        process = os.getpid()
        made = self._made.get(process)
        return self._made.setdefault(process, self._make()) if made is None else made


_renewals: weakref.WeakKeyDictionary[Any, Callable[[Any], None]] = weakref.WeakKeyDictionary()


def renew_in_forks(owner: T, renew: Callable[[T], None]) -> None:
    """Call `renew(owner)` in each process forked from now on, before anything else runs there.

    `renew` replaces the locks of the owner, which the parent's threads may hold; it must neither
    block nor raise. The owner is held weakly, so `renew` must not refer to it. Any thread may call.
    """
    _renewals[owner] = renew


class HasLock(Protocol):
    """An object with one re-entrant lock."""

    _lock: threading.RLock


def renew_lock_in_forks(owner: HasLock) -> None:
    """Replace the lock of an object in each process forked from now on. Any thread may call."""
    renew_in_forks(owner, _renew_lock)


def _renew_lock(owner: HasLock) -> None:
    owner._lock = threading.RLock()


def _renew_all() -> None:
    for owner, renew in list(_renewals.items()):
        renew(owner)


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_renew_all)
