"""Finds errors of a processor that are no fault of its message: its worker is broken."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import lru_cache
from typing import Final

from shared_sync.common.passages import chain_of
from shared_sync.errors import WorkerBroken
from shared_sync.isolation.errors import RemoteError
from shared_sync.redis_consumer.faults import device_faults


class FatalErrors:
    """Which errors say so. Any thread may call any method; fixed after construction.

    `WorkerBroken` does, the types that the user names, and known faults of devices. So does an
    error that was raised from one of these, or while one was handled: a processor may wrap them.
    """

    def __init__(self, named: Collection[type[BaseException] | str] = ()) -> None:
        """`named` are types, or names of types: `AcceleratorError` or `torch.AcceleratorError`."""
        self._named = frozenset(one if isinstance(one, str) else _name_of(one) for one in named)

    def find(self, error: BaseException) -> BaseException | None:
        """Return the error that says so: this one or one that led to it. None if there is none."""
        for one in chain_of(error):
            if self._is_fatal(one):
                return one
        return None

    def _is_fatal(self, error: BaseException) -> bool:
        if isinstance(error, WorkerBroken):
            return True
        if isinstance(error, RemoteError):
            names = tuple(error.base_names)
        else:
            names = _names_of(type(error))
        if self._named and any(_is_named(name, self._named) for name in names):
            return True
        return device_faults.is_known(names, _text_of(error))


def _is_named(name: str, named: Collection[str]) -> bool:
    """Return whether a type is among those named, with its module, a part of that, or without."""
    while name not in named:
        _, dot, name = name.partition(".")
        if not dot:
            return False
    return True


def _find_names(kind: type) -> tuple[str, ...]:
    return tuple(_name_of(one) for one in kind.__mro__)


_names_of: Final[Callable[[type], tuple[str, ...]]] = lru_cache(maxsize=1000)(_find_names)
"""Returns the names of a type and of its base types. Kept: many errors have few types."""


def _name_of(kind: type) -> str:
    """Return the name of a type behind its module, as a `RemoteError` has it."""
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - the text of a user's error may fail
        return ""
