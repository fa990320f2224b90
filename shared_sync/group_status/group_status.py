"""Reads a group again and again, and says how it is."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from shared_sync.common.guarded import GuardedRecorder, Logger, Recorder
from shared_sync.connection.connection import Connection
from shared_sync.errors import RedisUnavailable
from shared_sync.group_status import problems
from shared_sync.group_status.consumers import consumers_of
from shared_sync.group_status.history import SAMPLE_SECONDS, History
from shared_sync.group_status.limits import Limits
from shared_sync.group_status.status import Status
from shared_sync.protocol import group_reading
from shared_sync.protocol.group_reading import GroupReading
from shared_sync.protocol.hazards import Hazards
from shared_sync.protocol.keys import Keys

SURVEY_SECONDS: Final = 5.0
"""Between two surveys, for which the server reads two or three whole messages."""

RETURN_SECONDS: Final = 3.0
"""After an outage of Redis: how long consumers may take until their heartbeats come again."""

_SILENT: Final = logging.Logger("shared_sync.group_status", logging.CRITICAL + 1)
"""Logs nothing: consumers log the same hazards themselves."""


class GroupStatus:
    """Remembers what was read of a group, and says how it is. Any thread may call any method."""

    def __init__(
        self,
        keys: Keys,
        *,
        limits: Limits = Limits(),  # noqa: B008 - it is frozen
        survey_seconds: float = SURVEY_SECONDS,
        sample_seconds: float = SAMPLE_SECONDS,
        is_short: bool = False,
        recorder: Recorder | None = None,
        logger: Logger = _SILENT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`is_short` says that the group is read for some seconds only; see `History`.

        `recorder` counts messages that were deleted unread, and `logger` says what is found.
        """
        # Fixed after construction.
        self._keys = keys
        self._limits = limits
        self._clock = clock
        # Guarded by the lock, which is held while Redis is asked.
        self._lock = threading.Lock()
        self._is_away = False
        self._back_at = -math.inf
        """When Redis answered again after an outage."""
        self._history = History(
            limits, sample_seconds=sample_seconds, is_short=is_short, clock=clock
        )
        self._hazards = Hazards(
            keys,
            period_seconds=survey_seconds,
            recorder=GuardedRecorder(recorder, logger),
            logger=logger,
            clock=clock,
        )

    def read(self, connection: Connection) -> Status:
        """Return how the group is now. Blocks and raises as the connection does.

        One round trip, and a few more every `survey_seconds`.
        """
        with self._lock:
            reading = self._read(connection)
            if reading.group_exists:
                self._hazards.check(connection)
            survey = self._hazards.survey
            self._history.note(reading, survey)
            consumers = consumers_of(reading)
            found = problems.find(
                self._keys,
                self._limits,
                reading,
                survey,
                consumers,
                self._history,
                self._hazards.found,
                is_just_back=self._clock() - self._back_at < RETURN_SECONDS,
            )
            return Status(self._keys, reading, survey, self._history.rates(), consumers, found)

    def _read(self, connection: Connection) -> GroupReading:
        try:
            reading = group_reading.read(connection, self._keys)
        except RedisUnavailable:
            self._is_away = True
            raise
        if self._is_away:
            self._is_away, self._back_at = False, self._clock()
        return reading

    def read_json(self, connection: Connection) -> dict[str, Any]:
        """Return how the group is now, as a page shows it."""
        return self.read(connection).to_json()
