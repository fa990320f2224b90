"""How many messages a reader fetches at a time."""

from __future__ import annotations

from typing import Final, Literal

WORK_SECONDS: Final = 0.05
"""About how much work one automatic read fetches."""

READ_BYTES: Final = 512 * 1024
"""About how many bytes of messages one automatic read fetches: beyond some 640 KB a reply takes
twice as long for each byte, as memory for it is no longer reused."""

MOST: Final = 100
"""Most messages that one automatic read fetches."""

Setting = int | Literal["auto"]


class Prefetch:
    """The size of one reader's reads. For the reader's thread.

    It is fixed, or follows how long jobs take and how large messages are. Automatic sizes begin at
    1 and at most double from one read to the next. A job that takes longer than `WORK_SECONDS` sets
    the size back to 1.
    """

    def __init__(self, setting: Setting) -> None:
        self._is_automatic = setting == "auto"
        self.size = 1 if setting == "auto" else setting

    def learn(
        self, *, jobs: int, seconds: float, longest_seconds: float, message_bytes: int = 0
    ) -> None:
        """Adapt the size to the jobs of a read: how long they took, in all and the longest.

        `message_bytes` is the size of one of the messages, the newest.
        """
        if not self._is_automatic or jobs == 0:
            return
        if longest_seconds >= WORK_SECONDS:
            self.size = 1
        else:
            by_work = int(WORK_SECONDS * jobs / seconds) if seconds > 0 else MOST
            by_bytes = READ_BYTES // message_bytes if message_bytes else MOST
            self.size = max(1, min(2 * self.size, by_work, by_bytes, MOST))


def most(setting: Setting) -> int:
    """Return the largest size that a setting leads to."""
    return MOST if setting == "auto" else setting
