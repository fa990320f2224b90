"""Running the messages of a job in a child, and encoding what becomes of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from shared_sync.common.fork import renew_lock_in_forks
from shared_sync.common.out_of_memory import release_memory
from shared_sync.common.trace_context import TraceContext
from shared_sync.isolation import frames
from shared_sync.isolation.child_progress import ChildProgress
from shared_sync.isolation.error_description import describe
from shared_sync.isolation.wire import Frame
from shared_sync.message import Fields, Message, decode_fields, running_in_this_thread
from shared_sync.processors import LoadedProcessor
from shared_sync.protocol.job_options import OPTIONS, without_options
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.live_job import JobContext, LiveJob
from shared_sync.protocol.messages import Entry, Finish, Output, ResumableEntry
from shared_sync.protocol.results import Results, refuse_unstarted
from shared_sync.values import has_run


class ChildSpans(Protocol):
    """Lets the spans of the processor belong to the span of its attempt. In the main thread."""

    def begin(self, trace: TraceContext) -> None:
        """The processor is about to run in an attempt whose span this is."""

    def end(self) -> None:
        """The processor has returned or raised."""

    def emitted(self, stream: str) -> TraceContext:
        """Return the context of a message that the processor emits. Any thread may call it."""


class Jobs:
    """Runs jobs one after the other, in the main thread of a child."""

    def __init__(
        self,
        results: Results,
        *,
        binary_fields: frozenset[str],
        keys: Keys,
        is_cluster: bool,
        max_age_seconds: float | None = None,
        send_progress: Callable[[Sequence[Any]], None],
        tracing: ChildSpans | None = None,
    ) -> None:
        # Fixed after construction.
        self._results = results
        self._reads_fields = results.reads_fields
        self._binary_fields = binary_fields
        self._progress = ChildProgress(self._check_progress, send_progress)
        self._tracing = tracing
        self._context = JobContext(
            keys,
            is_cluster,
            self._server_time,
            self._progress,
            max_age_seconds,
            None if tracing is None else tracing.emitted,
        )
        self._running = running_in_this_thread()
        self._running.control_of = self._live_job
        # Guarded by the lock.
        self._lock = threading.RLock()
        renew_lock_in_forks(self)
        self._cancelled: set[str] = set()
        self._live_jobs: dict[str, LiveJob] = {}
        """By the id of the message; made when the processor first needs it."""
        # Written by the main thread; any thread may read.
        self._entries: Sequence[Entry] = ()
        """The messages that run."""
        self._clock_offset = 0.0
        """The server's time minus the monotonic clock, if a message may expire."""

    def cancel(self, ids: Sequence[str]) -> None:
        """Note that messages are cancelled, perhaps before their job begins. For any thread."""
        with self._lock:
            self._cancelled.update(ids)
            jobs = [self._live_jobs[one] for one in ids if one in self._live_jobs]
        for job in jobs:
            job.cancelled.set()

    def running(self) -> Sequence[Entry]:
        """Return the messages that run. For any thread."""
        return self._entries

    def run(self, processor: LoadedProcessor, job: Frame) -> Frame:
        """Run the messages of a job; return the frame that answers it.

        Raises nothing that the processor raises.
        """
        self._clock_offset = job.header.get("clock", 0.0)
        self._progress.begin(job.header["number"])
        entries = self._entries = _entries(job)
        fields = [decode_fields(one.items, self._binary_fields) for one in entries]
        # The processor may change its own fields.
        own = [
            without_options(one) if self._reads_fields or OPTIONS in one else one for one in fields
        ]
        tracing = self._tracing
        try:
            if tracing is not None and "trace" in job.header:
                tracing.begin(TraceContext(*job.header["trace"]))
            results = self._process(processor, entries, own)
            if processor.process_batch is None:
                return self._answer_one(entries[0], fields[0], results[0])
            return self._answer(entries, fields, results)
        except BaseException as error:  # noqa: BLE001 - even SystemExit is the processor's
            release_memory(error)
            return Frame(frames.FAILED, self._with_progress({"error": describe(error)}), ())
        finally:
            if tracing is not None:
                tracing.end()
            self._end()

    def _process(
        self, processor: LoadedProcessor, entries: Sequence[Entry], own: Sequence[Fields]
    ) -> Sequence[object]:
        try:
            if processor.process_batch is None:
                (entry,) = entries
                self._running.parts = (entry.id, own[0], entry.deliveries, entry)
                return (processor.process(entry.id, own[0]),)  # type: ignore[misc]
            self._running.is_batch = True
            messages = [
                Message(one.id, its_own, one.deliveries, self._live_job(one))
                for one, its_own in zip(entries, own, strict=True)
            ]
            return processor.process_batch(messages)
        finally:
            for job in self._live_jobs.values():
                job.end()

    def _end(self) -> None:
        if self._live_jobs or self._cancelled:
            with self._lock:
                self._cancelled.clear()
                self._live_jobs.clear()
        self._entries = ()
        self._running.parts = None
        self._running.is_batch = False

    # --- the outcomes of the messages ---

    def _answer_one(self, entry: Entry, fields: Fields, result: object) -> Frame:
        finish = self._finish(entry, fields, result)
        return self._done([_described(finish)], _parts(finish), [(0, entry)])

    def _answer(
        self, entries: Sequence[Entry], fields: Sequence[Fields], results: Sequence[object]
    ) -> Frame:
        outcomes: list[object] = []
        parts: list[bytes] = []
        done: list[tuple[int, Entry]] = []
        for place, (entry, own, result) in enumerate(zip(entries, fields, results, strict=True)):
            error = result if isinstance(result, BaseException) else None
            if error is None:
                try:
                    finish = self._finish(entry, own, result)
                    outcomes.append(_described(finish))
                    parts += _parts(finish)
                    done.append((place, entry))
                except Exception as raised:  # noqa: BLE001 - the fate of this message alone
                    error = raised
            if error is not None:
                outcomes.append({"error": describe(error)})
        return self._done(outcomes, parts, done)

    def _done(
        self, outcomes: Sequence[object], parts: Sequence[bytes], done: Sequence[tuple[int, Entry]]
    ) -> Frame:
        header: dict[str, Any] = {"outcomes": outcomes}
        if self._live_jobs:
            emitted, items = self._emitted(done)
            if emitted:
                header["jobs"] = emitted
                parts = [*parts, *items]
        return Frame(frames.DONE, self._with_progress(header), parts)

    def _finish(self, entry: Entry, fields: Fields, result: object) -> Finish | None:
        """Return what is published for a result, as the parent does without a child."""
        if result is None:
            return None
        if self._results.wanted or OPTIONS in fields:
            job = self._live_jobs.get(entry.id)
            if job is None:
                return self._results.success(entry, fields, result)
            return self._results.success(
                entry, fields, result, job.outputs, forwards_reply=job.forwards_reply
            )
        if not has_run(result):
            refuse_unstarted(result)
        return None

    def _emitted(
        self, done: Sequence[tuple[int, Entry]]
    ) -> tuple[list[tuple[int, bool, list[tuple[str, int]]]], list[bytes]]:
        """Return a description of what the done messages have emitted, and the items."""
        found: list[tuple[int, bool, list[tuple[str, int]]]] = []
        items: list[bytes] = []
        for place, entry in done:
            job = self._live_jobs.get(entry.id)
            if job is not None and job.outputs:
                outputs = list(job.outputs)
                found.append(
                    (place, job.forwards_reply, [(one.stream, len(one.items)) for one in outputs])
                )
                for one in outputs:
                    items += one.items
        return found, items

    def _with_progress(self, header: dict[str, Any]) -> dict[str, Any]:
        last = self._progress.last() if self._live_jobs else None
        if last:
            header["progress"] = last
        return header

    # --- the LiveJobs of the messages ---

    def _live_job(self, entry: Entry) -> LiveJob:
        with self._lock:
            job = self._live_jobs.get(entry.id)
            if job is None:
                job = self._live_jobs[entry.id] = LiveJob(entry, self._context)
            is_cancelled = entry.id in self._cancelled
        if is_cancelled:
            job.cancelled.set()
        return job

    def _check_progress(
        self, job: LiveJob, value: float | None, fields: Mapping[str, object]
    ) -> None:
        """Raise `InvalidMessage` if the parent could not publish this."""
        own = decode_fields(job.entry.items, self._binary_fields)
        self._results.progress(job.entry.id, own, value, fields)

    def _server_time(self) -> float:
        return time.monotonic() + self._clock_offset


