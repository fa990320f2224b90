"""Running attempts in a child process for each reader: what `isolation="process"` means."""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol

from shared_sync.common.guarded import Logger, Recorder
from shared_sync.common.trace_context import TraceContext
from shared_sync.errors import JobCancelled
from shared_sync.isolation import frames
from shared_sync.isolation.child_jobs import finish_of, outputs_of
from shared_sync.isolation.child_logs import current_levels, handle
from shared_sync.isolation.child_metrics import record_in
from shared_sync.isolation.error_description import remake
from shared_sync.isolation.errors import ChildCrashed, ChildGone, DeadlinePassed, GracePassed
from shared_sync.isolation.process import ChildProcess
from shared_sync.isolation.wire import Frame
from shared_sync.message import Fields
from shared_sync.processors import ProcessorContext, ProcessorSource
from shared_sync.protocol.job_options import OPTIONS
from shared_sync.protocol.live_job import JobContext
from shared_sync.protocol.messages import Entry, Finish, Output
from shared_sync.protocol.results import Results
from shared_sync.redis_consumer.faults.circuit_breakers import CircuitBreakers
from shared_sync.redis_consumer.options import Options
from shared_sync.redis_consumer.running.child_memory import MemoryLimit
from shared_sync.redis_consumer.running.child_plan import ChildPlan, plain_logger
from shared_sync.redis_consumer.running.received_progress import ReceivedProgress
from shared_sync.redis_consumer.running.runner import AttemptHook, Runner, ThreadRunner
from shared_sync.redis_consumer.slot import Attempt

LEVELS_SECONDS: Final = 1.0
"""How old the levels of the loggers may be that a child logs from."""

_OPTIONS: Final = OPTIONS.encode()
_COUNTER_OF: Final[Mapping[type[Exception], str]] = {
    ChildCrashed: "children_crashed",
    DeadlinePassed: "children_overdue",
    GracePassed: "children_cancelled",
}
"""What counts the children that have ended so."""


class ChildTracing(Protocol):
    """Says which span the spans of a child belong to."""

    def to_travel(self) -> TraceContext | None:
        """Return the context of the attempt that runs; None if it has none."""


class EncodedResults(Results):
    """The form of results that children have encoded: they are as they are to be."""

    def success(
        self,
        entry: Entry,
        fields: Mapping[str, str | bytes],
        result: object,
        outputs: Sequence[Output] = (),
        *,
        forwards_reply: bool = False,
    ) -> Finish:
        """Return the result, which has come out of `ProcessRunner.run()`, with its address."""
        if not isinstance(result, Finish):
            return super().success(entry, fields, result, outputs, forwards_reply=forwards_reply)
        address = self.address(fields) if result.items else None
        if address is not None or outputs:
            result.redirect(address, outputs)
        return result


def runner_for(
    options: Options,
    source: ProcessorSource,
    context: ProcessorContext,
    hooks: Sequence[AttemptHook],
    *,
    jobs: JobContext,
    recorder: Recorder,
    circuit_breakers: CircuitBreakers,
    tracing: ChildTracing | None = None,
) -> Runner:
    """Return what runs the attempts of a reader: in its thread, or in a child process."""
    if options.isolation == "thread":
        return ThreadRunner(source, context, hooks, jobs=jobs)
    return ProcessRunner(
        ChildPlan.of(options, source, context, jobs),
        context,
        hooks,
        jobs=jobs,
        recorder=recorder,
        circuit_breakers=circuit_breakers,
        tracing=tracing,
    )


