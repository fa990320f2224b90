"""Checks now and then for what takes messages away from a group, or hides them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from shared_sync.common.guarded import Logger, Recorder
from shared_sync.connection.connection import Connection
from shared_sync.protocol.held_back import HeldBack, HeldBackSearch
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.survey import Survey, Surveyor

EVICTING_POLICY: Final = "evicting_policy"
BEGAN_LATE: Final = "began_late"
UNREAD_DELETED: Final = "unread_deleted"
GROUP_HOLDS_BACK: Final = "group_holds_back"
"""The kinds of hazards."""

REPORT_SECONDS: Final = 600.0
"""How long health reports that unread messages were deleted."""


@dataclass(frozen=True, slots=True)
class Hazard:
    """Something that takes messages away from a group, or hides them, in words without secrets."""

    name: str
    """What kind it is; it stays the same."""
    text: str
    remedy: str

    @property
    def reason(self) -> str:
        """The text with the remedy."""
        return f"{self.text}; {self.remedy}"


class Hazards:
    """Finds hazards. `check()` belongs to one thread; any thread may read what it has found."""

    def __init__(
        self,
        keys: Keys,
        *,
        period_seconds: float,
        recorder: Recorder,
        logger: Logger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Fixed after construction.
        self._keys = keys
        self._period_seconds = period_seconds
        self._recorder = recorder
        self._logger = logger
        self._clock = clock
        # Owned by the thread that checks.
        self._surveyor = Surveyor(keys, logger)
        self._held_back_search = HeldBackSearch(keys)
        self._known: frozenset[str] = frozenset()
        self._next_survey = clock()
        self._most_deleted_unread: int | None = None
        self._deleted_at: float | None = None
        # Replaced by the thread that checks, each as a whole.
        self.survey = Survey()
        """The newest survey; an empty one before the first."""
        self.held_back: Sequence[HeldBack] = ()
        """The groups that hold entries back."""
        self.found: Sequence[Hazard] = ()
        """What is wrong."""

    @property
    def reasons(self) -> list[str]:
        """What is wrong, each with its remedy, in words without secrets."""
        return [hazard.reason for hazard in self.found]

    def check(self, connection: Connection) -> None:
        """Take a survey if one is due, and log each reason when it begins.

        Blocks and raises as the connection does.
        """
        now = self._clock()
        if now < self._next_survey:
            return
        self.survey = self._surveyor.take(connection)
        self._next_survey = now + self._period_seconds
        self._count_deleted(self.survey.deleted_unread, now)
        self.held_back = self._held_back_search.search(connection)
        found = dict(self._find(now))
        for subject, hazard in found.items():
            if subject not in self._known:
                self._logger.warning("%s", hazard.reason)
        self._known = frozenset(found)
        self.found = list(found.values())

    def _count_deleted(self, deleted_unread: int, now: float) -> None:
        """Count messages that were deleted since the last survey, and before anybody read them."""
        most = self._most_deleted_unread
        if most is not None and deleted_unread > most:
            self._recorder.increment_counter("messages_deleted_unread", deleted_unread - most)
            self._deleted_at = now
        self._most_deleted_unread = max(deleted_unread, most or 0)

    def _find(self, now: float) -> Iterator[tuple[str, Hazard]]:
        """Return what is wrong: what it is about, which stays the same while it lasts, and it."""
        stream, group, found = self._keys.stream, self._keys.group, self.survey
        if found.evicting_policy:
            yield (
                EVICTING_POLICY,
                Hazard(
                    EVICTING_POLICY,
                    "Redis may evict keys and so lose messages: its maxmemory-policy is "
                    f"{found.evicting_policy}",
                    "set it to noeviction",
                ),
            )
        if found.skipped_id:
            yield (
                BEGAN_LATE,
                Hazard(
                    BEGAN_LATE,
                    f"no group is going to read entry {found.skipped_id}, the first of stream "
                    f"{stream}: group {group} was created behind it (XGROUP CREATE ... $), or a "
                    "group that kept it is gone, or its deletion failed",
                    "see 'Entries that no group reads' in docs/redis.md",
                ),
            )
        if self._deleted_at is not None and now - self._deleted_at < REPORT_SECONDS:
            yield (
                UNREAD_DELETED,
                Hazard(
                    UNREAD_DELETED,
                    f"messages of stream {stream} were deleted before anybody had read them: a "
                    "publisher trims it (XADD ... MAXLEN, or XTRIM)",
                    "publish without MAXLEN, and limit the queue with max_queue_depth of "
                    "RedisStreamProducer",
                ),
            )
        for held in self.held_back:
            yield (
                f"held back by {held.group}",
                Hazard(GROUP_HOLDS_BACK, held.text(self._keys), held.remedy(self._keys)),
            )
