"""Sending the last progress of a message together with its outcome."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

from shared_sync.common.guarded import Recorder
from shared_sync.protocol.commands import GroupCommands
from shared_sync.protocol.progress import Report
from shared_sync.protocol.replies import parse_reported
from shared_sync.redis_consumer.settling.parcels import MOST_OUTCOMES, Parcel, chunks

MOST_TRIES: Final = 3
"""How often to send a report without getting a reply: the report may break the connection."""


class LastProgress:
    """The last reports of the messages in one outbox. For the thread that uses the outbox.

    A report never holds up an outcome: if Redis refuses it, it is dropped.
    """

    def __init__(self, commands: GroupCommands, recorder: Recorder) -> None:
        # Fixed after construction.
        self._commands = commands
        self._recorder = recorder
        # Owned by the using thread.
        self._tries: dict[Report, int] = {}
        """How often each report was sent."""
        self._reported: set[str] = set()
        """Messages that have reported progress in the attempt that has ended."""

    def __bool__(self) -> bool:
        return bool(self._reported or self._tries)

    def add(self, message_id: str, last: Report | None) -> None:
        """Add a message that has reported progress, and its report that is still to be sent."""
        self._reported.add(message_id)
        if last is not None:
            self._tries[last] = 0

    def reports(self) -> list[Parcel]:
        """Return the parcels with the reports, to be sent before the outcomes."""
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
        """Return the parcels that remove the stored progress of messages that have ended.

        To be sent behind the outcomes. The progress of other messages stays for the next attempt.
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
