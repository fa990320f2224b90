"""Deletes results and dead letters beyond the limits of their number and age, in steps."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from shared_sync.common.guarded import Logger, Recorder
from shared_sync.common.log_once import LogOnce
from shared_sync.connection import driver_errors, scripts
from shared_sync.connection.connection import Connection
from shared_sync.connection.scripts import Command
from shared_sync.errors import RedisAccessDenied, RedisRefused
from shared_sync.protocol.keys import Keys

RETENTION_SECONDS: Final = 10.0
"""Time between two rounds through all streams."""

RESULTS_IN_A_STEP: Final = 1000
LETTERS_IN_A_STEP: Final = 100
"""A dead letter may have megabytes, which take a millisecond to free."""

STREAMS_IN_A_STEP: Final = 20

MOST_STREAMS: Final = 10_000
"""Most streams of results that are remembered; beyond that the oldest is forgotten."""

ROUNDS_UNTIL_FORGOTTEN: Final = 2
"""Rounds without a result for a stream after which it is forgotten if it does not exist. In an
earlier round the result may still be on its way."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the entries of a stream. None for no limit."""

    max_entries: int | None = None
    ttl_seconds: float | None = None

    @property
    def are_set(self) -> bool:
        """Whether there is a limit."""
        return self.max_entries is not None or self.ttl_seconds is not None

    def trim(self, *keys: str, step: int, removes_empty: bool = False) -> Command:
        """Return the command that deletes some entries; for dead letters, `keys` has their index.

        With `removes_empty` a stream without entries and groups is removed.
        """
        ttl_ms = "" if self.ttl_seconds is None else round(self.ttl_seconds * 1000)
        most = "" if self.max_entries is None else self.max_entries
        return scripts.call("trim", keys, most, ttl_ms, step, "1" if removes_empty else "")


class ResultStreams:
    """The streams to which a process has sent results. Any thread may call any method."""

    def __init__(self, fixed: str | None = None) -> None:
        """`fixed` is the stream of a consumer whose results all go to the same stream."""
        # Fixed after construction.
        self.fixed = fixed
        # Each step on the dictionary is atomic.
        self._rounds: dict[str, int] = {}
        """By stream: the rounds since a result was sent there."""

    def note(self, stream: str) -> None:
        """Remember a stream to which a result is sent."""
        rounds = self._rounds
        if stream not in rounds and len(rounds) >= MOST_STREAMS:
            rounds.pop(next(iter(rounds.copy())), None)
        rounds[stream] = 0

    def begin_round(self) -> list[str]:
        """Return the streams that this round visits."""
        streams = list(self._rounds.copy())
        for stream in streams:
            self._rounds[stream] = self._rounds.get(stream, 0) + 1
        return streams if self.fixed is None else [self.fixed, *streams]

    def gone(self, stream: str) -> None:
        """Forget a stream that does not exist, unless a result may be on its way there."""
        if self._rounds.get(stream, 0) >= ROUNDS_UNTIL_FORGOTTEN:
            self._rounds.pop(stream, None)


class Retention:
    """Limits the results and the dead letters of a group. For one thread."""

    def __init__(
        self,
        keys: Keys,
        *,
        results: Limits,
        letters: Limits,
        result_streams: ResultStreams,
        recorder: Recorder,
        logger: Logger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Fixed after construction.
        self._keys = keys
        self._results = results
        self._letters = letters
        self._result_streams = result_streams
        self._recorder = recorder
        self._clock = clock
        self._log_refusal = LogOnce(logger, logging.WARNING)
        # Owned by the thread.
        self._next_round = clock()
        self._waiting: deque[str] = deque()
        """Streams that this round has not finished."""
        self._is_denied = False

    @property
    def is_busy(self) -> bool:
        """Whether there is more to do at once."""
        return bool(self._waiting)

    def check(self, connection: Connection) -> None:
        """Make a step if a round is due or in progress. Blocks and raises as `call_all()`."""
        if not self._waiting:
            if self._is_denied or self._clock() < self._next_round:
                return
            self._begin_round()
        streams = [
            self._waiting.popleft() for _ in range(min(len(self._waiting), STREAMS_IN_A_STEP))
        ]
        if not streams:
            return
        for stream, reply in zip(
            streams, connection.call_all(*map(self._command, streams)), strict=True
        ):
            if isinstance(reply, RedisRefused):
                self._refused(reply)
            else:
                self._trimmed(stream, *reply)

    def _begin_round(self) -> None:
        self._next_round = self._clock() + RETENTION_SECONDS
        if self._letters.are_set:
            self._waiting.append(self._keys.dead)
        if self._results.are_set:
            self._waiting += self._result_streams.begin_round()

    def _command(self, stream: str) -> Command:
        if stream == self._keys.dead:
            return self._letters.trim(stream, self._keys.dead_index, step=LETTERS_IN_A_STEP)
        is_one_of_many = stream != self._result_streams.fixed
        return self._results.trim(stream, step=RESULTS_IN_A_STEP, removes_empty=is_one_of_many)

    def _trimmed(self, stream: str, deleted: int, is_gone: int, refused: bytes) -> None:
        if refusal := driver_errors.refusal(refused):
            self._refused(refusal)
        if is_gone:
            self._result_streams.gone(stream)
        if deleted:
            are_letters = stream == self._keys.dead
            if are_letters:
                self._recorder.increment_counter("dead_letters_trimmed", deleted)
            else:
                self._recorder.increment_counter("results_trimmed", deleted)
            self._waiting.append(stream)

    def _refused(self, refusal: Exception) -> None:
        if isinstance(refusal, RedisAccessDenied) and "unlink" not in str(refusal).lower():
            self._is_denied = True
            self._waiting.clear()
        self._log_refusal(
            "results or dead letters are not limited as this consumer's options say: %s; this user "
            "needs +xtrim, and +unlink for results of a template, on these streams. This is logged "
            "once",
            refusal,
        )
