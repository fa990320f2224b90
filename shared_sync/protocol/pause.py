"""The pause of a group, as it stands in Redis."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

_YEAR_10000_MS: Final = 253_402_300_800_000
"""The first time that cannot be shown."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Who has paused a group, when, and why."""

    by: str
    at_ms: int
    """The server's time, in ms since 1970."""
    reason: str = ""

    @classmethod
    def parse(cls, text: bytes) -> Pause | None:
        """Return the pause that stands in Redis; None if there is none.

        A text that no version of this library writes is a pause as well, of somebody unknown.
        """
        if not text:
            return None
        try:
            facts = json.loads(text)
            made = cls(str(facts["by"]), int(facts["at"]), str(facts["reason"]))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return cls("somebody unknown", 0)
        return made if 0 <= made.at_ms < _YEAR_10000_MS else cls(made.by, 0, made.reason)

    def text(self) -> str:
        """Return the text that stands in Redis."""
        return json.dumps({"by": self.by, "at": self.at_ms, "reason": self.reason})
