"""The log of the HTTP layer, limited so that clients cannot fill it."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from shared_sync.common.guarded import GuardedLogger, Logger

PERIOD_SECONDS: Final = 60.0
"""Time after which lines of a kind are counted anew."""


class HttpLog(GuardedLogger):
    """Logs the 1st, 10th, 100th ... line of a kind within a period, and drops the others.

    Waitress and Flask write a line for each client that misbehaves, so a flood of such clients is a
    flood of lines. Lines of one level that begin with the same two words are of one kind: what
    follows is the path of the request, as the client has sent it. Line breaks in it are escaped.

    Any thread may call any method. Two threads that log at the same moment may count as one.
    """

    def __init__(self, logger: Logger, clock: Callable[[], float] = monotonic) -> None:
        super().__init__(logger)
        self._clock = clock
        # For each kind, when its first line came and how many came since; each replaced as a whole.
        self._kinds: dict[tuple[int, str], tuple[float, int]] = {}

    def log(self, level: int, msg: object, *args: object, **options: Any) -> None:
        """Log the line, unless there were many like it."""
        text = str(msg).encode("unicode_escape").decode()
        kind = (level, " ".join(text.split(maxsplit=2)[:2]))
        now = self._clock()
        since, count = self._kinds.get(kind, (now, 0))
        if now - since >= PERIOD_SECONDS:
            since, count = now, 0
        count += 1
        self._kinds[kind] = (since, count)
        if str(count).strip("0") != "1":
            return
        if count > 1:
            text += f" ({count} lines like this in {now - since:.0f} s, of which few are logged)"
        super().log(level, text, *args, **options)
