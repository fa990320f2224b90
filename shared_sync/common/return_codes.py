"""The return codes of programs that an error tells of, because they have failed."""

from __future__ import annotations

import signal
from concurrent.futures import BrokenExecutor

from shared_sync.common.exceptions import LONGEST_CHAIN


def return_codes(error: BaseException) -> set[int]:
    """Return the return codes of child processes that an error and its causes have.

    A broken executor has lost one of its processes, whose code it does not know. An error that came
    out of another process has the codes that were found there, as `return_codes`.
    """
    codes: set[int] = set()
    seen: set[int] = set()
    to_visit = [error]
    while to_visit and len(seen) < LONGEST_CHAIN:
        one = to_visit.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        _add_own_codes(codes, one)
        to_visit += [before for before in (one.__cause__, one.__context__) if before is not None]
    return codes


def _add_own_codes(codes: set[int], error: BaseException) -> None:
    for name in ("returncode", "return_codes"):
        try:
            found = getattr(error, name, None)
            if found is not None:  # most errors have none, and there may be many failures
                several = found if isinstance(found, tuple) else (found,)
                codes.update([int(code) for code in several if isinstance(code, int)])
        except Exception:  # noqa: BLE001, S112 - an attribute of the user's error may raise
            continue
    if isinstance(error, BrokenExecutor):
        codes.add(-signal.SIGTERM)