def _entries(job: Frame) -> list[Entry]:
    resume = job.header.get("resume", {})
    entries: list[Entry] = []
    first = 0
    for message_id, deliveries, count in job.header["messages"]:
        entry = Entry(message_id, list(job.parts[first : first + count]), deliveries)
        if message_id in resume:
            entry = ResumableEntry(entry, resume[message_id].encode())
        entries.append(entry)
        first += count
    return entries


def _described(finish: Finish | None) -> dict[str, Any] | None:
    if finish is None:
        return None
    return {
        "items": len(finish.items),
        "channel": finish.channel,
        "adds_header": finish.adds_header,
    }


def _parts(finish: Finish | None) -> Sequence[bytes]:
    """Return the items of a result, and what its channel gets."""
    return () if finish is None else (*finish.items, finish.payload)


def finish_of(described: Mapping[str, Any], parts: Iterator[bytes], entry: Entry) -> Finish:
    """In the parent: return the result of a message as the child has described it."""
    items = [next(parts) for _ in range(described["items"])]
    return Finish(
        entry.id,
        items,
        described["channel"],
        next(parts),
        described["adds_header"],
        entry,
    )


def outputs_of(described: Sequence[Sequence[Any]], parts: Iterator[bytes]) -> list[Output]:
    """In the parent: return the emitted messages from the description of the child."""
    return [Output(stream, [next(parts) for _ in range(count)]) for stream, count in described]
