"""Whether this process is a child that imports the program: it must not start another consumer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from shared_sync.errors import ConsumerStateError

_imports_program = False
"""Written by the main thread of a child."""


@contextmanager
def importing_program() -> Iterator[None]:
    """In a child: refuse to start consumers within this block."""
    global _imports_program  # noqa: PLW0603 - what is true of a whole process
    _imports_program = True
    try:
        yield
    finally:
        _imports_program = False


def check_may_start() -> None:
    """Raise `ConsumerStateError` in a child that still loads its processor."""
    if _imports_program:
        raise ConsumerStateError(
            'a child process (isolation="process") imports the module of the processor, and that '
            "module starts a consumer when it is imported; put the start below "
            'if __name__ == "__main__":'
        )
