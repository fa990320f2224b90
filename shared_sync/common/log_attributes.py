"""What the log records of a thread are about: the message that it runs, and for whom.

Each thread has a function that returns these attributes, or none. It is called when a record is
written, so that a message costs nothing as long as nothing is logged.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Final, ParamSpec, TypeVar

Attributes = Mapping[str, object]
Source = Callable[[], Attributes]
"""Returns the attributes of the records of one thread. Must not raise."""

P = ParamSpec("P")
T = TypeVar("T")

_NONE: Final[Attributes] = {}


class _Here(threading.local):
    source: Source | None = None


class _Everywhere:
    """What holds for threads that have no source of their own."""

    source: Source | None = None  # written once, before the threads of the program start


_here: Final = _Here()
_everywhere: Final = _Everywhere()


def set_source(source: Source, *, everywhere: bool = False) -> None:
    """Let the records of the calling thread have what `source` returns.

    `everywhere` also does so for all threads without a source: in a child process, which runs one
    job at a time.
    """
    _here.source = source
    if everywhere:
        _everywhere.source = source


def attributes() -> Attributes:
    """Return the attributes that a record of the calling thread has now."""
    source = _here.source or _everywhere.source
    return _NONE if source is None else source()


@contextmanager
def about(**more: object) -> Iterator[None]:
    """Add attributes to the records of the calling thread, within the block."""
    before = _here.source
    fixed = {**attributes(), **more}
    _here.source = lambda: fixed
    try:
        yield
    finally:
        _here.source = before


def carried(function: Callable[P, T]) -> Callable[P, T]:
    """Return the function so that it runs in another thread as it would in this one.

    Its records have the attributes of now, and its context variables the values of now. Each call
    has a copy of them, so several may run at the same time.
    """
    fixed = dict(attributes())
    context = contextvars.copy_context()

    @wraps(function)
    def run(*args: P.args, **options: P.kwargs) -> T:
        before = _here.source
        _here.source = lambda: fixed
        try:
            return context.copy().run(function, *args, **options)
        finally:
            _here.source = before

    return run
