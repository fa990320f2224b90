"""What a pause of the group means for a consumer: it takes no messages, and all is well with it."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Final

from shared_sync.common.guarded import GuardedRecorder
from shared_sync.protocol.pause import Pause
from shared_sync.redis_consumer.faults.pauses import Pauses

_NAME: Final = "paused group"


class GroupPause:
    """Holds the readers of one pool while somebody has paused the group.

    The heartbeat thread notes what Redis says, and before it the thread that connects. Any thread
    may read.
    """

    def __init__(self, pauses: Pauses, recorder: GuardedRecorder) -> None:
        # Fixed after construction.
        self._pauses = pauses
        self._recorder = recorder
        # Replaced as a whole.
        self.pause: Pause | None = None
        """The pause that holds the readers; None if the group is not paused."""

    def note(self, pause: Pause | None) -> None:
        """Note who has paused the group; None if nobody has."""
        self._recorder.set_gauge("group_paused", 0 if pause is None else 1)
        if pause == self.pause:
            return
        if pause is None:
            self._pauses.release(_NAME)
        else:
            why = f": {pause.reason}" if pause.reason else ""
            self._pauses.hold(_NAME, f"{pause.by} has paused the group{why}", is_intended=True)
        self.pause = pause

    def health_data(self) -> dict[str, Any]:
        """Return what the health data say of it."""
        pause = self.pause
        if pause is None:
            return {"paused": False}
        at = datetime.fromtimestamp(pause.at_ms / 1000, timezone.utc)
        return {
            "paused": True,
            "paused_by": pause.by,
            "paused_at": at.isoformat(timespec="seconds"),
            "paused_reason": pause.reason,
        }
