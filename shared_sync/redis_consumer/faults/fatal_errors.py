"""Finds errors of a processor that are no fault of its message: its worker is broken."""

from __future__ import annotations

from collections.abc import Collection

from shared_sync.common.exceptions import chain_of, name_of, names_of, text_of
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
        self._named = frozenset(one if isinstance(one, str) else name_of(one) for one in named)

    def find(self, error: BaseException) -> BaseException | None:
        """Return the error that says so: this one or one that led to it. None if there is none."""
        for one in chain_of(error):
            if self._is_fatal(one):
                return one
        return None

    def _is_fatal(self, error: BaseException) -> bool:
        if isinstance(error, WorkerBroken):
            return True
        names = names_of(type(error))
        if isinstance(error, RemoteError):
            names = error.base_names
        if self._named and any(_is_named(name, self._named) for name in names):
            return True
        return device_faults.is_known(names, text_of(error))


def _is_named(name: str, named: Collection[str]) -> bool:
    """Return whether a type is among those named, with its module, a part of that, or without."""
    while name not in named:
        _, dot, name = name.partition(".")
        if not dot:
            return False
    return True
