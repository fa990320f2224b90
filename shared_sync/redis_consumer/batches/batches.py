"""Batches: running messages together, and finding the one that fails."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from shared_sync.batching import Batching
from shared_sync.common.guarded import Logger
from shared_sync.common.out_of_memory import is_out_of_memory, release_memory
from shared_sync.message import Fields
from shared_sync.protocol.job_options import OPTIONS, without_options
from shared_sync.protocol.messages import Entry, Finish
from shared_sync.redis_consumer import crashes
from shared_sync.redis_consumer.batches.ceiling import Ceiling
from shared_sync.redis_consumer.batches.collecting import Collector, Read
from shared_sync.redis_consumer.batches.figures import BatchFigures
from shared_sync.redis_consumer.delivery import Delivery
from shared_sync.redis_consumer.failures import Failure
from shared_sync.redis_consumer.faults.pauses import Pauses
from shared_sync.redis_consumer.in_flight import InFlight
from shared_sync.redis_consumer.jobs.progress import EndJobs, end_no_jobs
from shared_sync.redis_consumer.running.runner import Runner
from shared_sync.redis_consumer.settling.outbox import LONG_SECONDS, Outbox
from shared_sync.redis_consumer.slot import Attempt, Slot


class Batches:
    """Runs what waits for one reader in batches. All methods belong to the reader's thread.

    A batch that fails as a whole runs again by halves until the culprit is alone. The halves go
    back into the slot and run in later passes, so that the outcomes of each are sent before the
    next one runs, and a drain or a pause finds there what has not begun. No sibling takes them, and
    they do not wait for other messages: the culprit would spoil another batch, uncharged, for ever.
    """

    def __init__(
        self,
        batching: Batching,
        *,
        slot: Slot,
        in_flight: InFlight,
        pauses: Pauses,
        outbox: Outbox,
        delivery: Delivery,
        runner: Runner,
        figures: BatchFigures,
        logger: Logger,
        end_jobs: EndJobs = end_no_jobs,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        # Fixed after construction.
        self._slot = slot
        self._in_flight = in_flight
        self._pauses = pauses
        self._outbox = outbox
        self._delivery = delivery
        self._runner = runner
        self._figures = figures
        self._logger = logger
        self._end_jobs = end_jobs
        self._clock = clock
        # Owned by the reader's thread.
        self._collector = Collector(
            batching,
            delivery.fields_of,
            slot=slot,
            in_flight=in_flight,
            pauses=pauses,
            clock=clock,
            sleep=sleep,
        )
        self._ceiling = Ceiling(batching.max_size)
        self._parts: deque[Sequence[Entry]] = deque()
        """The parts of a batch that has failed; they wait in the slot, on the left."""
        self._has_success = False
        """Whether any message of the newest attempt has ended in success."""

    @property
    def most(self) -> int:
        """How many messages to fetch for the next batch."""
        return self._collector.expected(self._ceiling.size)

    def step(self, read: Read, check: Callable[[], None], *, has_fetched: bool) -> int:
        """Collect a batch and run it, or run the next part of one that has failed.

        Returns how many messages it has run.

        `check` is called before an attempt begins; it learns which messages are cancelled.

        `has_fetched` says that what waits in the slot has just come. Then this blocks up to
        `max_wait_seconds` for more, and always as long as the processor runs.
        """
        if not self._slot.waiting:
            return 0
        if not self._is_part_next():
            seconds = self._collector.collect(read, self._ceiling.size, has_fetched=has_fetched)
            self._ceiling.batch_begins()
            self._figures.waited(seconds if has_fetched else 0.0)
        check()
        attempt = self._start_next()
        if attempt is None:
            return 0
        self.run(attempt)
        if self._slot.waiting:
            self._outbox.flush()
        return len(attempt.entries)

    # --- starting ---

    def _is_part_next(self) -> bool:
        """Return whether a part of a failed batch is next; forget the parts if they are gone."""
        waiting, parts = self._slot.waiting, self._parts
        if parts and (not waiting or waiting[0] is not parts[0][0]):
            parts.clear()  # they were handed back
        self._slot.holds_parts = bool(parts)
        return bool(parts)

    def _start_next(self) -> Attempt | None:
        if self._pauses.is_held:
            return None
        if self._parts:
            size = len(self._parts.popleft())
            return self._in_flight.start_batch(self._slot, size, self._clock(), again=True)
        begun = self._collector.start(self._ceiling.size)
        if begun is None:
            return None
        if begun.error is not None:
            self._fail(begun.attempt, begun.error)
            return None
        return begun.attempt

    def _fail(self, attempt: Attempt, error: BaseException) -> None:
        """Settle the only message of an attempt that cannot run, because of this error."""
        (entry,) = attempt.entries
        self._has_success = False
        checked = self._delivery.check(entry)
        if not isinstance(checked, dict):
            self._outbox.add(checked)
        else:
            self._outbox.add(self._delivery.raised(entry, checked, error, attempt))
        self._end(attempt, attempt.entries)

    # --- running ---

    def run(self, attempt: Attempt) -> None:
        """Run an attempt, and settle its messages or let them wait for another run by parts."""
        slot, begun = self._slot, attempt.entries
        self._has_success = False
        try:
            fields = self._check(attempt)
            if not fields:
                return
            self._figures.runs(len(fields), again=attempt.is_repeat)
            slot.runs_processor = True
            try:
                results = self._runner.run_batch(attempt, [without_options(one) for one in fields])
            except BaseException as error:  # noqa: BLE001 - even SystemExit must not end a reader
                slot.runs_processor = False
                self._run_failed(attempt, fields, error)
                return
            slot.runs_processor = False
            for result in results:
                if isinstance(result, BaseException) and self._delivery.is_uncharged(result):
                    self._run_failed(attempt, fields, result)
                    return
            self._note_success(attempt)
            self._settle(attempt, fields, results)
        finally:
            slot.runs_processor = False
            if attempt.jobs is not None:
                self._end_jobs(list(attempt.jobs.values()), self._outbox)
            self._end(attempt, begun)

    def _check(self, attempt: Attempt) -> list[Fields]:
        """Settle the messages that must not be run, and return the fields of the others."""
        entries: list[Entry] = []
        fields: list[Fields] = []
        for entry in attempt.entries:
            checked = self._delivery.check(entry)
            if not isinstance(checked, dict):
                self._outbox.add(checked)
            else:
                entries.append(entry)
                fields.append(checked)
        attempt.entries = entries
        return fields

    def _settle(
        self, attempt: Attempt, fields: Sequence[Fields], results: Sequence[object]
    ) -> None:
        """Put what becomes of each message into the outbox: those that are done come first."""
        failed: list[tuple[Entry, Fields, BaseException]] = []
        for entry, own, result in zip(attempt.entries, fields, results, strict=True):
            error = self._finish(attempt, entry, own, result)
            if error is not None:
                failed.append((entry, own, error))
        delivery = self._delivery
        for place, (entry, own, error) in enumerate(failed):
            if self._has_success:
                delivery.note_success()
            self._outbox.add(delivery.raised(entry, own, error, attempt, may_wait=place == 0))

    def _finish(
        self, attempt: Attempt, entry: Entry, fields: Fields, result: object
    ) -> BaseException | None:
        """Put a message that is done into the outbox; return the error of one that has failed."""
        if isinstance(result, BaseException):
            return result
        finish: Finish | None = None
        if result is not None or OPTIONS in fields or attempt.jobs is not None:
            self._slot.runs_processor = True  # a result may be read by methods of its own
            try:
                finish = self._delivery.succeeded(entry, fields, result, attempt)
            except BaseException as error:  # noqa: BLE001 - even SystemExit must not end a reader
                return error
            finally:
                self._slot.runs_processor = False
        if finish is None:
            self._outbox.add_done(entry.id)
        else:
            self._outbox.add(finish)
        self._has_success = True
        return None

    def _run_failed(self, attempt: Attempt, fields: Sequence[Fields], error: BaseException) -> None:
        """Charge the only message of a run, or let several run again by parts."""
        release_memory(error)
        if not self._delivery.is_uncharged(error) and self._end_cancelled(attempt):
            return
        entries = attempt.entries
        if len(entries) == 1 or self._delivery.is_uncharged(error):
            self._settle(attempt, fields, [error] * len(entries))
            if len(entries) == 1 and is_out_of_memory(error):
                self._ceiling.one_ran_out_of_memory()
                self._note_ceiling()
            return
        if attempt.given_up:
            return  # each was charged at its deadline, and is another worker's now
        failure = Failure.of(error)
        what = f"{failure.error_type}: {failure.error}"
        size = (len(entries) + 1) // 2
        if is_out_of_memory(error):
            self._ceiling.ran_out_of_memory(len(entries))
            size = min(size, self._ceiling.size)
            self._note_ceiling(f", since {len(entries)} ran out of memory ({what})")
        elif not attempt.is_repeat:
            self._logger.warning(
                "a batch of %d messages failed, and runs again by halves until the culprit is "
                "alone: %s",
                len(entries),
                what,
            )
        self._run_again([entries[at : at + size] for at in range(0, len(entries), size)])

    def _end_cancelled(self, attempt: Attempt) -> bool:
        """Settle the messages that were cancelled while they ran, and let the others run again.

        Returns whether there were any: perhaps it was one of these that has failed.
        """
        delivery = self._delivery
        cancelled = [one for one in attempt.entries if delivery.is_cancelled(one, attempt)]
        if not cancelled or attempt.given_up:
            return False
        for entry in cancelled:
            self._outbox.add(delivery.cancelled(entry))
        others = [one for one in attempt.entries if one not in cancelled]
        if others:
            self._run_again([others])
        return True

    def _run_again(self, parts: Sequence[Sequence[Entry]]) -> None:
        """Let the messages of the attempt run again, by parts."""
        self._parts.extendleft(reversed(parts))
        self._slot.holds_parts = True
        self._in_flight.put_back(self._slot, [entry for part in parts for entry in part])

    def _note_success(self, attempt: Attempt) -> None:
        messages = len(attempt.entries)
        self._figures.succeeded(messages, attempt.ended_at - attempt.started_at)
        self._ceiling.succeeded(messages)
        self._note_ceiling()

    def _note_ceiling(self, why: str = "") -> None:
        """Show and log the ceiling if it has changed."""
        size, before = self._ceiling.size, self._figures.ceiling
        if size != before:
            self._figures.ceiling_is(size)
            level = logging.WARNING if size < before else logging.INFO
            self._logger.log(
                level, "%s runs at most %d messages together now%s", self._slot.name, size, why
            )

    def _end(self, attempt: Attempt, begun: Sequence[Entry]) -> None:
        slot = self._slot
        if not self._has_success:
            slot.unsuccessful += 1
        if slot.attempt is attempt:  # else its messages wait again
            slot.unsettled_suspects += crashes.suspects(begun)
            slot.end_attempt()
        if attempt.ended_at - attempt.started_at >= LONG_SECONDS:
            self._outbox.connection.close_if_stale()
