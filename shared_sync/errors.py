"""Every error this library raises, and the two a processor raises to steer its message.

SharedSyncError
├── ConfigurationError      an argument that cannot work; raised where it was passed in
├── InvalidMessage          fields that cannot be written to, or read from, a stream
├── QueueFull               the stream holds as many messages as the producer allows
├── RedisUnavailable        no connection, or a connection that broke before the answer
│   └── RedisAccessDenied   the server is there and refuses this user
├── RedisRefused            the server answered a command with an error
│   └── GroupMissing        the stream or its consumer group is gone
├── DeadLetterMissing       there is no dead letter of that id
├── ConsumerStateError      a call that does not fit the consumer's state
├── ConsumerBroken          the consumer cannot go on and says why
│   └── ConsumerIdInUse     another live process has its name in the group
├── EmbeddedRedisError      no redis-server binary, or it did not start
└── PortUnavailable         the health server's port is taken or not allowed

Directive                   raised by a processor, about the message it was given
├── Reject                  never retry: this message becomes a dead letter now
└── Retry                   try again after a stated delay
"""

from __future__ import annotations

import math


class SharedSyncError(Exception):
    """Base of all errors raised by this library.

    `published` is filled in by `publish_many()`: the ids of the messages of that call that were
    accepted before the error.
    """

    published: tuple[str, ...] = ()


class ConfigurationError(SharedSyncError):
    """An argument that cannot work. Raised in the caller's thread, at the call that passed it."""


class InvalidMessage(SharedSyncError):
    """Fields that cannot be written to, or read from, a stream.

    `field` is the name of the offending field, or None if the message as a whole is at fault.
    """

    def __init__(self, text: str, *, field: str | None = None) -> None:
        super().__init__(text)
        self.field = field


class QueueFull(SharedSyncError):
    """The stream holds its `limit` of messages, so nothing more was published."""

    def __init__(self, stream: str, limit: int) -> None:
        super().__init__(
            f"stream {stream!r} holds its maximum of {limit} messages; "
            "publish again when workers have caught up, or raise max_queue_depth"
        )
        self.stream = stream
        self.limit = limit


class RedisUnavailable(SharedSyncError):
    """No connection to Redis, or a connection that broke before the answer arrived.

    In the second case the command may have been carried out or not.
    """


class RedisAccessDenied(RedisUnavailable):
    """The server is there and refuses this user: wrong password, or a right is missing."""


class RedisRefused(SharedSyncError):
    """The server answered a command with an error; `code` is its first word, such as OOM."""

    def __init__(self, text: str, *, code: str = "ERR") -> None:
        super().__init__(text)
        self.code = code


class GroupMissing(RedisRefused):
    """The stream or its consumer group is gone. The consumer creates both anew by itself."""


class DeadLetterMissing(SharedSyncError):
    """There is no dead letter `letter_id`: it was replayed or removed, or never was."""

    def __init__(self, letter_id: str, key: str) -> None:
        super().__init__(
            f"there is no dead letter {letter_id!r} in {key}; list shows those that are"
        )
        self.letter_id = letter_id


class ConsumerStateError(SharedSyncError):
    """A call that does not fit the consumer's state, such as starting it twice."""


class ConsumerBroken(SharedSyncError):
    """The consumer cannot go on; the message says why. Raised by `start_consuming()`."""


class ConsumerIdInUse(ConsumerBroken):
    """Another live process works in the group under the same `consumer_id`.

    `host` and `pid` are those of the process that holds it, None where it does not tell. Raised by
    `connect()` and `start()`; also by `start_consuming()`, when this process was frozen for longer
    than its lease and another one has taken the name since.
    """

    def __init__(self, consumer_id: str, *, host: str | None, pid: int | None) -> None:
        where = f"process {pid} on {host}" if host is not None else "another process"
        super().__init__(
            f"consumer_id {consumer_id!r} is in use by {where}; "
            "give each process of the group its own"
        )
        self.consumer_id = consumer_id
        self.host = host
        self.pid = pid


class EmbeddedRedisError(SharedSyncError):
    """No redis-server binary was found, or the one that was found did not start."""


class PortUnavailable(SharedSyncError):
    """The health server's address cannot be bound: the port is taken, or not allowed."""


class Directive(Exception):
    """Base of what a processor raises to decide about its message. Do not raise it directly."""


class Reject(Directive):
    """Raise in a processor: no retry can help, make this message a dead letter now.

    The text becomes the reason stored with the dead letter.
    """


class Retry(Directive):
    """Raise in a processor: not now, try this message again after `delay_seconds`.

    Counts as a failed attempt, so a message that is put off for ever ends as a dead letter too.
    Without `delay_seconds` the consumer's retry policy chooses the delay; a year is the longest.
    """

    def __init__(self, delay_seconds: float | None = None, reason: str = "") -> None:
        if delay_seconds is not None and not _is_delay(delay_seconds):
            raise ConfigurationError(
                f"delay_seconds must be a number of at least 0 or None, not {delay_seconds!r}"
            )
        super().__init__(reason or "the processor asked for a retry")
        self.delay_seconds = delay_seconds


def _is_delay(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf
