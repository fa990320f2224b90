"""ResultListener: the public class."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Final

from shared_sync.common import arguments
from shared_sync.common.detached_logger import DetachedLogger
from shared_sync.common.fork import PerProcess
from shared_sync.common.guarded import RECORDING, GuardedLogger, GuardedRecorder, Recorder
from shared_sync.connection.credentials import CredentialProvider
from shared_sync.connection.pool import ConnectionPool
from shared_sync.errors import ConfigurationError, ConsumerStateError, ResultTimeout
from shared_sync.protocol.keys import NO_ID, StreamKeys
from shared_sync.protocol.result_streams import ExclusiveStream, ResultSource, SharedStream
from shared_sync.result_listener.inbox import Inbox
from shared_sync.result_listener.listening import (
    REPLY_TTL_SECONDS,
    Handler,
    ListenerContext,
    Listening,
)
from shared_sync.result_listener.result import Result

MAX_KEPT: Final = 10_000
STOP_SECONDS: Final = 10.0

_ID: Final = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")


class ResultListener:
    """Receives the results that workers write to a stream, in its own thread.

        with ResultListener("redis://localhost:6379/0", "audio:transcripts") as results:
            for result in results:
                print(result.id, result.status, result.fields)

    Each result is received once: by the `handler`, if there is one; otherwise by the iteration or
    by `wait()`, whichever takes it first. Several listeners of the same stream each receive all
    results. If Redis is away, the listener continues where it was when Redis is back, also with
    Sentinel and in a cluster.

    With `replies=True` the listener creates a reply stream, whose name is `reply_to`, for the
    results of jobs that are published with this name:

        with ResultListener(redis_url, "audio:jobs", show, replies=True) as results:
            producer.publish({"audio": wav_bytes}, reply_to=results.reply_to)

    Nobody else reads the reply stream. It is removed when the listener stops, and expires
    `reply_ttl_seconds` after the process has died. If Redis or the process stands still for longer,
    the results of that time are lost. `RedisStreamProducer.submit()` and `request()` do all of this
    for you.

    Any thread may call any method, and several threads may iterate and wait. A forked process
    starts its own listener, with its own reply stream, as soon as it uses this object.

    Args:
        redis_url: The same as for a `RedisStreamConsumer`.
        stream: The stream of results: `result_stream` of the consumers. With `replies=True` the
            stream of the jobs.
        handler: Is called with each result, in the listener's thread. The next result waits until
            it returns. Its errors are logged and counted.
        replies: Create a reply stream for this process, and listen to it.
        after: Receive the results behind the entry with this id, such as `last_id` of an earlier
            listener; "0-0" for all results in the stream. None for results that are written after
            the start.
        remove: Remove each result from the stream when it was received, and begin with the oldest.
            Only for a stream that nobody else reads, such as one for each gateway. If the process
            dies, the next listener may receive its last results again.
        reply_ttl_seconds: How long a reply stream stays without its listener, 1 or more.
        max_kept: How many results are kept in memory for an iteration or `wait()`, 64 MiB at most.
            When it is full, a listener that is iterated over leaves further results in Redis until
            there is room. Otherwise it drops the oldest, because nobody may wait for them, and logs
            that.
        metrics: Counts `results_received`, and errors of the handler.
        logger: None for `logging.getLogger("shared_sync")`.
        credential_provider: Is asked for user and password at each connect, as for a consumer.

    Raises:
        ConfigurationError: An argument cannot work.
    """

    def __init__(
        self,
        redis_url: str,
        stream: str,
        handler: Handler | None = None,
        *,
        replies: bool = False,
        after: str | None = None,
        remove: bool = False,
        reply_ttl_seconds: float = REPLY_TTL_SECONDS,
        max_kept: int = MAX_KEPT,
        metrics: Recorder | None = None,
        logger: logging.Logger | None = None,
        credential_provider: CredentialProvider | None = None,
    ) -> None:
        arguments.text("stream", stream)
        if handler is not None and (not callable(handler) or arguments.only_promises(handler)):
            raise ConfigurationError(f"handler must be a function or None, not {handler!r}")
        if after is not None and not (isinstance(after, str) and _ID.fullmatch(after)):
            raise ConfigurationError(
                f"after must be the id of an entry, such as '0-0', or None, not {after!r}"
            )
        if after is not None and (replies or remove):
            raise ConfigurationError(
                "with replies=True or remove=True every result in the stream is received; leave "
                "out after"
            )
        arguments.number("reply_ttl_seconds", reply_ttl_seconds, 1, 86_400)
        arguments.whole_number("max_kept", max_kept, 1)
        arguments.logger("logger", logger)
        if metrics is not None:
            arguments.methods("metrics", metrics, RECORDING, "a WorkerMetrics, or None")
        if replies:
            StreamKeys.of(stream)  # raises if the name cannot have keys
        own_logger = DetachedLogger(GuardedLogger(logger or logging.getLogger("shared_sync")))
        # Fixed after construction.
        self.stream = stream
        self._handler = handler
        self._replies = replies
        self._after = after
        self._remove = remove
        self._reply_ttl_seconds = reply_ttl_seconds
        self._max_kept = max_kept
        self._context = ListenerContext(
            redis_url,
            stream,
            credential_provider,
            GuardedRecorder(metrics, own_logger),
            own_logger,
        )
        self._connections = ConnectionPool(self._context.connector)
        """For calls of `reply_to`."""
        self._listenings = PerProcess(self._new_listening)

    def _new_listening(self) -> Listening:
        return Listening(
            self._new_source(),
            self._context,
            handler=self._handler,
            inbox=Inbox(self._max_kept),
        )

    def _new_source(self) -> ResultSource:
        if self._replies:
            return self._context.new_replies(self._reply_ttl_seconds)
        report = self._context.logger.warning
        if self._remove:
            return ExclusiveStream(self.stream, ttl_ms=None, report=report)
        return SharedStream(self.stream, after=self._after, report=report)

    @property
    def reply_to(self) -> str:
        """The name of the reply stream of this process. Starts the listener.

        Read this property again for each job: it makes sure that the stream still exists, with a
        round trip if the last check was more than a second ago, and creates it again if needed.
        Blocks and raises as `start()` does. Raises `ConsumerStateError` if the listener was made
        without `replies=True`.
        """
        if not self._replies:
            raise ConsumerStateError(
                "this listener reads a stream of results that has no reply_to; make one with "
                "replies=True"
            )
        return self._listenings.get().reply_to(self._connections)

    @property
    def last_id(self) -> str:
        """The id of the newest entry that was received; "0-0" before the first."""
        return self._listenings.get().last_id or self._after or NO_ID

    def start(self) -> None:
        """Connect, and start listening; does nothing if the listener was started before.

        Results that are written after this has returned are received. An iteration, `wait()` and
        `reply_to` call this themselves. Blocks up to 5 s to connect. After `RedisUnavailable` or
        `RedisRefused` it may be called again. Raises `ConsumerStateError` after `stop()`.
        """
        self._started()

    def stop(self, timeout: float = STOP_SECONDS) -> bool:
        """Stop listening, end all iterations and waits, and return whether the thread has ended.

        Waits up to `timeout` seconds for the handler to return and for the reply stream to be
        removed. The handler itself may call this; then it does not wait. Safe in a signal handler.
        """
        self._connections.close()
        return self._listenings.get().stop(timeout)

    def __iter__(self) -> Iterator[Result]:
        """Every result as it arrives, progress included, until the listener is stopped.

        Raises `ConsumerStateError` if there is a handler, which receives all of them.
        """
        self._check_no_handler("iterated over")
        inbox = self._started().inbox
        inbox.read_in_order()
        return iter(inbox.take, None)

    def wait(self, message_id: str, timeout: float | None = None) -> Result:
        """Return the final result of a message, even if it arrived before this was called.

        Progress of the message is dropped. Blocks up to `timeout` seconds; None for no limit.

        Raises:
            ResultTimeout: The result has not arrived in time.
            ConsumerStateError: The listener has a handler, or was stopped.
        """
        self._check_no_handler("waited for")
        arguments.text("message_id", message_id)
        if timeout is not None:
            arguments.number("timeout", timeout, 0)
        began = time.monotonic()
        listening = self._started()
        left = None if timeout is None else max(0.0, timeout - (time.monotonic() - began))
        result = listening.inbox.wait_for(message_id, left)
        if result is None:
            if listening.stopped:
                raise ConsumerStateError("the listener was stopped while a result was waited for")
            raise ResultTimeout(message_id, timeout or 0.0)
        return result

    def __enter__(self) -> ResultListener:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _started(self) -> Listening:
        listening = self._listenings.get()
        listening.start()
        return listening

    def _check_no_handler(self, what: str) -> None:
        if self._handler is not None:
            raise ConsumerStateError(
                f"the listener has a handler, which receives all results, so they cannot be {what}"
            )
