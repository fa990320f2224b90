"""Messages that are sent together: encoded, and as many as go in one round trip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from shared_sync.connection.scripts import Command
from shared_sync.protocol import publishing
from shared_sync.protocol.keys import StreamKeys
from shared_sync.protocol.publishing import AT_ONCE, Placing
from shared_sync.redis_producer.job import Job, encode, encode_job

BATCH: Final = 100
"""The most messages that are sent in one round trip."""
MAX_BATCH_BYTES = 4 * 1024 * 1024
"""A batch ends with the message that reaches this size."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What is sent in one round trip."""

    messages: list[list[bytes]]
    """Names and values in turn, of each message; empty if nothing is to be sent any more."""

    placings: Mapping[int, Placing]
    """How to publish those messages, by their place among all, that have a key or a time."""

    error: Exception | None = None
    """Why nothing more is sent, if it is not the end of the messages."""

    def command(self, keys: StreamKeys, max_queue_depth: int | None) -> Command:
        """Return the command that publishes the messages."""
        if not self.placings:
            return publishing.publish(keys.stream, self.messages, max_queue_depth)
        placings = [self.placings.get(place, AT_ONCE) for place in range(len(self.messages))]
        return publishing.publish_jobs(keys, self.messages, placings, max_queue_depth)

    def remembered_seconds(self) -> float:
        """For how long the server knows all of these messages again, so that sending them again
        publishes none twice; 0 if one of them has no key."""
        placings = self.placings.values()
        if len(placings) < len(self.messages):
            return 0.0
        return min(one.deduplicate_ms if one.deduplicate_key else 0 for one in placings) / 1000

    def behind(self, count: int) -> Batch:
        """Return the messages behind the first `count`."""
        placings = {place - count: one for place, one in self.placings.items() if place >= count}
        return Batch(self.messages[count:], placings)


def batch_of(job: Job, stream: str) -> Batch:
    """Return a batch of one message. Raises as `encode_job()` does."""
    items, placing = encode_job(job, stream)
    return Batch([items], {} if placing is AT_ONCE else {0: placing})


def next_batch(messages: Iterator[Mapping[str, object] | Job], stream: str) -> Batch:
    """Encode the next messages. If one of them cannot be stored or read, none of the batch is sent.

    Its error is in the batch and is not raised, as the reply to the batch before may be on its way.
    """
    batch: list[list[bytes]] = []
    placings: dict[int, Placing] = {}
    size = 0
    try:
        for message in messages:
            if isinstance(message, Job):
                items, placing = encode_job(message, stream)
                if placing is not AT_ONCE:
                    placings[len(batch)] = placing
            else:
                items = encode(message)
            batch.append(items)
            size += sum(map(len, items))
            if len(batch) == BATCH or size >= MAX_BATCH_BYTES:
                break
    except Exception as error:  # noqa: BLE001 - raised when the batch is wanted
        return Batch([], {}, error)
    return Batch(batch, placings)
