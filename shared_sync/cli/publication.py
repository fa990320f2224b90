"""Publishes what `publish` was given, and says how far it came if it could not publish all."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from shared_sync.cli import message_input
from shared_sync.cli.grammar import DONE, FAILED, CommandFailed, explain, joined
from shared_sync.cli.output import Output, value_for_json
from shared_sync.errors import (
    ConfigurationError,
    InvalidMessage,
    RedisAccessDenied,
    RedisUnavailable,
    ResultTimeout,
    SharedSyncError,
)
from shared_sync.redis_producer import Job, JobHandle, RedisStreamProducer
from shared_sync.result_listener import Result

MESSAGES_AT_ONCE: Final = 100
"""Messages whose ids are printed together; one round trip publishes so many."""

PERHAPS: Final = f"; up to {MESSAGES_AT_ONCE} messages from there may be published too"
"""What is said if it is not known whether the server has carried out what was sent last."""

OPTIONS: Final = (
    *("expires_seconds", "delay_seconds", "at", "deduplicate_key", "deduplicate_seconds"),
    *("reply_to", "traceparent"),
)
"""Options that have the names of arguments of `Job`."""


class Publication:
    """Messages on their way into a stream. For one thread."""

    def __init__(self, producer: RedisStreamProducer, options: argparse.Namespace) -> None:
        # Fixed after construction.
        self._producer = producer
        self._block_seconds: float = options.block_seconds or 0.0
        self._waits = bool(options.wait)
        self._key_field: str | None = options.deduplicate_field
        self._job_options = {
            name: getattr(options, name) for name in OPTIONS if getattr(options, name) is not None
        }
        self._output = Output(options)
        # State.
        self._handles: list[JobHandle] = []
        self._published = 0
        self._next_line = 1

    def publish_message(self, fields: Mapping[str, object]) -> None:
        """Publish one message."""
        try:
            self._publish([(0, self._job(fields))])
        except CommandFailed as error:
            if not self._published:
                raise
            raise CommandFailed(joined(str(error), self._count_text())) from None

    def publish_lines(self, file: str, first: int) -> None:
        """Publish a message for each line of a file, beginning with line `first`.

        What ends this early says how many messages are published, and from which line to go on.
        """
        self._next_line = first
        try:
            with message_input.open_input(file) as opened:
                for lines in message_input.read_lines(opened):
                    wanted = [line for line in lines if line[0] >= first]
                    for start in range(0, len(wanted), MESSAGES_AT_ONCE):
                        self._publish_some(wanted[start : start + MESSAGES_AT_ONCE])
        except BrokenPipeError:
            print(self._report(), file=sys.stderr)
            raise
        except OSError as error:
            raise self._with_report(message_input.unreadable(file, error)) from None
        except SharedSyncError as error:
            raise self._with_report(error) from None
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted; {self._report()}{PERHAPS}") from None
        print(self._count_text(), file=sys.stderr)

    def wait(self, seconds: float) -> int:
        """Print the results, and return the exit status. Blocks for at most so many seconds."""
        deadline = time.monotonic() + seconds
        status = DONE
        for place, handle in enumerate(self._handles):
            try:
                result = handle.result(max(0.0, deadline - time.monotonic()))
            except ResultTimeout:
                line = f"{handle.id} has no result after {seconds:g} s; a worker may still run it"
                self._output.show({"id": handle.id, "status": "no result"}, line)
                status = FAILED
            except KeyboardInterrupt:
                left = ", ".join(handle.id for handle in self._handles[place:])
                raise KeyboardInterrupt(f"interrupted; published, and may run: {left}") from None
            else:
                status = status if result.ok else FAILED
                self._output.show(dataclasses.asdict(result), *_lines(result))
        return status

    def _publish_some(self, lines: Sequence[tuple[int, bytes]]) -> None:
        jobs: list[tuple[int, Job]] = []
        fault: SharedSyncError | None = None
        for line_number, line in lines:
            try:
                fields = message_input.parse_line(line_number, line)
                jobs.append((line_number, self._job(fields)))
            except SharedSyncError as error:
                fault = error
                break
        self._publish(jobs)
        if fault is not None:
            raise fault

    def _job(self, fields: Mapping[str, object]) -> Job:
        options = self._job_options
        if self._key_field is not None:
            if self._key_field not in fields:
                raise CommandFailed(f"a message has no field {self._key_field!r} for its key")
            options = {**options, "deduplicate_key": str(fields[self._key_field])}
        return Job(fields, **options)

    def _publish(self, jobs: Sequence[tuple[int, Job]]) -> None:
        """Publish the jobs of some lines; if one cannot be stored, all before it."""
        try:
            self._send(jobs)
        except InvalidMessage as refused:
            for line_number, job in jobs[len(refused.published) :]:
                try:
                    self._send([(line_number, job)])
                except InvalidMessage as error:
                    place = f"line {line_number}: " if line_number else ""
                    raise CommandFailed(f"{place}{error}") from None

    def _send(self, jobs: Sequence[tuple[int, Job]]) -> None:
        if self._waits:
            for line_number, job in jobs:
                handle = self._producer.submit(
                    job.fields, **_submit_options(job), block_seconds=self._block_seconds
                )
                self._handles.append(handle)
                self._count(line_number)
            return
        try:
            ids: Sequence[str] = self._producer.publish_many(
                [job for _, job in jobs], block_seconds=self._block_seconds
            )
        except SharedSyncError as error:
            self._show(jobs, error.published)
            raise
        self._show(jobs, ids)

    def _show(self, jobs: Sequence[tuple[int, Job]], ids: Sequence[str]) -> None:
        # All are counted first: whoever reads the ids may go away.
        for line_number, _ in jobs[: len(ids)]:
            self._count(line_number)
        for (line_number, _), message_id in zip(jobs, ids, strict=False):
            place = {"line": line_number} if line_number else {}
            self._output.show({"id": message_id, **place}, message_id)

    def _count(self, line_number: int) -> None:
        self._published += 1
        self._next_line = line_number + 1

    def _report(self) -> str:
        return f"{self._count_text()}; go on with --from-line {self._next_line}"

    def _count_text(self) -> str:
        one = self._published == 1
        return "1 message is published" if one else f"{self._published} messages are published"

    def _with_report(self, error: SharedSyncError) -> SharedSyncError:
        perhaps = ""
        if isinstance(error, RedisUnavailable) and not isinstance(error, RedisAccessDenied):
            perhaps = PERHAPS
        if not (self._published or perhaps):
            return error
        kind = ConfigurationError if isinstance(error, ConfigurationError) else CommandFailed
        return kind(joined(explain(error), f"{self._report()}{perhaps}"))


def _submit_options(job: Job) -> dict[str, Any]:
    names = set(OPTIONS) - {"reply_to"}
    return {name: getattr(job, name) for name in names}


def _lines(result: Result) -> Iterator[str]:
    reason = f": {result.reason}" if result.reason else ""
    yield f"{result.id} {result.status}{reason}"
    for name, value in result.fields.items():
        shown = value_for_json(value) if isinstance(value, bytes) else value
        yield f"  {name} = {shown}"
