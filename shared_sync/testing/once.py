"""Running a processor once, with one message, and without Redis."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shared_sync.common.guarded import GuardedRecorder
from shared_sync.errors import ConfigurationError
from shared_sync.message import encode_fields
from shared_sync.metrics import WorkerMetrics
from shared_sync.policies import RetryPolicy
from shared_sync.processors import MessageProcessor, ProcessorContext, ProcessorSource
from shared_sync.protocol import progress
from shared_sync.protocol.dead_letter_layout import failure_line
from shared_sync.protocol.job_options import (
    OPTIONS,
    JobOptions,
    check_names,
    options_of,
    without_options,
)
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.live_job import JobContext, LiveJob
from shared_sync.protocol.messages import (
    Bury,
    Entry,
    Finish,
    Outcome,
    Output,
    Park,
    ResumableEntry,
)
from shared_sync.protocol.results import Results
from shared_sync.redis_consumer.charges import Rules
from shared_sync.redis_consumer.delivery import Delivery
from shared_sync.redis_consumer.faults.broken_worker import BrokenWorker
from shared_sync.redis_consumer.faults.broken_worker import Faults as WorkerFaults
from shared_sync.redis_consumer.faults.circuit_breakers import CircuitBreakers
from shared_sync.redis_consumer.faults.fatal_errors import FatalErrors
from shared_sync.redis_consumer.faults.pauses import Pauses
from shared_sync.redis_consumer.running.runner import ThreadRunner
from shared_sync.redis_consumer.slot import Slot
from shared_sync.result_listener.result import Result, parse

GROUP: Final = "tests"
_LOGGER: Final = logging.getLogger("shared_sync.testing")


@dataclass(frozen=True, slots=True)
class Emitted:
    """A message that the processor has emitted."""

    stream: str
    fields: Mapping[str, str | bytes]
    """As the next processor gets them: text, or bytes where they are no UTF-8."""
    forwards_reply: bool
    """Whether its result goes to the caller of this message."""


@dataclass(frozen=True, slots=True)
class Run:
    """What became of one run of a processor."""

    outcome: str
    """What a consumer makes of the message: `done`, `retry`, `dead`, `cancelled`, or `handed back`
    if the run is charged to nobody."""
    returned: object
    """What the processor has returned; None if it has raised."""
    error: BaseException | None
    """What the processor has raised."""
    result: Result | None
    """What a caller gets, with the values and types that arrive; None if there is no result."""
    retry_seconds: float | None
    """After how long a consumer would try again; None unless the outcome is `retry`."""
    reason: str
    """Why the message is dead or cancelled."""
    progress: Sequence[Mapping[str, Any]]
    """What was reported, in order: `progress`, and the reported fields. The last one is the
    `resume_data` of the next attempt."""
    emitted: Sequence[Emitted]
    """What a consumer would publish; nothing unless the message is done."""


def run_once(
    processor: MessageProcessor | str,
    fields: Mapping[str, object],
    *,
    attempt: int = 1,
    resume_data: Mapping[str, object] | None = None,
    cancel_after_reports: int | None = None,
    binary_fields: Collection[str] = (),
    stream: str = "jobs",
    traceparent: str = "",
    retry: RetryPolicy | None = None,
) -> Run:
    """Run a processor in this thread, as a consumer runs it; return what becomes of its message.

    The fields are stored and read as Redis would, so a number arrives as text. `current_message()`
    works, with all that it can do. Nothing is published.

    Args:
        processor: A `message_processor`, or its import path.
        fields: The fields, as `publish()` takes them.
        attempt: Which attempt it is. The earlier ones count as failures.
        resume_data: What an earlier attempt has reported last; `progress` is its number.
        cancel_after_reports: Cancel the message while it runs, after so many calls of
            `report_progress()`; 0 before the first. None to leave it alone.
        binary_fields: Fields whose values stay bytes.
        stream: The stream of the message, which `forward_reply` depends on.
        traceparent: The trace context of the message.
        retry: When and how often a consumer tries again; None for the usual `RetryPolicy`.

    Raises:
        ConfigurationError: An argument cannot work.
        InvalidMessage: The fields cannot be stored.
    """
    if not isinstance(attempt, int) or attempt < 1:
        raise ConfigurationError(f"attempt must be a whole number from 1 on, not {attempt!r}")
    return _Once(
        binary_fields=frozenset(binary_fields),
        stream=stream,
        retry=retry or RetryPolicy(),
        cancel_after_reports=cancel_after_reports,
    ).run(processor, _entry(fields, attempt, resume_data, traceparent))


def _entry(
    fields: Mapping[str, object],
    attempt: int,
    resume_data: Mapping[str, object] | None,
    traceparent: str,
) -> Entry:
    items = encode_fields(fields)
    check_names(fields)
    if traceparent:
        items += (OPTIONS.encode(), JobOptions(traceparent=traceparent).to_item())
    line = failure_line(
        worker="earlier", time=time.time(), attempt=1, error_type="Earlier", error="", delay_ms=0
    )
    history = f"{line}\n".encode() * (attempt - 1)
    entry = Entry(f"{time.time_ns() // 1_000_000}-0", items, attempt, history)
    if resume_data is None:
        return entry
    own = dict(resume_data)
    value: Any = own.pop(progress.VALUE, None)
    progress.check(value, own)
    return ResumableEntry(entry, b"earlier 1 " + progress.store(value, own))


class _Once:
    """Runs one message, and keeps what its processor does."""

    def __init__(
        self,
        *,
        binary_fields: frozenset[str],
        stream: str,
        retry: RetryPolicy,
        cancel_after_reports: int | None,
    ) -> None:
        self._binary_fields = binary_fields
        self._keys = Keys.of(stream, GROUP)
        self._cancel_after = cancel_after_reports
        self._results = Results(
            stream=stream,
            result_stream="results",
            result_channel=None,
            carry_fields=(),
            binary_fields=tuple(binary_fields),
        )
        recorder = GuardedRecorder(None, _LOGGER)
        self._delivery = Delivery(
            Rules(
                consumer="run_once",
                binary_fields=binary_fields,
                retry=retry,
                max_crashes=3,
                results=self._results,
            ),
            recorder=recorder,
            logger=_LOGGER,
            circuit_breakers=CircuitBreakers([], pauses=Pauses(logger=_LOGGER), recorder=recorder),
            faults=WorkerFaults(
                BrokenWorker(FatalErrors(()), on_broken=lambda _: None), successes=lambda: 0
            ),
        )
        self._slot = Slot("run_once")
        self._reported: list[dict[str, Any]] = []
        self._returned: object = None
        self._error: BaseException | None = None

    def run(self, processor: MessageProcessor | str, entry: Entry) -> Run:
        source = ProcessorSource.choose(message_processor=processor)
        metrics = WorkerMetrics("run_once")
        context = ProcessorContext(reader=1, device=None, metrics=metrics, logger=_LOGGER)
        process = source.load(context).process
        assert process is not None  # noqa: S101 - a message_processor is one

        def watched(message_id: str, fields: dict[str, Any]) -> object:
            try:
                self._returned = process(message_id, fields)
            except BaseException as error:
                self._error = error
                raise
            return self._returned

        jobs = JobContext(self._keys, is_cluster=False, server_time=time.time, progress=self)
        runner = ThreadRunner(ProcessorSource("message_processor", watched), context, jobs=jobs)
        runner.start()
        self._slot.waiting.append(entry)
        attempt = self._slot.start_next(time.monotonic())
        assert attempt is not None  # noqa: S101 - it waits
        if self._cancel_after == 0:
            attempt.job(entry).cancelled.set()
        outcome = self._delivery.run(attempt, runner, self._slot)
        self._slot.end_attempt()
        return self._describe(outcome, (attempt.jobs or {}).get(entry.id))

    def report(self, job: LiveJob, value: float | None, fields: Mapping[str, object]) -> None:
        """Take a report of progress, as a consumer does."""
        progress.check(value, fields)
        stored = progress.store(value, fields)
        self._results.progress(job.entry.id, self._delivery.fields_of(job.entry), value, fields)
        self._reported.append(progress.content_of(stored))
        if self._cancel_after == len(self._reported):
            job.cancelled.set()

    def _describe(self, outcome: Outcome | None, job: LiveJob | None) -> Run:
        name, result, reason = "done", None, ""
        if isinstance(outcome, Finish):
            name = outcome.status
            items = outcome.with_header()
            result = parse("", items) if items else None
            reason = "" if result is None else result.reason
        elif isinstance(outcome, Park):
            name = "retry"
        elif isinstance(outcome, Bury):
            name, result = "dead", parse("", outcome.answer.items)
            reason = result.reason
        elif outcome is not None:
            name = "handed back"
        emitted = job.outputs if job is not None and name == "done" else ()
        return Run(
            outcome=name,
            returned=self._returned,
            error=self._error,
            result=result,
            retry_seconds=outcome.delay_ms / 1000 if isinstance(outcome, Park) else None,
            reason=reason,
            progress=tuple(self._reported),
            emitted=tuple(_emitted(one) for one in emitted),
        )


def _emitted(output: Output) -> Emitted:
    fields: dict[str, str | bytes] = {}
    for name, value in zip(output.items[::2], output.items[1::2], strict=True):
        try:
            fields[name.decode()] = value.decode()
        except UnicodeDecodeError:
            fields[name.decode()] = value
    forwards_reply = bool(options_of(output.items).id)
    return Emitted(output.stream, without_options(fields), forwards_reply)
