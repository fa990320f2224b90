"""The fate of one message, whoever fetched it: done, tried again later, or a dead letter."""

from __future__ import annotations

import copy
import json
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from shared_sync.common.guarded import ErrorRecorder, Logger
from shared_sync.errors import Directive, InvalidMessage, Reject, Retry, SharedSyncError
from shared_sync.message import Message, decode_fields, decode_readable, encode_fields
from shared_sync.policies import MAX_DELAY_SECONDS, RetryPolicy
from shared_sync.protocol import commands as stream_commands
from shared_sync.protocol.commands import Bury, Entry, Finish, Outcome, Park
from shared_sync.redis_consumer.results import Results
from shared_sync.redis_consumer.runner import ThreadProcessor

_COUNTERS: Final[dict[type[Outcome], str]] = {
    Finish: "jobs_processed",
    Park: "jobs_retried",
    Bury: "jobs_dead",
}
DEADLINE: Final = "deadline"
"""What stands as the type of the error where a message ran past its deadline."""

MAX_ERROR_CHARS = 500
MAX_TRACEBACK_CHARS = 4000


@dataclass(frozen=True, slots=True)
class _Failure:
    """How one attempt failed."""

    error_type: str
    error: str
    raised: BaseException | None = None
    """What the processor raised."""

    stack: str = ""
    """Where its reader is, if the processor has not returned."""

    @classmethod
    def of(cls, error: BaseException) -> _Failure:
        return cls(type(error).__name__, _text_of(error), error)

    def trace(self) -> str:
        """The end of what shows where it happened."""
        text = self.stack if self.raised is None else _traceback_of(self.raised)
        return text.encode(errors="replace").decode()[-MAX_TRACEBACK_CHARS:]


_NO_FAILURE: Final = _Failure("", "")


@dataclass(frozen=True, slots=True)
class _Death:
    """Why a message is given up on: its last failure, perhaps with a trace, or something else."""

    reason: str
    failure: _Failure = _NO_FAILURE
    trace: str = ""


