"""The readers of one pool without their threads: a test makes their passes, and is Redis."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from helpers import Clock, Figures
from protocol_client import KEYS
from readers import ScriptedConnection
from runners import new_runner, reader_processor

from shared_sync.common.guarded import GuardedLogger, GuardedRecorder, ThreadRecorder
from shared_sync.common.log_once import LogOnce
from shared_sync.connection.availability import Availability
from shared_sync.policies import RetryPolicy
from shared_sync.protocol.commands import GroupCommands
from shared_sync.protocol.results import Results
from shared_sync.redis_consumer.charges import Rules
from shared_sync.redis_consumer.delivery import Delivery
from shared_sync.redis_consumer.faults.pauses import Pauses
from shared_sync.redis_consumer.in_flight import InFlight
from shared_sync.redis_consumer.jobs.cancellations import Cancellations, Marks
from shared_sync.redis_consumer.outcome_share import OutcomeShare
from shared_sync.redis_consumer.prefetch import Prefetch, Setting
from shared_sync.redis_consumer.reader import Reader
from shared_sync.redis_consumer.recovery import Recovery
from shared_sync.redis_consumer.settling.outbox import Outbox
from shared_sync.redis_consumer.settling.tally import Tally
from shared_sync.redis_consumer.slot import Slot

LOGGER = GuardedLogger(logging.getLogger("tests.reader"))
BLOCK_SECONDS = 1.0
NOTHING_FOUND = [[], 0, -1, 0, b"-", 0, b"-", b"-", 0, 0, [], [], None]
"""The reply to a scan that found nothing."""


def delivered(*ids: str) -> list[Any]:
    """The reply to a read."""
    return [[KEYS.stream.encode(), [[one.encode(), [b"n", one.encode()]] for one in ids]]]


def recovered(*rows: list[Any], more: bool = False) -> list[Any]:
    """The reply to a scan."""
    return [list(rows), *NOTHING_FOUND[1:-4], int(more), [], [], None]


def row(message_id: str, deliveries: int, *left_by: Any) -> list[Any]:
    """A message in the reply to a scan."""
    return [message_id.encode(), [b"n", b"1"], deliveries, None, *left_by]


class Pool:
    """Readers that share what the readers of a pool share."""

    def __init__(
        self,
        clock: Clock,
        *,
        process: Callable[[str, dict[str, Any]], object] = lambda *_: None,
        readers: int = 1,
        prefetch: Setting = 10,
        stream: str | None = "results",
    ) -> None:
        self.clock = clock
        self.ran: list[str] = []
        self.figures = Figures()
        self.in_flight = InFlight()
        self.pauses = Pauses(logger=LOGGER, clock=clock)
        self.availability = Availability("redis://somewhere:6379/0", LOGGER, clock)
        commands = GroupCommands(KEYS, "w1", 30_000, stream, identity="me")
        recorder = GuardedRecorder(self.figures, LOGGER)
        self.recovery = Recovery(
            commands=commands,
            in_flight=self.in_flight,
            own_idle_seconds=6.0,
            foreign_idle_seconds=30.0,
            max_crashes=3,
            recorder=recorder,
            logger=LOGGER,
            clock=clock,
            chance=lambda: 0.0,
        )
        self.recovery.take_turn()
        self.cancellations = Cancellations(commands, LOGGER)
        self._subscription = SimpleNamespace(commands=commands, recovery=self.recovery)
        self._recorder = recorder
        self._process = process
        self._rules = Rules(
            consumer="w1",
            binary_fields=frozenset(),
            retry=RetryPolicy(base_seconds=2.0, jitter=0.0),
            max_crashes=3,
            results=Results(
                stream=KEYS.stream,
                result_stream=stream,
                result_channel=None,
                carry_fields=(),
                binary_fields=(),
            ),
        )
        self.readers = [self._new_reader(f"r{n}", prefetch) for n in range(1, readers + 1)]

    def _new_reader(self, name: str, prefetch: Setting) -> PassingReader:
        slot, connection = Slot(name, now=self.clock.now), ScriptedConnection()
        recorder = ThreadRecorder(self._recorder)
        outbox = Outbox(
            name,
            connection=connection,  # type: ignore[arg-type]
            commands=self._subscription.commands,
            activity=slot,
            availability=self.availability,
            recorder=recorder,
            tally=Tally(recorder, LOGGER, LogOnce(LOGGER, logging.ERROR), OutcomeShare(None)),
            flush_metrics=recorder.flush,
        )
        self.in_flight.add_slot(slot)
        self.in_flight.add_outbox(KEYS, outbox.ids, outbox.returning_ids)

        def processor(message_id: str, fields: dict[str, Any]) -> object:
            self.ran.append(message_id)
            return self._process(message_id, fields)

        reader = PassingReader(
            slot,
            subscription=self._subscription,  # type: ignore[arg-type]
            in_flight=self.in_flight,
            outbox=outbox,
            delivery=Delivery(
                self._rules, recorder=recorder, logger=LOGGER, on_retry=self.recovery.due_in
            ),
            processor=reader_processor(new_runner(processor, clock=self.clock), slot),
            availability=self.availability,
            prefetch=Prefetch(prefetch),
            marks=Marks(self.cancellations, clock=self.clock),
            pauses=self.pauses,
            batches=lambda: None,
            block_seconds=BLOCK_SECONDS,
            clock=self.clock,
        )
        reader.connection = connection
        return reader


class PassingReader(Reader):
    """A reader whose passes a test makes."""

    connection: ScriptedConnection

    def make_pass(self, *replies: Any) -> list[str]:
        """Make a pass with these replies; what it sent in its first exchange."""
        before = len(self.connection.sent)
        self.connection.replies.extend(replies)
        self.step()
        assert not self.connection.replies, "these replies were not received"
        exchanges = self.connection.names()[before:]
        return exchanges[0] if exchanges else []

    def last_read(self) -> tuple[int, int | None]:
        """How many messages the last read asked for, and for how many ms it waits at most."""
        command = self.connection.sent[-1][-1]
        assert command[0] == "XREADGROUP"
        words = list(command)
        block = words[words.index("BLOCK") + 1] if "BLOCK" in words else None
        return words[words.index("COUNT") + 1], block
