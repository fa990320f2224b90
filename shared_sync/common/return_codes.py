"""The return codes of programs that an error tells of, because they have failed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from contextlib import suppress
from typing import Final

_LONGEST_CHAIN: Final = 100


def return_codes(error: BaseException) -> Iterator[int]:
    """Yield the return codes of child processes that an error and its causes have.

    A broken executor has lost one of its processes, whose code it does not know. An error that came
    out of another process has the codes that were found there, as `return_codes`.
    """
    seen: set[int] = set()
    to_visit: list[BaseException | None] = [error]
    while to_visit and len(seen) < _LONGEST_CHAIN:
        one = to_visit.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        for name in ("returncode", "return_codes"):
            with suppress(Exception):  # an attribute of the user's error may raise
                found = getattr(one, name, None)
                codes = found if isinstance(found, tuple) else (found,)
                yield from [int(code) for code in codes if isinstance(code, int)]
        if isinstance(one, BrokenExecutor):
            yield -signal.SIGTERM
        to_visit += (one.__cause__, one.__context__)
