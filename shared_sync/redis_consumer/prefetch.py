"""How many messages a reader fetches at a time."""

from __future__ import annotations

from typing import Final, Literal

WORK_SECONDS: Final = 0.05
"""About how much work one automatic read fetches."""

MOST: Final = 100
"""Most messages that one automatic read fetches."""

Setting = int | Literal["auto"]


class Prefetch:
    """The size of one reader's reads: fixed, or by how long its jobs took. For the reader's thread.

    Automatic sizes begin at 1 and at most double from one read to the next. A job that takes longer
    than `WORK_SECONDS` sets the size back to 1.
    """

    def __init__(self, setting: Setting) -> None:
        self._is_automatic = setting == "auto"
        self.size = 1 if setting == "auto" else setting

    def learn(self, *, jobs: int, seconds: float, longest_seconds: float) -> None:
        """Adapt the size to how long the jobs of a read took, in all and the longest."""
        if not self._is_automatic or jobs == 0:
            return
        if longest_seconds >= WORK_SECONDS:
            self.size = 1
        else:
            fitting = int(WORK_SECONDS * jobs / seconds) if seconds > 0 else MOST
            self.size = max(1, min(2 * self.size, fitting, MOST))


def most(setting: Setting) -> int:
    """Return the largest size that a setting leads to."""
    return MOST if setting == "auto" else setting