class Delivery:
    """Decides about messages. Safe from any thread; blocks only as long as the processor does."""

    def __init__(
        self,
        *,
        processor: ThreadProcessor,
        results: Results,
        consumer: str,
        binary_fields: Sequence[str],
        retry: RetryPolicy,
        max_crashes: int,
        recorder: ErrorRecorder,
        logger: Logger,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._processor = processor
        self._results = results
        self._consumer = consumer
        self._binary_fields = frozenset(binary_fields)
        self._retry = retry
        self._max_crashes = max_crashes
        self._recorder = recorder
        self._logger = logger
        self._clock = clock
        self._wall = wall
        self._channel_refusal_told = threading.Event()
        # Written by the one thread that attempts; anyone may read.
        self.in_processor = False
        """Whether the user's function runs just now."""
        self.moved_at = clock()
        """When an attempt last began or ended."""

    def recording_to(self, recorder: ErrorRecorder) -> Delivery:
        """Return one that decides just the same and records elsewhere, for one thread."""
        twin = copy.copy(self)
        twin._recorder = recorder
        return twin

    def attempt(self, entry: Entry) -> Outcome:
        """Run one message, unless it must not be run, and say what is to become of it.

        Raises nothing that the processor raised, of whatever kind.
        """
        try:
            fields = decode_fields(entry.items, self._binary_fields)
        except InvalidMessage as invalid:
            readable = decode_readable(entry.items)
            return self._bury(entry, readable, _Death(f"bad input: {invalid}"))
        if entry.crashes >= self._max_crashes:
            death = _Death(f"crashed: its process died {entry.crashes} times")
            return self._bury(entry, fields, death)
        missing = self._results.missing_field(fields)
        if missing is not None:
            death = _Death(
                f"bad input: field {missing!r}, which result_channel needs, is missing; "
                "publish it with the message"
            )
            return self._bury(entry, fields, death)
        return self._run(entry, fields)

    def _run(self, entry: Entry, fields: dict[str, str | bytes]) -> Outcome:
        if entry.deliveries == 1:
            waited = self._wall() - stream_commands.id_milliseconds(entry.id) / 1000
            self._recorder.record_duration("queue_wait", max(0.0, waited))
        started = self.moved_at = self._clock()
        try:
            self.in_processor = True
            result = self._processor.run(Message(entry.id, dict(fields), entry.deliveries))
            answer = self._results.success(entry.id, fields, result)
        except BaseException as error:  # noqa: BLE001 - even SystemExit must not end a reader
            self.in_processor = False  # what follows is ours, and the logger's
            _let_go_of_memory(error)
            return self._failed(entry, fields, _Failure.of(error))
        finally:
            self.in_processor = False
            self.moved_at = self._clock()
            self._recorder.record_duration("processing_latency", self.moved_at - started)
        return Finish(entry.id, answer)

    def overdue(self, entry: Entry, deadline_seconds: float, stack: str) -> Outcome:
        """Say what is to become of a message that has run here for too long; a failure like others.

        `stack` tells where its reader is; the end of it stays with the message if it dies.
        """
        self._recorder.increment_counter("jobs_overdue")
        text = f"still running after {deadline_seconds:g} s (job_deadline_seconds)"
        failure = _Failure(DEADLINE, text, stack=stack)
        self._logger.error("message %s is %s; its reader is at:\n%s", entry.id, text, stack)
        return self._failed(entry, decode_fields(entry.items, self._binary_fields), failure)

    def _failed(self, entry: Entry, fields: dict[str, str | bytes], failure: _Failure) -> Outcome:
        failures = entry.failures + 1
        error = failure.raised
        self._recorder.increment_counter("jobs_failed")
        self._recorder.record_error(failure.error_type if error is None else error)
        if isinstance(error, Reject):
            death = _Death(f"rejected: {failure.error}", failure)
        elif failures >= self._retry.max_attempts:
            death = _Death(f"failed {failures} times", failure, failure.trace())
        else:
            delay = self._retry.delay_seconds(failures)
            if isinstance(error, Retry) and error.delay_seconds is not None:
                delay = min(error.delay_seconds, MAX_DELAY_SECONDS)
            self._logger.warning(
                "message %s failed (attempt %d, failure %d of %d): %s: %s; next attempt in %.1f s",
                entry.id,
                entry.deliveries,
                failures,
                self._retry.max_attempts,
                failure.error_type,
                failure.error,
                delay,
                exc_info=error if failures == 1 and not isinstance(error, Directive) else None,
            )
            line = self._failure_line(entry, failure)
            return Park(entry.id, line, round(delay * 1000), entry.deliveries)
        return self._bury(entry, fields, death)

    def _bury(
        self,
        entry: Entry,
        fields: Mapping[str, str | bytes],
        death: _Death,
    ) -> Bury:
        failure = death.failure
        self._logger.error(
            "message %s becomes a dead letter (delivery %d): %s%s",
            entry.id,
            entry.deliveries,
            death.reason,
            f" ({failure.error_type}: {failure.error})" if death.trace else "",
            exc_info=failure.raised if death.trace else None,
        )
        facts = {
            "reason": death.reason,
            "error_type": failure.error_type,
            "error": failure.error,
            "attempts": entry.deliveries,
        }
        metadata = {
            "id": entry.id,
            **facts,
            "traceback": death.trace,
            "crashes": entry.crashes,
            "worker": self._consumer,
            "time": self._wall(),
        }
        return Bury(
            entry.id,
            self._failure_line(entry, failure) if failure is not _NO_FAILURE else "",
            encode_fields({f"dead.{name}": value for name, value in metadata.items()}),
            self._results.death(entry.id, fields, facts),
        )

    def settle(self, outcome: Outcome, reply: int, *, repeated: bool) -> None:
        """Record what an outcome came to: `reply` is what its script returned.

        `repeated` says that it had been sent before and the reply was lost; finding the message
        already ended then most likely means that the first sending had ended it.
        """
        if reply < 0:
            self._recorder.increment_counter("lost_bodies")
            self._logger.warning(
                "message %s cannot be kept: its entry was deleted from the stream by others",
                outcome.id,
            )
        elif reply == 0 and not repeated:
            self._recorder.increment_counter("jobs_lost")
            self._logger.warning(
                "message %s was taken over by another consumer or deleted; "
                "what became of it here (%s) does not count",
                outcome.id,
                type(outcome).__name__.lower(),
            )
        else:
            self._recorder.increment_counter(_COUNTERS[type(outcome)])

    def channel_refused(self, error: SharedSyncError) -> None:
        """Results could not be published on their channel; count it, and tell it once."""
        self._recorder.increment_counter("results_unpublished")
        if not self._channel_refusal_told.is_set():
            self._channel_refusal_told.set()
            self._logger.error(
                "results cannot be published on their channels: %s; grant the worker's user the "
                "right to them. Messages go on; this is said once",
                error,
            )

    def _failure_line(self, entry: Entry, failure: _Failure) -> str:
        return json.dumps(
            {
                "worker": self._consumer,
                "time": round(self._wall(), 3),
                "attempt": entry.deliveries,
                "error_type": failure.error_type,
                "error": failure.error,
            }
        )


def _let_go_of_memory(error: BaseException) -> None:
    """Where memory ran out, drop what the failed call has in hand: telling of it needs some."""
    before = error.__context__
    if isinstance(error, MemoryError) or isinstance(before, MemoryError):
        if error.__traceback__ is not None:
            traceback.clear_frames(error.__traceback__.tb_next)  # the first frame is the caller's
        if before is not None:
            traceback.clear_frames(before.__traceback__)


def _text_of(error: BaseException) -> str:
    """The error's text, shortened; never raises, and is always valid Unicode."""
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001 - an error whose text fails is still an error
        text = "(its text cannot be read)"
    return text.encode(errors="replace").decode()[:MAX_ERROR_CHARS]


def _traceback_of(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except BaseException:  # noqa: BLE001 - as above
        return ""
