"""Asks again for messages whose replies were lost, one at a time, and gives up on those too large.

A reply is lost when a connection breaks. Usually its messages are not the cause, so they are taken
again, uncharged. But the server also closes the connection of a client whose reply is larger than
its `client-output-buffer-limit`, and a client gives up on a reply that takes too long: each further
attempt would end in the same way. So each lost message is asked for alone, by its id. If a message
is delivered again and again and does not arrive while other replies do, it is the cause.

Example: a read brings A, B and C, and breaks, since C is too large. Recovery names all three. A is
asked for and arrives, then B. C is asked for and does not arrive. After the reply time it is named
again, with a later delivery; after three such deliveries, it becomes a dead letter.

Where all connections are cut, that of a large reply is the most likely to be. That of a heartbeat,
whose reply is small, then breaks too, and the count begins anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from shared_sync.protocol.messages import LostEntry

MOST_LOST_ALONE: Final = 3
"""How often a message may be lost alone, besides the first loss."""

SAME_DELIVERY_MS: Final = 100
"""Times of delivery that differ by less are of one delivery; they are computed from idle times."""

MOST_KNOWN: Final = 1000
"""How many lost messages are remembered: another process may have finished some of them."""


class LostReplies:
    """Says which lost message to ask for next, and which to give up on. For one thread at a time.

    Each process counts for itself.
    """

    def __init__(self) -> None:
        self._losses: dict[str, tuple[int, int]] = {}
        """For each lost message: when it was delivered last, and how often it was lost alone."""
        self._to_ask: deque[str] = deque()

    def named(self, lost: Iterable[LostEntry]) -> list[LostEntry]:
        """Note lost messages, as recovery found them; return those to give up on."""
        given_up: list[LostEntry] = []
        for one in lost:
            delivered_ms, times = self._losses.pop(one.id, (one.delivered_ms, 0))
            if abs(one.delivered_ms - delivered_ms) >= SAME_DELIVERY_MS:
                times += 1
            if times >= MOST_LOST_ALONE:
                given_up.append(one)
                continue
            self._losses[one.id] = (one.delivered_ms, times)
            if one.id not in self._to_ask:
                self._to_ask.append(one.id)
        while len(self._losses) > MOST_KNOWN:
            self._losses.pop(next(iter(self._losses)))
        return given_up

    def next(self) -> str:
        """Return the id of the message to ask for now; empty if there is none.

        One whose reply is lost, or that may not start yet, will be named again.
        """
        return self._to_ask.popleft() if self._to_ask else ""

    def others_break(self) -> None:
        """Note that connections break which none of the lost messages can have broken."""
        for message_id, (delivered_ms, _) in self._losses.items():
            self._losses[message_id] = (delivered_ms, 0)

    def arrived(self, message_id: str) -> None:
        """Note that the reply with a message has come."""
        self._losses.pop(message_id, None)
