"""What a gateway of gateway_scene.py has written into its journal, and what is wrong with it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class GatewayJournal:
    """What a gateway process has written into its journal."""

    sent: dict[int, float] = field(default_factory=dict)
    """When each of its requests was made."""
    ended: dict[int, list[dict[str, Any]]] = field(default_factory=dict)

    @classmethod
    def read(cls, journal: Path) -> GatewayJournal:
        read = cls()
        for line in journal.read_text().splitlines() if journal.exists() else ():
            fact = json.loads(line)
            if fact["event"] == "sent":
                read.sent[fact["number"]] = fact["moment"]
            else:
                read.ended.setdefault(fact["number"], []).append(fact)
        return read

    @property
    def is_complete(self) -> bool:
        return self.sent.keys() == self.ended.keys()

    def latencies(self) -> list[float]:
        return [self.ended[n][0]["moment"] - self.sent[n] for n in self.ended]

    def mistakes(self) -> list[str]:
        """Return what is wrong with its results, one text for each request."""
        texts = []
        for number in self.sent:
            ends = self.ended.get(number, [])
            if len(ends) > 1:
                texts.append(f"request {number} has {len(ends)} results")
            elif not ends or ends[0]["status"] == "missing":
                texts.append(f"request {number} has no result")
            elif not ends[0]["right"]:
                texts.append(f"the result of request {number} is {ends[0]['status']} and wrong")
        return texts
