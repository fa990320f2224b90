"""One pass of a pool thread: settle the last messages and fetch in one round trip, then run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

from shared_sync.common import log_attributes
from shared_sync.common.log_attributes import Source
from shared_sync.connection.availability import Availability
from shared_sync.errors import GroupMissing, LoadingFailed, SharedSyncError
from shared_sync.protocol.messages import DONE, Finish, parse_read
from shared_sync.redis_consumer.batches.batches import Batches
from shared_sync.redis_consumer.delivery import Delivery
from shared_sync.redis_consumer.faults.pauses import Pauses
from shared_sync.redis_consumer.in_flight import InFlight
from shared_sync.redis_consumer.jobs.cancellations import Marks
from shared_sync.redis_consumer.jobs.progress import EndJobs, end_no_jobs
from shared_sync.redis_consumer.prefetch import Prefetch
from shared_sync.redis_consumer.running.reader_processor import ReaderProcessor
from shared_sync.redis_consumer.settling.outbox import LONG_SECONDS, Outbox
from shared_sync.redis_consumer.slot import Attempt, Slot
from shared_sync.redis_consumer.subscription import Subscription

SLOW_SECONDS = 0.005
"""After a message that took longer, its outcome is sent before the next prefetched one starts."""

LARGE_BYTES = 4 * 1024 * 1024
"""The same once prefetched messages have results of this size together."""

SIBLING_WAIT_SECONDS: Final = 0.05
"""How long an idle reader waits for a message while others wait, or may soon, behind a sibling's
job."""

SHORTEST_WAIT_SECONDS: Final = 0.01
FINISH_PAUSE_SECONDS = 0.2


class Reader:
    """Works for one subscription. All methods belong to its thread, except `interrupt()`."""

    def __init__(
        self,
        slot: Slot,
        *,
        subscription: Subscription,
        in_flight: InFlight,
        outbox: Outbox,
        delivery: Delivery,
        processor: ReaderProcessor,
        availability: Availability,
        prefetch: Prefetch,
        marks: Marks,
        pauses: Pauses,
        batches: Callable[[], Batches | None],
        check_streak: Callable[[], None] = lambda: None,
        end_jobs: EndJobs = end_no_jobs,
        log_source: Source = dict,
        block_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Fixed after construction.
        self.slot = slot
        slot.cancel = processor.runner.cancel
        self.outbox = outbox
        self._commands = subscription.commands
        self._source = subscription.commands.keys
        self._recovery = subscription.recovery
        self._in_flight = in_flight
        self._delivery = delivery
        self._processor = processor
        self._runner = processor.runner
        self._availability = availability
        self._pauses = pauses
        self._new_batches = batches
        self._check_streak = check_streak
        self._end_jobs = end_jobs
        self._log_source = log_source
        self._block_seconds = block_seconds
        self._clock = clock
        # Owned by the reader's thread.
        self._prefetch = prefetch
        self._marks = marks
        self._batches: Batches | None = None
        """Runs the messages if the processor takes several at once, as loading it has shown."""
        self._stream_is_empty = False
        self._newly_read = 0
        """How many messages the last read has brought."""
        self._owes_a_read = False
        """Whether retries have started since the last read, or the processor was replaced."""
        self._has_waited = False
        """Whether it has waited for a message since the stream was found empty."""
        self._result_bytes = 0
        self._message_bytes = 0
        """The size of the newest message that was read."""

    def begin(self) -> bool:
        """Get the processor, before the first pass; return whether to make any.

        Blocks until every reader of the pool has its processor.
        """
        self.slot.belongs_here()
        log_attributes.set_source(self._log_source)
        if not self._processor.begin():
            return False
        self._batches = self._new_batches()
        return True

    def step(self) -> None:
        """Make one pass. Blocks up to `block_seconds` for a message, then as long as it runs.

        Raises what the connection raises, or why Redis refused an outcome. Outcomes that were not
        confirmed are kept; the next pass sends them again, and fetches nothing until they are.
        Raises `LoadingFailed` if a new processor could not be loaded; the next pass tries again,
        and fetches nothing until there is one.
        """
        if self.outbox.is_held_up or self.slot.unsettled_suspects:
            self._settle()
        most = self._prefetch.size
        if self._processor.may_be_replaced:
            if self._processor.may_replace():
                self._replace_processor()
                return  # the pool may have stopped meanwhile
            most = self._processor.most_to_fetch(most)
        if self._pauses.is_held:
            self._pause()
            return
        has_to_fetch = not self.slot.waiting  # else an error left them there, or a batch
        if has_to_fetch:
            self._fetch(most if self._batches is None else self._batches.most)
        if self._batches is None:
            self._run_waiting()
        else:
            run = self._batches.step(self._read_more, self._check_waiting, has_fetched=has_to_fetch)
            self._processor.has_run(run)

    def finish(self, abandon: threading.Event) -> None:
        """Settle what is left and hand back what was not started, until `abandon` is set."""
        try:
            while not self._is_finished() and not abandon.wait(FINISH_PAUSE_SECONDS):
                pass
        finally:
            self.outbox.connection.close()
            self._processor.close()

    def interrupt(self) -> None:
        """End a wait for a message. Any thread may call it."""
        self.outbox.connection.interrupt()

    def interrupt_job(self) -> bool:
        """End the job that runs, if it runs in a child process. Any thread may call it.

        Returns whether it does.
        """
        return self._runner.interrupt()

    def _is_finished(self) -> bool:
        """Return whether Redis knows all that this reader has to tell it."""
        try:
            self._in_flight.withdraw(self._source, self.slot, into=self.outbox.hand_back)
            self.outbox.flush()
        except GroupMissing:
            pass
        except SharedSyncError as error:
            self._availability.failed(self.slot.name, error)
            return False
        return True

    def _settle(self) -> None:
        self.outbox.flush()
        if self.slot.unsettled_suspects:
            self.slot.unsettled_suspects.clear()
            self._recovery.due_in(0.0)  # what had to wait for them may start now

    def _hand_back_waiting(self) -> None:
        if self._in_flight.withdraw(self._source, self.slot, into=self.outbox.hand_back):
            self.outbox.flush()
            self._recovery.due_in(0.0)  # they come first

    # --- while no messages are taken ---

    def _pause(self) -> None:
        """Hand back what waits, and wait, until messages are taken again or one may be tried."""
        self._check_streak()
        self._in_flight.withdraw(self._source, self.slot, into=self.outbox.hand_back)
        self.outbox.flush()
        with self._pauses.trial(self.slot) as may_try:
            self.outbox.connection.close_if_stale()
            if may_try or not self._pauses.is_held:
                self._recovery.due_in(0.0)  # what was handed back comes first
            if may_try:
                self._try_one()

    def _try_one(self) -> None:
        """Run one message, if there is one, and settle it.

        Whichever reader tries, a message that was handed back and a new one take turns: one that
        fails each time it is tried must not keep all others from showing that they would not.
        """
        self._owes_a_read = self._pauses.owes_a_read
        self._fetch(1)
        self._pauses.owes_a_read = self._owes_a_read
        attempt = self.slot.start_next(self._clock()) if self._pauses.allows_trials else None
        if attempt is not None:
            if self._batches is None:
                self._run(attempt)
            else:
                self._batches.run(attempt)
            self._processor.has_run(1)
            self.outbox.flush()
            self._pauses.has_tried()

    # --- fetching ---

    def _fetch(self, most: int) -> None:
        """Fetch what to run next, `most` messages at most.

        These are retries and messages of dead consumers, or new messages.

        While new messages wait, at most every second message that a reader starts is a retry:
        after retries it reads, and takes no more of them than that read has brought.
        """
        self.slot.fetches_since = self._clock()
        try:
            if not self._owes_a_read and self._recovery.take_turn():
                self._recover(most)
            elif self._stream_is_empty and not self._owes_a_read:
                self._wait_for_message()
            else:
                self._has_waited = False
                self._read(most)
        finally:
            self.slot.fetches_since = None

    def _recover(self, most: int) -> None:
        most = self._most_to_recover(most)
        self._note_size(most)
        with self._recovery.scan(self.outbox.exchange, most=most) as found:
            self._in_flight.admit(
                self.slot, self._source, found.entries, into=self.outbox.hand_back
            )
            self._owes_a_read = any(entry.left_by is None for entry in found.entries)
            for lost in found.given_up:
                self.outbox.add(self._delivery.never_arrived(lost))
        self._note_marks(found.marks, brought=bool(found.entries))

    def _most_to_recover(self, most: int) -> int:
        """Return how many of so many to take over; siblings that wait are left their share.

        They cannot be woken, and look by themselves when their wait ends.
        """
        slots = self._in_flight.slots
        idle_siblings = sum(slot.is_idle for slot in slots if slot is not self.slot)
        most = most // (1 + idle_siblings)
        if not self._stream_is_empty:
            most = min(most, self._newly_read)
        return max(1, most)

    def _wait_for_message(self) -> None:
        """Wait for one message, or take what waits behind a sibling's job.

        One, so that of many that come at once each waiting reader gets its share.
        """
        in_flight = self._in_flight
        has_busy_sibling = in_flight.take_from_sibling(self.slot, self._clock())
        if self.slot.waiting:
            self._marks.forget()
            return
        longest = self._block_seconds
        # While the stream becomes empty, the last of its messages may be on their way to a sibling.
        if has_busy_sibling or not (self._has_waited or len(in_flight.slots) == 1):
            longest = min(longest, SIBLING_WAIT_SECONDS)
        self._has_waited = True
        self.slot.is_idle = True
        try:
            self._read(1, self._recovery.wait_seconds(self, longest))
        finally:
            self.slot.is_idle = False
            self._recovery.woke(self)

    def _read(self, count: int, wait_seconds: float = 0.0) -> None:
        self._note_size(count)
        newest_before = self._in_flight.newest(self._source)
        blocking = wait_seconds > 0
        if blocking:
            wait_seconds = max(wait_seconds, SHORTEST_WAIT_SECONDS)
        command = self._commands.read(count, round(wait_seconds * 1000))
        marks = self._marks.to_send(waits=blocking)
        reply, marked = self.outbox.exchange_two(command, marks, blocking=blocking)
        entries = parse_read(reply)
        self._stream_is_empty = not entries
        self._newly_read = len(entries)
        self._owes_a_read = False
        if entries:
            self._message_bytes = sum(map(len, entries[-1].items))
        self._in_flight.admit_read(
            self.slot, self._source, entries, newest_before, into=self.outbox.hand_back
        )
        if marks is not None and marked is None:
            self._marks.forget()
        else:
            self._note_marks(marked, brought=bool(entries))

    def _note_marks(self, marked: Any, *, brought: bool) -> None:
        """Take the marks of cancelled messages that were read together with messages."""
        waiting = self.slot.waiting.copy() if marked or self._marks.look_at_each else ()
        self._marks.has_read(marked, waiting, self.outbox.exchange, brought=brought)

    def _check_waiting(self) -> None:
        """Read the marks of cancelled messages again, if the last read was too long ago."""
        if self._clock() > self._marks.stale_at:
            self._settle_and_check()

    def _settle_and_check(self) -> tuple[float, float]:
        """Settle finished messages, and read the marks of cancelled messages again.

        Returns the time, and when to read the marks next.
        """
        self._marks.refresh(self.slot.waiting.copy(), self.outbox.exchange)
        if self.outbox.is_held_up or not self._marks.is_on:
            self.outbox.flush()
        return self._clock(), self._marks.stale_at

    def _read_more(self, count: int) -> None:
        """Read messages behind those in the slot, `count` at most, to run together with them."""
        self._note_size(count + 1)
        self.slot.fetches_since = self._clock()
        try:
            self._read(count)
        finally:
            self.slot.fetches_since = None

    def _note_size(self, count: int) -> None:
        """Before the process reads several messages at once for the first time, note so in Redis.

        Messages that a dead process left run again at the same time if they never came together.
        """
        if count > 1 and self._commands.reads_one_by_one:
            self.outbox.exchange(self._commands.read_many())
            self._commands.reads_one_by_one = False

    # --- running ---

    def _run_waiting(self) -> None:
        """Run what is in the slot, unless the pool pauses or stops."""
        slot, pauses = self.slot, self._pauses
        run = self._run_and_replace if self._processor.may_be_replaced else self._run
        jobs, longest = 0, 0.0
        began = now = self._clock()
        stale_at = self._marks.stale_at
        while not pauses.is_held:
            if now > stale_at and slot.waiting:
                now, stale_at = self._settle_and_check()
            attempt = slot.start_next(now)
            if attempt is None:
                break
            now = run(attempt)
            jobs += 1
            seconds = now - attempt.started_at
            if seconds > longest:  # noqa: PLR1730 - a call of max() takes longer
                longest = seconds
            if seconds >= SLOW_SECONDS or self._result_bytes > LARGE_BYTES:
                self._result_bytes = 0
                if seconds >= LONG_SECONDS:
                    self.outbox.connection.close_if_stale()
                if slot.waiting:
                    now, stale_at = self._settle_and_check()
        self._prefetch.learn(
            jobs=jobs,
            seconds=now - began,
            longest_seconds=longest,
            message_bytes=self._message_bytes,
        )

    def _run_and_replace(self, attempt: Attempt) -> float:
        """Run an attempt as `_run()` does, and replace the processor if it is time to."""
        now = self._run(attempt)
        self._processor.has_run(len(attempt.entries))
        if not self._pauses.is_held and self._processor.may_replace():
            self._replace_processor()
        return now

    def _replace_processor(self) -> None:
        """Replace the processor; what waits is handed back, as that may take minutes.

        The parts of a batch that has failed go back only if there is no new processor: together
        with other messages their culprit would not be found.
        """
        if not self.slot.holds_parts:
            self._hand_back_waiting()
        self.outbox.flush()
        try:
            self._processor.replace()
        except LoadingFailed:
            self._hand_back_waiting()
            raise
        self._owes_a_read = True  # new messages come first: one that waits may have broken the old
        self.outbox.connection.close_if_stale()

    def _run(self, attempt: Attempt) -> float:
        """Run an attempt; return when all is done that belongs to it."""
        slot, outbox = self.slot, self.outbox
        (entry,) = attempt.entries
        try:
            outcome = self._delivery.run(attempt, self._runner, slot)
            ended_at = attempt.ended_at
            if attempt.jobs is not None:
                self._end_jobs(list(attempt.jobs.values()), outbox)
            if outcome is None:
                outbox.add_done(entry.id)
            else:
                outbox.add(outcome)
                ended_at = self._clock()
                if isinstance(outcome, Finish) and (
                    outcome.special is None or outcome.status == DONE
                ):
                    self._result_bytes += outcome.size
                else:
                    slot.unsuccessful += 1
        finally:
            if entry.deliveries > 1 and entry.crashes:
                slot.unsettled_suspects.append(entry)
            slot.end_attempt()
        return ended_at
