"""One pass of a pool thread: settle the last messages and fetch in one round trip, then run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from shared_sync.common.guarded import RecorderOfOneThread
from shared_sync.connection.availability import Availability
from shared_sync.connection.connection import Connection
from shared_sync.connection.scripts import Command
from shared_sync.errors import GroupMissing, RedisRefused, SharedSyncError
from shared_sync.protocol import commands as stream_commands
from shared_sync.protocol.commands import Entry, Finish, GroupCommands, Outcome, Park
from shared_sync.redis_consumer.delivery import Delivery
from shared_sync.redis_consumer.in_flight import InHand
from shared_sync.redis_consumer.recovery import Recoverer

SLOW_SECONDS = 0.005
"""After a message that took longer, its outcome is sent before the next prefetched one starts."""

LARGE_BYTES = 4 * 1024 * 1024
"""The same once prefetched messages have results of this size together."""
FINISH_PAUSE_SECONDS = 0.2


class Reader:
    """Owns one connection. All methods belong to the reader's thread, except `interrupt()`."""

    def __init__(
        self,
        name: str,
        *,
        link: Connection,
        commands: GroupCommands,
        delivery: Delivery,
        in_hand: InHand,
        recoverer: Recoverer,
        connectivity: Availability,
        recorder: RecorderOfOneThread,
        prefetch: int,
        block_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Fixed after construction.
        self.name = name
        self.link = link
        self._commands = commands
        self._delivery = delivery.recording_to(recorder)
        self._in_hand = in_hand
        self._recoverer = recoverer
        self._connectivity = connectivity
        self._recorder = recorder
        self._prefetch = prefetch
        self._block_seconds = block_seconds
        self._clock = clock
        # Owned by the reader's thread.
        self._unsettled: list[Outcome] = []
        self._unanswered: set[str] = set()
        self._held_up = False
        self._unsettled_bytes = 0
        self._broken_off = False

    def step(self) -> None:
        """One pass. Blocks up to `block_seconds` for a message, then as long as it runs.

        Raises `RedisUnavailable` or `RedisRefused`; outcomes that were not settled are kept and
        sent again by the next pass, which fetches nothing until they are.
        """
        if self._broken_off:
            # Wherever the last pass ended: what it had and lost is found in Redis and run again.
            # Done now and not where it broke off, since a want of memory may have done that, and
            # then to let go of something may fail as well; the next pass comes after a pause.
            self._in_hand.keep_only(self.name, {outcome.id for outcome in self._unsettled})
            self._recoverer.looked(self.name)
        self._broken_off = True
        try:
            self._pass()
        except BaseException:
            self._recorder.flush()
            raise
        self._broken_off = False

    def _pass(self) -> None:
        if self._held_up:
            self._exchange()
        if self._in_hand.has_waiting(self.name):
            pass  # a break in the middle of a batch left them
        elif self._recoverer.take_turn():
            looking = self._recoverer.command(self.name)
            entries = self._recoverer.found(self._exchange(looking))
            self._in_hand.admit(self.name, entries)
            self._recoverer.looked(self.name)
            if entries:
                self._recoverer.due_in(0)
        else:
            self._in_hand.admit(self.name, self._read())
        while (entry := self._in_hand.start_next(self.name)) is not None:
            self._run(entry)

    def finish(self, abandon: threading.Event) -> None:
        """Settle what is left and hand back what was not started, until `abandon` is set."""
        try:
            while not self._finished():
                if abandon.wait(FINISH_PAUSE_SECONDS):
                    break
        finally:
            self.link.close()
            self._recorder.flush()

    def _finished(self) -> bool:
        """Whether there is nothing left that Redis has to be told."""
        try:
            self._hand_back(self._in_hand.withdraw(self.name))
            self._exchange()
        except GroupMissing:
            pass
        except SharedSyncError as error:
            self._connectivity.failed(self.name, error)
            return False
        return True

    @property
    def unsettled(self) -> int:
        """Outcomes that Redis has not confirmed. Any thread may ask; a moment old."""
        return len(self._unsettled)

    @property
    def in_bounds(self) -> bool:
        """Whether something else limits its time: a job's budget, or how long a reply may take."""
        return self._delivery.in_processor or self.link.receiving

    @property
    def moved_at(self) -> float:
        """When it last began or ended a message, by the monotonic clock."""
        return self._delivery.moved_at

    def _hand_back(self, ids: Sequence[str]) -> None:
        if ids:
            returned, _ = self._exchange(self._commands.hand_back(ids))
            self._recorder.increment_counter("jobs_handed_back", returned)

    def interrupt(self) -> None:
        """End a blocked fetch. Safe from any thread."""
        self.link.interrupt()

    def _read(self) -> list[Entry]:
        wait = min(self._block_seconds, self._recoverer.seconds_to_turn())
        read = self._commands.read(self._prefetch, round(wait * 1000))
        return stream_commands.parse_read(self._exchange(read, blocking=True))

    def _run(self, entry: Entry) -> None:
        started = self._clock()
        try:
            outcome = self._delivery.attempt(entry)
        finally:
            self._in_hand.stop_running(self.name)
        self._unsettled.append(outcome)
        if isinstance(outcome, Park):
            self._recoverer.due_in(outcome.delay_ms / 1000)
        if isinstance(outcome, Finish):
            self._unsettled_bytes += sum(map(len, outcome.answer.items))
        slow = self._clock() - started >= SLOW_SECONDS
        if slow or self._unsettled_bytes > LARGE_BYTES:
            self._unsettled_bytes = 0
            if self._in_hand.has_waiting(self.name):
                self._exchange()

    def _exchange(self, command: Command | None = None, *, blocking: bool = False) -> Any:
        """Settle all outcomes, and send one more command with them; returns its reply."""
        settling = self._commands.outcomes(self._unsettled)
        commands = [settle for settle, _ in settling]
        if command is not None:
            commands.append(command)
        if not commands:
            return None
        self._held_up = bool(settling)
        self._open()
        if blocking and self.link.interrupted:
            return None
        repeated = self._unanswered
        self._unanswered = {outcome.id for outcome in self._unsettled}
        self.link.send(commands)
        try:
            return self._receive(settling, command is not None, blocking, repeated)
        except RedisRefused:
            raise
        except BaseException:
            self.link.close()  # replies may be left unread
            raise

    def _receive(
        self,
        settling: list[tuple[Command, list[Outcome]]],
        commanded: bool,
        blocking: bool,
        repeated: set[str],
    ) -> Any:
        """Read the replies to the outcomes, and then the command's, which is returned."""
        refusal: SharedSyncError | None = None
        for _, outcomes in settling:
            try:
                settled = stream_commands.parse_outcomes(self.link.receive())
            except RedisRefused as refused:
                settled = stream_commands.Settled([], refused)
            self._settled(outcomes[: len(settled.results)], settled.results, repeated)
            self._unanswered.difference_update(outcome.id for outcome in outcomes)
            refusal = settled.refusal or refusal
            if settled.unpublished is not None:
                self._delivery.channel_refused(settled.unpublished)
        self._held_up = refusal is not None
        self._recorder.increment_counter("redis_operations", len(settling) + commanded)
        self._recorder.flush()  # before the wait for a message, however long that takes
        if not commanded:
            if refusal is not None:
                raise refusal
            reply = None
        elif blocking:
            reply = self.link.receive_blocked()
        else:
            reply = self.link.receive()
        self._connectivity.succeeded(self.name)
        return reply

    def _open(self) -> None:
        connects = self.link.connects
        self.link.open()
        if connects != self.link.connects and connects:
            self._recorder.increment_counter("redis_reconnects")

    def _settled(
        self, outcomes: Sequence[Outcome], results: Sequence[int], repeated: set[str]
    ) -> None:
        settled = {outcome.id for outcome in outcomes}
        self._unsettled = [kept for kept in self._unsettled if kept.id not in settled]
        if self._in_hand.release(settled):
            self._recoverer.due_in(0)
        for outcome, result in zip(outcomes, results, strict=True):
            self._delivery.settle(outcome, result, repeated=outcome.id in repeated)
