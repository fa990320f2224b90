"""The errors that this library raises, and those that a processor raises to decide.

SharedSyncError
├── ConfigurationError      an argument that cannot work; raised by the call that passed it
├── InvalidMessage          fields that cannot be written to, or read from, a stream
│   └── InvalidResult       what a processor returned cannot be published, or has not run
├── InvalidBatch            a batch processor did not return one result for each message
├── QueueFull               the stream holds as many messages as the producer allows
├── RedisUnavailable        no connection, or a connection that broke before the answer
│   └── RedisAccessDenied   the server answers and refuses this user
├── RedisRefused            the server answered a command with an error
│   └── GroupMissing        the stream or its consumer group does not exist any more
├── DeadLetterMissing       there is no dead letter with that id
├── ResultTimeout           the result of a message has not arrived in time
├── JobFailed               a message is dead, expired or cancelled
├── ConsumerStateError      a call that does not fit the state of the consumer or listener
├── ConsumerBroken          the consumer cannot go on; the text says why
│   ├── ConsumerIdInUse     another live process of the group has this consumer id
│   └── LoadingFailed       the processor of a reader could not be loaded
├── EmbeddedRedisError      no redis-server binary, or it did not start
└── PortUnavailable         the port of the health server is taken or not allowed

Directive                   raised by a processor, about the message that it was given or its worker
├── CircuitOpen             a circuit breaker refuses calls: the message goes back, uncharged
├── JobCancelled            the message was cancelled: it ends with the status "cancelled"
├── Reject                  never retry: the message becomes a dead letter at once
├── Retry                   try the message again after a given delay
└── WorkerBroken            this process can do no more work, such as after a fault of its GPU

Directives are no SharedSyncError, so `except SharedSyncError` in a processor does not catch them.
"""

from __future__ import annotations

import math
import os


class SharedSyncError(Exception):
    """Base of all errors that this library raises.

    Attributes:
        published: Set by `publish_many()`: the ids of the messages of that call that were accepted
            before the error. Empty for errors of other calls.
    """

    published: tuple[str, ...] = ()


class ConfigurationError(SharedSyncError):
    """An argument cannot work. Raised in the calling thread, by the call that passed it."""


class InvalidMessage(SharedSyncError):
    """Fields cannot be written to a stream, or read from it.

    Attributes:
        field: The name of the field at fault; None if it is the message as a whole.
    """

    def __init__(self, text: str, *, field: str | None = None) -> None:
        super().__init__(text)
        self.field = field


class InvalidResult(InvalidMessage):
    """What a processor returned cannot be published: it has no form, or has not run yet.

    Its message has become a dead letter: to run it again would not help. The text names the place
    within the result, such as `result.segments[3].score`.
    """


class InvalidBatch(SharedSyncError):
    """A batch processor did not return a sequence with one result for each of its messages.

    The run has failed as a whole, as if the processor had raised this.
    """


class QueueFull(SharedSyncError):
    """The stream holds its maximum of messages, so nothing more was published.

    The error names the group that keeps the stream full, which is the one that needs the oldest
    entry. An attribute is None if it is not known, such as without the right to ask.

    Attributes:
        stream: The name of the stream.
        limit: The maximum, `max_queue_depth` of the producer.
        group: The name of the group; empty if the stream has no group.
        entries: How many messages this group has not finished. None before Redis 7.0.
        oldest_seconds: The age of the oldest of them.
    """

    def __init__(
        self,
        stream: str,
        limit: int,
        *,
        group: str | None = None,
        entries: int | None = None,
        oldest_seconds: float | None = None,
    ) -> None:
        why = ""
        if group:
            number = "messages" if entries is None else f"{entries} messages"
            why = f"; group {group!r} has not finished {number}"
            if oldest_seconds is not None:
                why += f", the oldest is {_length(oldest_seconds)} old"
        elif group == "":
            why = ", and no group reads it"
        super().__init__(
            f"stream {stream!r} holds its maximum of {limit} messages{why}; "
            "publish again when workers have caught up, or raise max_queue_depth"
        )
        self.stream = stream
        self.limit = limit
        self.group = group
        self.entries = entries
        self.oldest_seconds = oldest_seconds


