"""The last progress of messages whose attempt has ended, on its way to Redis with the outcome."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

from shared_sync.common.guarded import Recorder
from shared_sync.protocol.commands import GroupCommands
from shared_sync.protocol.progress import Report
from shared_sync.protocol.replies import parse_reported
from shared_sync.redis_consumer.settling.parcels import MOST_OUTCOMES, Parcel, chunks

MOST_TRIES: Final = 3
"""How often a report is sent whose reply does not come: it may be why the connection breaks."""


class LastProgress:
    """What the messages in one outbox have reported last. For the thread that uses the outbox.

    Nothing here holds up an outcome: what Redis refuses is dropped.
    """

    def __init__(self, commands: GroupCommands, recorder: Recorder) -> None:
        # Fixed after construction.
        self._commands = commands
        self._recorder = recorder
        # Owned by the using thread.
        self._tries: dict[Report, int] = {}
        """How often each report was sent."""
        self._reported: set[str] = set()
        """The messages that have reported anything in the attempt that has ended."""

    def __bool__(self) -> bool:
        return bool(self._reported or self._tries)

    def add(self, message_id: str, last: Report | None) -> None:
        """Put in a message, and the report that is to be sent."""
        self._reported.add(message_id)
        if last is not None:
            self._tries[last] = 0

    def reports(self) -> list[Parcel]:
        """Return what sends the reports, before the outcomes of their messages."""
        parcels = []
        for report, tries in list(self._tries.items()):
            if tries == MOST_TRIES:
                del self._tries[report]
                continue
            self._tries[report] = tries + 1
            confirm, drop = self._confirm(report), self._drop(report)
            parcels.append(Parcel(self._commands.report(report), (), confirm, drop=drop))
        return parcels

    def ends(self, ended: Collection[str]) -> list[Parcel]:
        """Return what forgets the progress of messages that have ended, behind their outcomes.

        What the others have reported stays for their next attempt.
        """
        self._reported.intersection_update(ended)
        return [
            Parcel(self._commands.forget_progress(ids), (), self._forgotten(ids), drop=lambda: None)
            for ids in chunks(sorted(self._reported), MOST_OUTCOMES)
        ]

    def _confirm(self, report: Report) -> Callable[[Any], None]:
        def confirm(reply: Any) -> None:
            if parse_reported(reply).is_sent:
                self._recorder.increment_counter("progress_sent")
            self._tries.pop(report, None)

        return confirm

    def _drop(self, report: Report) -> Callable[[], None]:
        def drop() -> None:
            self._tries.pop(report, None)

        return drop

    def _forgotten(self, ids: Collection[str]) -> Callable[[Any], None]:
        return lambda _: self._reported.difference_update(ids)