class ProcessRunner:
    """Runs the attempts of one reader in a child, which is replaced when it has died.

    A result comes out of `run()` as the `Finish` that the child has encoded. An error is a
    `RemoteError`, or made anew if it is one of this library; `ChildCrashed` if the child has died,
    `DeadlinePassed` if it was ended because the attempt ran for too long, `JobCancelled` if it was
    ended because it went on although its messages are cancelled, and `ChildGone` if it had died
    before, while it had nothing to do.
    """

    def __init__(
        self,
        plan: ChildPlan,
        context: ProcessorContext,
        hooks: Sequence[AttemptHook] = (),
        *,
        jobs: JobContext,
        recorder: Recorder,
        circuit_breakers: CircuitBreakers,
        tracing: ChildTracing | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Fixed after construction.
        self._plan = plan
        self._jobs = jobs
        self._progress = ReceivedProgress(jobs)
        self._context = context
        self._hooks = hooks
        self._recorder = recorder
        self._circuit_breakers = circuit_breakers
        self._tracing = tracing
        self._clock = clock
        self._logger: Logger = context.logger
        self._own_logger = plain_logger(context.logger)
        # Written by the reader's thread; any thread may read.
        self._child: ChildProcess | None = None
        # Written by whoever stops the consumer.
        self._is_interrupted = False
        # Owned by the reader's thread.
        self._is_loaded = False
        self._takes_batches = False
        self._memory = MemoryLimit(plan.max_memory_mb)
        self._is_too_large = False
        self._levels: dict[str, int] = {}
        self._levels_at = 0.0

    @property
    def is_loaded(self) -> bool:
        """Whether there is a child that has loaded the processor."""
        return self._is_loaded and self._child is not None and not self._child.has_ended

    @property
    def is_due(self) -> bool:
        """Whether the child has grown too large, and is to be replaced."""
        child, memory = self._child, self._memory
        if child is None or not memory.is_passed_by(child.pid):
            return False
        if not self._is_too_large:
            self._is_too_large = True
            self._recorder.increment_counter("children_oversized")
            self._logger.info(
                "the child process of reader %d has %.0f MB (max_memory_mb) and is replaced",
                self._context.reader,
                memory.measured_mb,
            )
        return True

    @property
    def child_pid(self) -> int | None:
        """The process id of the child; None while there is none. Any thread may ask."""
        child = self._child
        return None if child is None else child.pid

    @property
    def takes_batches(self) -> bool:
        """Whether the processor of the child takes several messages at once."""
        return self._takes_batches

    def start(self) -> None:
        """Start a child and wait until it has loaded the processor.

        Raises what loading has raised, as `run()` does, and `ChildCrashed`.
        """
        if self._is_interrupted:
            raise ChildCrashed(-signal.SIGTERM, loading=True)
        self._levels, self._levels_at = current_levels(self._own_logger), self._clock()
        self._child = child = ChildProcess(
            {**self._plan.setup, "levels": self._levels, "argv": sys.argv},
            self._plan.environment,
            on_record=self._on_record,
            deadline_seconds=self._plan.deadline_seconds,
            kill_grace_seconds=self._plan.kill_grace_seconds,
        )
        if self._is_interrupted:
            child.interrupt()
        answer = self._unless_it_ends(child.wait_until_loaded)
        if answer.kind == frames.FAILED:
            self._child = None
            child.close()
            raise remake(answer.header["error"])
        self._is_loaded, self._is_too_large = True, False
        self._memory.child_starts()
        self._takes_batches = answer.header["takes_batches"]

    def run(self, attempt: Attempt, fields: Sequence[Fields]) -> Sequence[object]:
        """Have the child run an attempt; return its encoded results."""
        child = self._child
        if child is None or not self.is_loaded:
            raise ChildGone("the child process has ended before it got the attempt")
        for hook in self._hooks:
            hook.before_attempt(attempt)
        raised: BaseException | None = None
        try:
            return self._run(child, attempt)
        except BaseException as error:
            raised = error
            raise
        finally:
            attempt.ended_at = self._clock()
            self._progress.end()
            if attempt.jobs is not None:
                attempt.end_jobs()
            for hook in self._hooks:
                after = hook.after_repeat if attempt.is_repeat else hook.after_attempt
                after(attempt, raised)
            del raised  # it refers to this frame

    def run_batch(self, attempt: Attempt, fields: Sequence[Fields]) -> Sequence[object]:
        """Have the child run an attempt of any number of messages; return its encoded results."""
        return self.run(attempt, fields)

    def close(self) -> None:
        """Have the processor closed, and end the child."""
        child = self._child
        if child is not None and child.has_ended:
            self._note_end(child.crashed())
        elif child is not None:
            child.close()
        self._child, self._is_loaded = None, False

    def cancel(self, attempt: Attempt, entry: Entry) -> None:
        """Tell the child that a message is cancelled; end it if all are that run, after a grace."""
        attempt.job(entry).cancelled.set()
        child = self._child
        if child is not None:
            child.cancel([entry.id])

    def interrupt(self) -> bool:
        """End the child, for good."""
        self._is_interrupted = True
        child = self._child
        if child is not None:
            child.interrupt()
        return True

    # --- inside ---

    def _unless_it_ends(self, exchange: Callable[[], Frame]) -> Frame:
        """Return what the child answers; forget the child if it ends instead."""
        try:
            answer = exchange()
        except BaseException as error:
            self._child, self._is_loaded = None, False
            if isinstance(error, (ChildCrashed, DeadlinePassed, GracePassed)):
                self._note_end(error)
            if isinstance(error, GracePassed):
                raise JobCancelled(str(error)) from error
            raise
        recorded = answer.header.get("metrics")
        if recorded is not None:
            record_in(self._context.metrics, recorded)
        return answer

    def _run(self, child: ChildProcess, attempt: Attempt) -> Sequence[object]:
        entries = attempt.entries
        header: dict[str, Any] = {
            "messages": [(one.id, one.deliveries, len(one.items)) for one in entries],
            "number": attempt.number,
        }
        may_expire = self._jobs.max_age_seconds is not None
        if may_expire or any(_OPTIONS in one.items for one in entries):
            header["clock"] = round(self._jobs.server_time() - time.monotonic(), 3)
        resume = {one.id: one.progress.decode(errors="replace") for one in entries if one.progress}
        if resume:
            header["resume"] = resume
        trace = None if self._tracing is None else self._tracing.to_travel()
        if trace is not None:
            header["trace"] = trace
        if self._clock() - self._levels_at > LEVELS_SECONDS:
            self._add_levels(header)
        states = self._circuit_breakers.export_states()
        if states:
            header["breakers"] = states
        parts = entries[0].items if len(entries) == 1 else [i for one in entries for i in one.items]
        self._progress.begin(attempt)
        answer = self._unless_it_ends(partial(child.run, header, parts))
        self._progress.end(answer.header.get("progress", ()))
        if states:
            self._circuit_breakers.apply_reports(answer.header["breakers"])
        if answer.kind == frames.FAILED:
            raise remake(answer.header["error"])
        found = iter(answer.parts)
        results: list[object] = []
        for entry, outcome in zip(entries, answer.header["outcomes"], strict=True):
            if outcome is None:
                results.append(None)
            elif "error" in outcome:
                results.append(remake(outcome["error"]))
            else:
                results.append(finish_of(outcome, found, entry))
        for place, forwards_reply, emitted in answer.header.get("jobs", ()):
            job = attempt.job(entries[place])
            job.forwards_reply = forwards_reply
            job.outputs += outputs_of(emitted, found)
        return results

    def _add_levels(self, header: dict[str, Any]) -> None:
        """Tell the child if the program has changed what is logged."""
        levels, self._levels_at = current_levels(self._own_logger), self._clock()
        if levels != self._levels:
            header["levels"] = {**dict.fromkeys(self._levels, logging.NOTSET), **levels}
            self._levels = levels

    def _note_end(self, why: ChildCrashed | DeadlinePassed | GracePassed) -> None:
        """Count and log the end of a child that was not asked to end, or did not listen."""
        if self._is_interrupted:
            return
        self._recorder.increment_counter(_COUNTER_OF[type(why)])
        self._logger.warning(
            "the child process of reader %d has ended, and is replaced: %s",
            self._context.reader,
            why,
        )

    def _on_record(self, frame: Frame) -> None:
        """In a thread of its own: handle what the child has logged, recorded or reported."""
        if frame.kind == frames.LOG:
            handle(frame.header, self._own_logger)
        elif frame.kind == frames.PROGRESS:
            self._progress.receive(frame.header)
        else:
            record_in(self._context.metrics, frame.header)
