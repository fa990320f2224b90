"""Batches: encoded messages that are sent in one round trip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from shared_sync.common.trace_context import TraceContext
from shared_sync.connection.scripts import Command
from shared_sync.protocol import publishing
from shared_sync.protocol.keys import StreamKeys
from shared_sync.protocol.publishing import AT_ONCE, Placing
from shared_sync.redis_producer.job import NO_TRACE, Job, encode, encode_job

BATCH: Final = 100
"""The most messages that are sent in one round trip."""
MAX_BATCH_BYTES = 4 * 1024 * 1024
"""A batch ends with the message that reaches this size."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The messages of one round trip."""

    messages: list[list[bytes]]
    """The names and values of each message, in turn; empty after the last message."""

    placings: Mapping[int, Placing]
    """The placings of messages with a key or a time, by their index in `messages`."""

    error: Exception | None = None
    """The error that ended the messages early, if any."""

    def command(self, keys: StreamKeys, max_queue_depth: int | None) -> Command:
        """Return the command that publishes the messages."""
        if not self.placings:
            return publishing.publish(keys.stream, self.messages, max_queue_depth)
        placings = [self.placings.get(place, AT_ONCE) for place in range(len(self.messages))]
        return publishing.publish_jobs(keys, self.messages, placings, max_queue_depth)

    def remembered_seconds(self) -> float:
        """Return for how long these messages may be sent again without being published twice.

        0 if one of them has no key.
        """
        placings = self.placings.values()
        if len(placings) < len(self.messages):
            return 0.0
        return min(one.deduplicate_ms if one.deduplicate_key else 0 for one in placings) / 1000

    def behind(self, count: int) -> Batch:
        """Return a batch without the first `count` messages."""
        placings = {place - count: one for place, one in self.placings.items() if place >= count}
        return Batch(self.messages[count:], placings)


def batch_of(job: Job, stream: str, trace: TraceContext = NO_TRACE) -> Batch:
    """Return a batch of one message. Raises as `encode_job()` does."""
    items, placing = encode_job(job, stream, trace)
    return Batch([items], {} if placing is AT_ONCE else {0: placing})


def next_batch(
    messages: Iterator[Mapping[str, object] | Job], stream: str, trace: TraceContext = NO_TRACE
) -> Batch:
    """Encode the next messages. If one of them cannot be stored or read, the batch is empty.

    Its error is in the batch instead of being raised, because the reply to the previous batch may
    not have arrived yet.
    """
    batch: list[list[bytes]] = []
    placings: dict[int, Placing] = {}
    size = 0
    is_traced = bool(trace.traceparent)
    try:
        for message in messages:
            if is_traced and not isinstance(message, Job):
                message = Job(message)  # noqa: PLW2901 - with options, like every other then
            if isinstance(message, Job):
                items, placing = encode_job(message, stream, trace)
                if placing is not AT_ONCE:
                    placings[len(batch)] = placing
            else:
                items = encode(message)
            batch.append(items)
            size += sum(map(len, items))
            if len(batch) == BATCH or size >= MAX_BATCH_BYTES:
                break
    except Exception as error:  # noqa: BLE001 - raised when the batch is used
        return Batch([], {}, error)
    return Batch(batch, placings)
