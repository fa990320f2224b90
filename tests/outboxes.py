"""An outbox over a connection that answers by a script, and what may be put into it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from helpers import Clock, Figures
from protocol_client import KEYS, METADATA, result
from readers import ScriptedConnection

from shared_sync.common.guarded import GuardedLogger
from shared_sync.common.log_once import LogOnce
from shared_sync.connection.availability import Availability
from shared_sync.connection.connection import Connection
from shared_sync.errors import RedisRefused, RedisUnavailable
from shared_sync.protocol.commands import GroupCommands
from shared_sync.protocol.messages import Answer, Bury, Finish, Outcome, Park
from shared_sync.redis_consumer.outcome_share import OutcomeShare
from shared_sync.redis_consumer.settling.outbox import Outbox
from shared_sync.redis_consumer.settling.tally import Tally
from shared_sync.redis_consumer.slot import Activity

LOGGER = GuardedLogger(logging.getLogger("tests.outbox"))
READ = ("XREADGROUP", "...")
LOST = RedisUnavailable("the connection broke")
REFUSED = RedisRefused("OOM no room", code="OOM")


def settled(*results: int | bytes, unpublished: bytes = b"") -> list[Any]:
    """What a script that settles outcomes replies; a refused result is the text of the refusal."""
    refusals = [result for result in results if isinstance(result, bytes)]
    return [list(results), refusals[-1] if refusals else b"", unpublished]


def finish(message_id: str) -> Finish:
    return Finish(message_id, result("done").items)


def park(message_id: str) -> Park:
    return Park(message_id, "{}", 100, 1)


def bury(message_id: str) -> Bury:
    return Bury(message_id, "", METADATA, Answer())


class Sender:
    """An outbox, and what it records and reports.

    Its connection answers by a script, unless another one is given, and its commands are those of
    a consumer w1.
    """

    def __init__(
        self,
        *replies: Any,
        connection: Connection | None = None,
        commands: GroupCommands | None = None,
        give_up: Callable[[Finish, str], Outcome | None] = lambda *_: None,
    ) -> None:
        self.connection = ScriptedConnection(*replies)
        self.activity = Activity()
        self.availability = Availability("redis://somewhere:6379/0", LOGGER, Clock())
        self.figures = Figures()
        self.flushes = 0
        self.outbox = Outbox(
            "reader-1",
            connection=connection or self.connection,  # type: ignore[arg-type]
            commands=commands or GroupCommands(KEYS, "w1", 30_000, "results", identity="me"),
            activity=self.activity,
            availability=self.availability,
            recorder=self.figures,
            tally=Tally(self.figures, LOGGER, LogOnce(LOGGER, logging.ERROR), OutcomeShare(None)),
            give_up=give_up,
            flush_metrics=self._flush,
        )

    def _flush(self) -> None:
        self.flushes += 1

    def put(self, *ids: str) -> None:
        """Put in messages that are done without a result."""
        for one in ids:
            self.outbox.add_done(one)

    def reply(self, *replies: Any) -> None:
        self.connection.replies.extend(replies)

    def jobs(self) -> dict[str, float]:
        """The counters of messages."""
        return {
            name: count
            for name, count in self.figures.counters.items()
            if not name.startswith("redis_") and count
        }