def _length(seconds: float) -> str:
    """Return a duration in words."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"


class RedisUnavailable(SharedSyncError):
    """There is no connection to Redis, or the connection broke before the answer arrived.

    In the second case Redis may or may not have executed the command.

    Attributes:
        connection_broke: Whether the connection could not be made, or broke. False if the server
            answered that it cannot serve now.
        cause: What kind of fault it is, in the same words each time: the first word of the server's
            refusal, such as LOADING or WRONGPASS; or "no connection", "unknown host", "TLS", "no
            credentials".
    """

    connection_broke: bool = False
    cause: str = "no connection"


class RedisAccessDenied(RedisUnavailable):
    """The server answers and refuses this user: the password is wrong, or a right is missing."""


class RedisRefused(SharedSyncError):
    """The server answered a command with an error.

    Attributes:
        code: The first word of the error, such as OOM; ERR if it has none of its own.
    """

    def __init__(self, text: str, *, code: str = "ERR") -> None:
        super().__init__(text)
        self.code = code


class GroupMissing(RedisRefused):
    """The stream or its consumer group does not exist any more.

    A running consumer creates both again by itself.
    """


class DeadLetterMissing(SharedSyncError):
    """There is no dead letter with this id: it was replayed, was removed, or never existed.

    Attributes:
        letter_id: The id that was asked for.
    """

    def __init__(self, letter_id: str, key: str) -> None:
        super().__init__(
            f"there is no dead letter {letter_id!r} in {key}; list the dead letters for valid ids"
        )
        self.letter_id = letter_id


class ResultTimeout(SharedSyncError):
    """The result of a message has not arrived in time. The message may still be processed.

    Attributes:
        message_id: The id of the message; empty if it is not known.
        timeout_seconds: How long the call has waited.
    """

    def __init__(self, message_id: str, timeout_seconds: float) -> None:
        super().__init__(
            f"the result of message {message_id!r} has not arrived within {timeout_seconds:g} s"
        )
        self.message_id = message_id
        self.timeout_seconds = timeout_seconds

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message_id, self.timeout_seconds), self.__dict__


class JobFailed(SharedSyncError):
    """A message is dead, expired or cancelled. Raised by `Result.raise_for_status()`.

    Attributes:
        message_id: The id of the message.
        status: "dead", "expired" or "cancelled".
        reason: The reason in its result.
        error_type: The type of the last error of a dead message; empty if there was none.
        error: The text of that error.
    """

    def __init__(
        self, message_id: str, status: str, reason: str, *, error_type: str = "", error: str = ""
    ) -> None:
        super().__init__(f"message {message_id!r} ended with the status {status!r}: {reason}")
        self.message_id = message_id
        self.status = status
        self.reason = reason
        self.error_type = error_type
        self.error = error

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message_id, self.status, self.reason), self.__dict__


class ConsumerStateError(SharedSyncError):
    """A call does not fit the state of the consumer or listener, such as a second start."""


class ConsumerBroken(SharedSyncError):
    """The consumer cannot go on; the text says why. Raised by `start_consuming()`.

    Only a new process helps, so end this one, and let its supervisor (systemd, Kubernetes, Docker)
    start another:

        try:
            consumer.start_consuming()
        except ConsumerBroken as error:
            logger.critical("%s", error)
            sys.exit(error.exit_code)

    Attributes:
        exit_code: The exit status for a program that ends because of this: 70, which `sysexits.h`
            names EX_SOFTWARE. A supervisor that is to restart the worker only then can tell it from
            the 1 of other errors.
        reason: Why, without texts of errors and without addresses, as a health page shows it.
    """

    exit_code: int = 70

    def __init__(self, text: str, *, reason: str | None = None) -> None:
        super().__init__(text)
        self.reason = text if reason is None else reason


class ConsumerIdInUse(ConsumerBroken):
    """Another live process of the group uses the same `consumer_id`.

    Raised by `connect()` and `start()`. Also raised by `start_consuming()`, if this process was
    frozen for longer than its lease and another process has taken the id meanwhile.

    Attributes:
        consumer_id: The id.
        host: The host of the other process; None if that is unknown.
        pid: The process id of the other process; None if that is unknown.
    """

    def __init__(self, consumer_id: str, *, host: str | None, pid: int | None) -> None:
        where = f"process {pid} on {host}" if host is not None else "another process"
        cause = ""
        if pid == os.getpid() and str(pid) in consumer_id:
            cause = (
                f". This process has the process id {pid} as well: an id that is made from "
                "os.getpid() is the same in every container"
            )
        super().__init__(
            f"consumer_id {consumer_id!r} is in use by {where}{cause}; give each process of the "
            "group a consumer_id of its own, or None, which makes a unique one",
            reason="another process has taken this consumer's name",
        )
        self.consumer_id = consumer_id
        self.host = host
        self.pid = pid


class LoadingFailed(ConsumerBroken):
    """The processor of a reader could not be loaded. `__cause__` is the error that says why.

    Raised by `start()` and `start_consuming()`; nothing was read then.

    Attributes:
        reader: The number of the reader, from 1.
        device: Its device; None if the consumer has no `devices`.
    """

    def __init__(self, reader: int, device: str | None, why: str) -> None:
        which = f"reader {reader}" if device is None else f"reader {reader} ({device})"
        reason = f"the processor of {which} could not be loaded"
        super().__init__(f"{reason}: {why}", reason=reason)
        self.reader = reader
        self.device = device


class EmbeddedRedisError(SharedSyncError):
    """No redis-server binary was found, or the one that was found did not start."""


class PortUnavailable(SharedSyncError):
    """The health server cannot bind its address: the port is taken, or not allowed."""


class Directive(Exception):
    """Base of what a processor raises to decide about its message or about its worker.

    Do not raise it directly.
    """


class Reject(Directive):
    """Raise it in a processor if no retry can help: the message becomes a dead letter at once.

    The text of the exception becomes part of the reason that is stored with the dead letter:
    `rejected: <text>`.
    """


class Retry(Directive):
    """Raise it in a processor to have the message tried again after `delay_seconds`.

    It counts as a failed attempt: a message that is postponed again and again becomes a dead
    letter after `max_attempts` of the consumer's `RetryPolicy`.

    Args:
        delay_seconds: Seconds until the next attempt, 0 or more; more than 366 days is shortened to
            366 days. None for the delay of the consumer's `RetryPolicy`.
        reason: The text of the exception, which is logged and kept in the message's history.

    Raises:
        ConfigurationError: `delay_seconds` is not a finite number of at least 0.
    """

    def __init__(self, delay_seconds: float | None = None, reason: str = "") -> None:
        if delay_seconds is not None and not _is_delay(delay_seconds):
            raise ConfigurationError(
                f"delay_seconds must be a number of at least 0 or None, not {delay_seconds!r}"
            )
        super().__init__(reason or "the processor asked for a retry")
        self.delay_seconds = delay_seconds


class CircuitOpen(Directive):
    """A circuit breaker refuses calls, because what is behind it has failed too often.

    `CircuitBreaker` raises it. In a processor, let it through: the message is handed back and
    charged with nothing, and the consumer reads no messages until the breaker closes. Raise it
    yourself if a breaker of your own is open: the consumer reads again after `retry_after_seconds`.

    Attributes:
        name: The name of the breaker.
        retry_after_seconds: Seconds until it allows the next trial.
    """

    def __init__(self, name: str, retry_after_seconds: float) -> None:
        super().__init__(
            f"circuit breaker {name!r} is open; next trial in {retry_after_seconds:.1f} s"
        )
        self.name = name
        self.retry_after_seconds = retry_after_seconds

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.name, self.retry_after_seconds), self.__dict__


class JobCancelled(Directive):
    """The message was cancelled. It ends with the status "cancelled", and nothing is charged.

    `message.raise_if_cancelled()` raises it; a processor does not catch it. A processor may also
    raise it itself, to end a message that nobody has cancelled in the same way.
    """

    def __init__(self, text: str = "the message was cancelled") -> None:
        super().__init__(text)


class WorkerBroken(Directive):
    """Raise it in a processor if this process can do no more work, whatever message it is given.

    Such as after a fault of its GPU, or when a file of the model is gone. The message goes back
    uncharged, the consumer stops, hands back what else it has, and `start_consuming()` raises
    `ConsumerBroken` with this text. An error that was raised from it means the same. With
    `isolation="process"` the child process is replaced first.

    Known faults of CUDA devices mean the same without it; `fatal_errors` of the consumer names
    further ones.
    """


def _is_delay(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf
