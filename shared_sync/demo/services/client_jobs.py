"""ClientJob: a recording of a client, and what is known of it."""

from __future__ import annotations

import time
from typing import Any

from shared_sync.errors import RedisUnavailable
from shared_sync.redis_producer import JobHandle


class ClientJob:
    """A job that a client asks for. Any thread may call any method."""

    def __init__(self, client: str, handle: JobHandle) -> None:
        self.client = client
        self.handle = handle
        self.began = time.monotonic()

    @property
    def age_seconds(self) -> float:
        return time.monotonic() - self.began

    def describe(self) -> dict[str, Any]:
        """Return what is known, as the client gets it.

        `version` changes with each result. The English text comes with the progress of the
        transcription, again and again while it grows, and once more with the final result.
        """
        final = self.handle.result(0) if self.handle.done else None
        progress = self.handle.progress
        newest = final or progress
        known = {**(progress.fields if progress else {}), **(final.fields if final else {})}
        is_heard = bool(known.get("english_is_final") or (final and final.ok))
        return {
            "version": newest.entry_id if newest else "",
            "state": final.status if final else self._state(is_heard),
            "progress": progress.progress if progress else None,
            "english": known.get("english", ""),
            "english_is_final": is_heard,
            "spanish": known.get("spanish", ""),
            "reason": final.reason if final else "",
        }

    def _state(self, is_heard: bool) -> str:
        """Return what happens to a job that has no final result."""
        if self.handle.progress is not None:
            return "translating" if is_heard else "transcribing"
        try:
            return self.handle.status()  # such as waiting, or parked after a failure
        except RedisUnavailable:
            return "waiting"
