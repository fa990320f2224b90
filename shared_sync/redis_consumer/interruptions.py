"""Finds failures that stopping has caused: the signal to end reached other programs, too."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable
from typing import Final

from shared_sync.common.return_codes import return_codes
from shared_sync.errors import Reject
from shared_sync.isolation.errors import ChildCrashed
from shared_sync.redis_consumer.slot import Attempt

MOMENT_SECONDS: Final = 2.0
"""A failure so soon after the drain began counts as caused by it."""

WAIT_SECONDS: Final = 0.25
"""How long a failure that the signal may have caused waits for the drain to begin."""

WAITED_SHARE: Final = 0.1
"""Any other failure waits for the drain for this share of its attempt's time, at most."""

SHORTEST_WAIT_SECONDS: Final = 0.001
"""A wait that would be shorter is none: messages that fail at once may be many."""

_SIGHUP: Final = 1  # Windows has neither these signals nor their names
_SIGKILL: Final = 9
_ASKED_TO_END: Final = (_SIGHUP, signal.SIGINT, signal.SIGTERM)
_CODES_OF_ASKED: Final = frozenset(
    {
        *(-number for number in _ASKED_TO_END),
        *(128 + number for number in _ASKED_TO_END),
        255,  # ffmpeg's, after any of them
    }
)
_HIGHEST_SIGNAL: Final = 31  # ffmpeg has codes of its own above 128 + 31, such as for bad input


class Interruptions:
    """Decides whether a failed attempt was only interrupted. Any thread may call any method.

    Ctrl-C, systemd and process managers send their signal to a whole process group. A program that
    the processor waits for may be ended by it before this process drains. Without this class each
    deploy would charge such messages with a failure.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock  # fixed after construction
        # Written once, by whoever begins the drain.
        self._drain_began_at = math.inf
        self._moment_seconds = MOMENT_SECONDS
        self._drains = threading.Event()

    def drain_begins(self) -> None:
        """Note that somebody outside of the processor has asked the consumer to stop."""
        if not self._drains.is_set():
            self._drain_began_at = self._clock()
            self._drains.set()

    def process_ends(self) -> None:
        """Note that the interpreter exits: processors cannot start threads any more, for example.

        From now on every failure but a `Reject` counts as caused by that.
        """
        self._moment_seconds = math.inf
        self.drain_begins()

    def was_interrupted(
        self, error: BaseException, attempt: Attempt, *, may_wait: bool = True
    ) -> bool:
        """Return whether an attempt failed with this error because the consumer stops.

        That is so if a program that the processor waited for was ended by a signal while the
        consumer drains, and for any error within a moment of the drain's beginning, except for a
        `Reject` that does not come of a program that was asked to end. If it may wait, it blocks
        for a moment, since the program may have received the signal first.
        """
        codes = _codes_of(error)
        if isinstance(error, Reject) and not codes:
            return False
        if not self._drains.is_set():
            seconds = _wait_seconds(codes, attempt) if may_wait else 0.0
            if seconds < SHORTEST_WAIT_SECONDS or not self._drains.wait(seconds):
                return False
        if any(_is_of_a_signal(code) for code in codes):
            return True
        if isinstance(error, Reject) and _CODES_OF_ASKED.isdisjoint(codes):
            return False
        return attempt.ended_at <= self._drain_began_at + self._moment_seconds


def _codes_of(error: BaseException) -> set[int]:
    """Return the return codes of programs that an error tells of.

    The child that has run the processor counts as one of them if somebody ended it, and not if it
    crashed by itself.
    """
    if isinstance(error, ChildCrashed):
        number = error.signal_number
        return {-number} if number in (*_ASKED_TO_END, _SIGKILL) else set()
    return return_codes(error)


def _wait_seconds(codes: set[int], attempt: Attempt) -> float:
    if not _CODES_OF_ASKED.isdisjoint(codes):
        return WAIT_SECONDS
    return min(WAIT_SECONDS, WAITED_SHARE * (attempt.ended_at - attempt.started_at))


def _is_of_a_signal(code: int) -> bool:
    """Return whether a program that returned this code, or one of its shell, died of a signal."""
    return code < 0 or 128 < code <= 128 + _HIGHEST_SIGNAL
