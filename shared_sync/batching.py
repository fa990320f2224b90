"""Batching: how many messages a batch processor gets at once, and how long they wait for more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shared_sync.common import arguments
from shared_sync.errors import ConfigurationError, InvalidBatch
from shared_sync.message import Message

DEFAULT_BATCH = 16
LARGEST_BATCH = 1000
LONGEST_WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Batching:
    """How messages are collected for a batch processor.

    A reader collects its next batch itself. It runs the batch as soon as it is full, and at the
    latest `max_wait_seconds` after its first message has come. It never waits while more messages
    are in the stream.

    Batching cannot be changed, so any number of consumers may share one.

    Args:
        max_size: The most messages of a batch, 1 to 1000. If memory runs out, fewer.
        max_wait_seconds: How long a message waits for others at most, 0 to 60. 0 takes what is
            there.
        size: Called with a `Message` in the reader's thread; returns what it costs, a number of 0
            or more, such as the seconds of its audio. Needs `max_total`. If it raises, the message
            has failed, as if its processor had raised that, and the others go on.
        max_total: The most that the messages of a batch may cost together. A message that costs
            more by itself runs alone.

    Raises:
        ConfigurationError: An argument is of the wrong type or out of its range.
    """

    max_size: int = DEFAULT_BATCH
    max_wait_seconds: float = 0.05
    size: Callable[[Message], float] | None = None
    max_total: float | None = None

    def __post_init__(self) -> None:
        arguments.whole_number("max_size", self.max_size, 1, LARGEST_BATCH)
        arguments.number("max_wait_seconds", self.max_wait_seconds, 0, LONGEST_WAIT_SECONDS)
        if (self.size is None) != (self.max_total is None):
            raise ConfigurationError(
                "size and max_total belong together: size says what a message costs, and max_total "
                "what a batch may cost; give both, or none"
            )
        if self.size is not None and not callable(self.size):
            raise ConfigurationError(f"size must be a function of a Message, not {self.size!r}")
        if self.max_total is not None:
            arguments.number("max_total", self.max_total, 0)


def run_batch(
    process_batch: Callable[[Sequence[Message]], Sequence[object]], messages: Sequence[Message]
) -> Sequence[object]:
    """Call a batch processor, and return one result for each message.

    The processor may change the list that it is given. Raises what it raises, and what reading its
    sequence raises, and `InvalidBatch` if it returns anything else.
    """
    returned: object = process_batch(list(messages))
    if isinstance(returned, (str, bytes, bytearray)) or not isinstance(returned, Sequence):
        raise InvalidBatch(
            f"the batch processor returned an object of type {type(returned).__name__} for "
            f"{_messages(len(messages))}; return a list with one result for each of them, in "
            "their order"
        )
    results: Sequence[object] = returned
    if len(results) == len(messages):
        results = list(results)  # made now, if it makes each one when it is asked for
    if len(results) != len(messages):
        raise InvalidBatch(
            f"the batch processor returned {_results(len(results))} for "
            f"{_messages(len(messages))}; return one for each of them, in their order: None for a "
            "message without a result, an exception for one that has failed"
        )
    return results


def _messages(count: int) -> str:
    return "1 message" if count == 1 else f"{count} messages"


def _results(count: int) -> str:
    return "1 result" if count == 1 else f"{count} results"
