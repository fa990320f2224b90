"""RedisStreamProducer, the public class: publishes messages to a stream."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from shared_sync.common import arguments
from shared_sync.common.detached_logger import DetachedLogger
from shared_sync.common.guarded import RECORDING, GuardedLogger, GuardedRecorder, Recorder
from shared_sync.common.log_once import LogOnce
from shared_sync.common.trace_context import TraceContext
from shared_sync.connection import url
from shared_sync.connection.credentials import CredentialProvider
from shared_sync.connection.pool import ConnectionPool
from shared_sync.connection.scripts import Command
from shared_sync.errors import RedisAccessDenied, ResultTimeout, SharedSyncError
from shared_sync.protocol import cancelling, scheduling
from shared_sync.protocol.keys import StreamKeys, check_stream_name
from shared_sync.redis_producer.awaited_results import AwaitedResult
from shared_sync.redis_producer.batches import Batch, batch_of, next_batch
from shared_sync.redis_producer.handles import JobHandle
from shared_sync.redis_producer.job import DEDUPLICATE_SECONDS, NO_TRACE, Job, encode
from shared_sync.redis_producer.reply_stream import ReplyStream
from shared_sync.redis_producer.request_connections import RequestConnections
from shared_sync.redis_producer.schedule import ScheduledJob, list_scheduled
from shared_sync.redis_producer.sending import Sender
from shared_sync.result_listener.listening import REPLY_TTL_SECONDS, ListenerContext
from shared_sync.result_listener.result import Result
from shared_sync.tracing.switch import producer_spans

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

MAX_CONNECTIONS = 50
"""Threads that may publish at the same time; a publication takes a round trip."""

_NO_OPTIONS: Final = (None,) * 6


class RedisStreamProducer:
    """Publishes messages to a stream. Safe from any thread; each call blocks for a round trip.

        with RedisStreamProducer("redis://localhost:6379/0", "audio:jobs") as producer:
            message_id = producer.publish({"client_id": "c1", "audio": wav_bytes})

    A message counts as accepted when its id has been returned. A call that raises
    `RedisUnavailable` may or may not have published: the connection broke before the reply.
    Publishing again may then publish twice, so the processor must tolerate a message that is run
    twice, as it must anyway. With a `deduplicate_key` the message is published once, and the
    producer itself sends it again; without a key it sends nothing twice.

    Connections are opened as needed, one for each thread that publishes at the same time, up to
    `max_connections`. Because firewalls silently drop idle connections, a connection is checked
    before use if it was idle for 2 s, and replaced if it was idle for 30 s. The producer may be
    used after a fork: the forked process opens its own connections.

    `submit()` and `request()` bring results back to this process through reply streams. The first
    `submit()` creates a reply stream and starts a thread that reads it. A request reads its result
    itself, over one of up to 8 connections, each with its own reply stream. `close()` removes all
    of them.

    Args:
        redis_url: `redis://[user:password@]host:port/db`, `rediss://...`, `unix:///path`,
            `redis+sentinel://host:port,host:port/master/db` or
            `redis+cluster://host:port,host:port`.
        stream_name: The stream to publish to.
        max_queue_depth: Raise `QueueFull` instead of publishing if the stream holds this many
            messages; finished messages do not count. None for no limit. The server checks the
            limit with each message, so it holds for all producers of the stream together.
        timeout_seconds: Longest wait for a reply of the server; for a free connection, if all are
            in use; and for a new connection, 5 s at most.
        max_connections: Connections that may be open at a time, in each process. A thread that
            needs one more waits up to `timeout_seconds`, then `RedisUnavailable` is raised.
        credential_provider: Is asked for user and password at each connect, as for a consumer.
        reply_ttl_seconds: How long a reply stream stays after this process has died; 1 or more. If
            Redis is away for longer, the results of that time are lost.
        metrics: Counts `jobs_sent` and `results_received`, and measures `job_round_trip`.
        logger: Logs when a reply stream cannot be read; None for
            `logging.getLogger("shared_sync")`.
        tracing: Makes a span of OpenTelemetry for each call that publishes, whose context travels
            with the messages: True for the program's tracer provider, or a `TracerProvider`.
            Needs the extra `otel`. See `shared_sync.tracing`.

    Raises:
        ConfigurationError: An argument cannot work.
    """

    def __init__(
        self,
        redis_url: str,
        stream_name: str,
        *,
        max_queue_depth: int | None = None,
        timeout_seconds: float = 10.0,
        max_connections: int = MAX_CONNECTIONS,
        credential_provider: CredentialProvider | None = None,
        reply_ttl_seconds: float = REPLY_TTL_SECONDS,
        metrics: Recorder | None = None,
        logger: logging.Logger | None = None,
        tracing: bool | TracerProvider = False,
    ) -> None:
        check_stream_name(stream_name)
        arguments.number("timeout_seconds", timeout_seconds, 0.001, 86_400)
        if max_queue_depth is not None:
            arguments.whole_number("max_queue_depth", max_queue_depth, 1)
        arguments.whole_number("max_connections", max_connections, 1)
        arguments.number("reply_ttl_seconds", reply_ttl_seconds, 1, 86_400)
        arguments.logger("logger", logger)
        if metrics is not None:
            arguments.methods("metrics", metrics, RECORDING, "a WorkerMetrics, or None")
        own_logger = DetachedLogger(GuardedLogger(logger or logging.getLogger("shared_sync")))
        # Fixed after construction.
        self.stream_name = stream_name
        self._keys = StreamKeys.of(stream_name)
        self._max_queue_depth = max_queue_depth
        self._connections = ConnectionPool.of_process(
            redis_url,
            key=stream_name,
            role="producer",
            timeout_seconds=timeout_seconds,
            credential_provider=credential_provider,
            most=max_connections,
        )
        self._recorder = GuardedRecorder(metrics, own_logger)
        self._log_denial = LogOnce(own_logger, logging.WARNING)
        context = ListenerContext(
            redis_url, stream_name, credential_provider, self._recorder, own_logger
        )
        self._spans = producer_spans(tracing, stream_name, url.server_of(redis_url), own_logger)
        self._replies = ReplyStream(context, self._connections, reply_ttl_seconds)
        self._request_connections = RequestConnections(context, reply_ttl_seconds)
        weakref.finalize(self, self._replies.abandon).atexit = False
        self._sender = Sender(
            self._connections,
            self._keys,
            max_queue_depth=max_queue_depth,
            timeout_seconds=timeout_seconds,
        )

    def publish(
        self,
        fields: Mapping[str, object],
        *,
        expires_seconds: float | None = None,
        reply_to: str | None = None,
        traceparent: str | None = None,
        deduplicate_key: str | None = None,
        deduplicate_seconds: float = DEDUPLICATE_SECONDS,
        delay_seconds: float | None = None,
        at: datetime | float | None = None,
        block_seconds: float = 0.0,
    ) -> str:
        """Publish one message and return its id.

        Text is stored as UTF-8, bytes as they are, anything else as JSON; dates, paths and some
        more as text. Field names may begin neither with `dead.` nor with `shared_sync.`. Blocks up
        to `timeout_seconds` for the reply, as long again if it has to connect, and as long again
        while `max_connections` threads publish.

        Args:
            fields: Names and values.
            expires_seconds: How long after it was added to the stream the message may still be
                started. After that it is not run, and ends with the status `expired`.
            reply_to: The reply stream that gets its result, instead of the workers' result stream.
            traceparent: The W3C trace context of the caller, for the processor and the result. With
                `tracing` the producer sets it.
            deduplicate_key: Only the first message with this key is published. Further calls within
                `deduplicate_seconds` publish nothing and return the id of the first message. If a
                reply is lost, the producer sends the message again, for up to `timeout_seconds`.
            deduplicate_seconds: How long the server remembers the key.
            delay_seconds: Publish the message after this time. A consumer of the stream publishes
                it, up to 2 s late. The returned id then begins with `scheduled-`, and results carry
                it as their `message_id`.
            at: Publish the message at this time, in the same way: a datetime with a time zone, or
                seconds since 1970.
            block_seconds: How long to wait for room while the stream holds `max_queue_depth`
                messages.

        Raises:
            InvalidMessage: The fields cannot be stored. Nothing was sent.
            ConfigurationError: An option cannot work. Nothing was sent.
            QueueFull: The stream holds `max_queue_depth` messages. Nothing was published.
            RedisUnavailable: There was no reply. The message may have been published.
            RedisRefused: The server refused the message. Nothing was published.
        """
        wait_until = _moment_after(block_seconds)
        options = (expires_seconds, reply_to, traceparent, deduplicate_key, delay_seconds, at)
        if options == _NO_OPTIONS and self._max_queue_depth is None and self._spans is None:
            return self._publish_alone(encode(fields))  # the usual case, much quicker
        job = Job(
            fields,
            expires_seconds=expires_seconds,
            reply_to=reply_to,
            traceparent=traceparent,
            deduplicate_key=deduplicate_key,
            deduplicate_seconds=deduplicate_seconds,
            delay_seconds=delay_seconds,
            at=at,
        )
        if self._spans is None:
            return self._publish_job(job, NO_TRACE, wait_until)
        with self._spans.publishing(traceparent=traceparent) as publication:
            job_id = self._publish_job(job, publication.context, wait_until)
            publication.published(job_id)
        return job_id

    def _publish_job(self, job: Job, trace: TraceContext, wait_until: float) -> str:
        batch = batch_of(job, self.stream_name, trace)
        if self._max_queue_depth is None and not batch.placings:
            return self._publish_alone(batch.messages[0])
        published: list[str] = []
        self._sender.send(batch, published, wait_until=wait_until)
        self._recorder.increment_counter("jobs_sent")
        return published[0]

    def _publish_alone(self, items: list[bytes]) -> str:
        """Publish one message by a plain command, and return its id."""
        with self._connections.connection() as connection:
            entry_id: bytes = connection.call("XADD", self.stream_name, "*", *items)
        self._recorder.increment_counter("jobs_sent")
        return entry_id.decode()

    def publish_many(
        self, messages: Iterable[Mapping[str, object] | Job], *, block_seconds: float = 0.0
    ) -> list[str]:
        """Publish messages in order, up to 100 or 4 MiB a round trip, and return their ids.

        A message is a mapping of names to values, or a `Job`, which also has options. Each round
        trip blocks as `publish()` does, and raises the same errors; the whole call waits up to
        `block_seconds` for room. Nothing is published after the first error. Messages that were
        accepted before it stay published: the error's `published` has their ids, in order. After
        `RedisUnavailable` the batch that was being sent may have been published, too; the producer
        repeats it only if each of its messages has a `deduplicate_key`. Errors of the iteration
        over `messages` are passed on unchanged. The messages of a list or tuple are encoded while
        the server works on the batch before; any other iterable is read when the next batch is
        needed.
        """
        wait_until = _moment_after(block_seconds)
        if self._spans is None:
            return self._publish_all(messages, NO_TRACE, wait_until)
        with self._spans.publishing() as publication:
            published = self._publish_all(messages, publication.context, wait_until)
            publication.published_many(len(published))
        return published

    def _publish_all(
        self,
        messages: Iterable[Mapping[str, object] | Job],
        trace: TraceContext,
        wait_until: float,
    ) -> list[str]:
        published: list[str] = []
        unsent = iter(messages)
        # A list may be read ahead, while the server works; a generator is read when it is needed.
        reads_ahead = isinstance(messages, (list, tuple))
        following: Batch | None = None

        def read_ahead() -> None:
            nonlocal following
            if reads_ahead and following is None:
                following = next_batch(unsent, self.stream_name, trace)

        try:
            batch = next_batch(unsent, self.stream_name, trace)
            while batch.messages:
                self._sender.send(batch, published, wait_until=wait_until, meanwhile=read_ahead)
                batch, following = following or next_batch(unsent, self.stream_name, trace), None
            if batch.error is not None:
                raise batch.error
        except SharedSyncError as error:
            error.published = tuple(published)
            raise
        finally:
            if published:
                self._recorder.increment_counter("jobs_sent", len(published))
        return published

    def scheduled(self) -> Iterator[ScheduledJob]:
        """Return the ids and times of the scheduled jobs, in the order of their times.

        Fetches 100 jobs with each round trip, which blocks and raises as `publish()` does. Jobs
        that are published or scheduled during the iteration may be missing.
        """
        return list_scheduled(self._connections, self._keys)

    def count_scheduled(self) -> int:
        """Return the number of scheduled jobs. Blocks and raises as `publish()` does."""
        with self._connections.connection() as connection:
            return scheduling.count(connection, self._keys)

    def submit(
        self,
        fields: Mapping[str, object],
        *,
        expires_seconds: float | None = None,
        traceparent: str | None = None,
        deduplicate_key: str | None = None,
        deduplicate_seconds: float = DEDUPLICATE_SECONDS,
        delay_seconds: float | None = None,
        at: datetime | float | None = None,
        block_seconds: float = 0.0,
    ) -> JobHandle:
        """Publish one message whose result comes back to this process, and return its handle.

        The result goes to this process only, instead of the workers' result stream. The arguments
        and errors are those of `publish()`, and so is the time that this blocks, with two
        exceptions: the first call also connects the thread that reads the results, and a call after
        a pause of a second needs another round trip, to make sure that the reply stream exists.

        Calling this again with the same `deduplicate_key` returns a handle for the same job, also
        after an error, and also if its result has arrived within the last 5 minutes. If another
        process published the key, that process gets the result, and `result()` of this handle
        raises `ResultTimeout`.
        """
        awaited = self._submit(
            fields,
            expires_seconds=expires_seconds,
            traceparent=traceparent,
            deduplicate_key=deduplicate_key,
            deduplicate_seconds=deduplicate_seconds,
            delay_seconds=delay_seconds,
            at=at,
            block_seconds=block_seconds,
        )
        return JobHandle(awaited, self._cancel_awaited, self.status)

    def _submit(self, fields: Mapping[str, object], **options: Any) -> AwaitedResult:
        sent_at = time.monotonic()
        reply_to, waiting, number = self._replies.begin()
        try:
            if options.get("deduplicate_key") is not None:
                waiting.keep_recent()
            job_id = self.publish(fields, reply_to=reply_to, **options)
            return waiting.add(job_id, sent_at)
        finally:
            waiting.end(number)

    def request(
        self,
        fields: Mapping[str, object],
        *,
        timeout: float,
        traceparent: str | None = None,
        block_seconds: float = 0.0,
    ) -> Result:
        """Publish one message, wait for its final result, and return it, whatever its status is.

        The message expires after the `timeout`. When the timeout has passed, this also cancels it,
        because nobody waits for it any more. `request(...).raise_for_status()` raises an error
        unless the message is done. Waiting for room, up to `block_seconds`, is part of the
        `timeout`. If Redis does not answer at all, this blocks as long as `publish()` does.

        Raises:
            ResultTimeout: The result has not arrived within `timeout` seconds.
            ConsumerStateError: The producer was closed before the result arrived.
            SharedSyncError: As `publish()` does.
        """
        arguments.number("timeout", timeout, 0.001, 86_400)
        if block_seconds != 0.0:
            _moment_after(block_seconds)  # a wrong one is refused even if it is not needed
        if self._spans is None:
            return self._request(fields, timeout, traceparent, block_seconds, NO_TRACE)
        with self._spans.publishing("request", traceparent=traceparent) as publication:
            trace = publication.context
            result = self._request(fields, timeout, traceparent, block_seconds, trace)
            publication.published(result.id)
        return result

    def _request(
        self,
        fields: Mapping[str, object],
        timeout: float,
        traceparent: str | None,
        block_seconds: float,
        trace: TraceContext,
    ) -> Result:
        began = time.monotonic()
        deadline = began + timeout
        asked = None
        if self._max_queue_depth is None:

            def make_command(reply_to: str) -> Command:
                job = Job(
                    fields, expires_seconds=timeout, reply_to=reply_to, traceparent=traceparent
                )
                batch = batch_of(job, self.stream_name, trace)
                return ("XADD", self.stream_name, "*", *batch.messages[0])

            asked = self._request_connections.request(make_command, deadline)
        if asked is not None:
            job_id, result = asked
            self._recorder.increment_counter("jobs_sent")
            if result is not None:
                self._recorder.increment_counter("results_received")
                self._recorder.record_duration("job_round_trip", time.monotonic() - began)
                return result
        else:
            awaited = self._submit(
                fields,
                expires_seconds=timeout,
                traceparent=traceparent,
                block_seconds=min(block_seconds, timeout),
            )
            job_id = awaited.job_id
            with suppress(ResultTimeout):
                return awaited.wait(max(0.0, deadline - time.monotonic()))
        self._cancel_timed_out(job_id)
        raise ResultTimeout(job_id, timeout)

    def _cancel_timed_out(self, job_id: str) -> None:
        """Cancel a job whose result nobody waits for any more; if that fails, it expires."""
        try:
            self._cancel_awaited(job_id)
        except RedisAccessDenied as denied:
            self._log_denial(
                "a request has timed out, and this user may not cancel it, so it may still run "
                "until it expires: %s. This is logged once",
                denied,
            )
        except SharedSyncError:
            pass

    def cancel(self, message_id: str) -> str:
        """Cancel a message for all groups, and return the state in which it was.

        `scheduled`, `waiting` or `parked`: it will not run, and ends with the status `cancelled`.
        `running`: its processor is notified within 2 s. `ended`: nothing changes. `unknown`: the
        stream has no such message. Cancelling again is harmless. Blocks for two round trips; raises
        `RedisUnavailable` or `RedisRefused`.
        """
        arguments.text("message_id", message_id)
        with self._connections.connection() as connection:
            return cancelling.cancel(connection, self._keys, message_id)

    def _cancel_awaited(self, message_id: str) -> str:
        with self._connections.connection() as connection:
            return cancelling.cancel(connection, self._keys, message_id, is_awaited=True)

    def status(self, message_id: str) -> str:
        """Return the state of a message, as `cancel()` does, and change nothing."""
        arguments.text("message_id", message_id)
        with self._connections.connection() as connection:
            return cancelling.status(connection, self._keys, message_id)

    def close(self) -> None:
        """Close the connections that are not in use, and end all waits for results.

        Blocks until the reply streams are removed; if Redis does not answer, for 20 s at most. The
        producer may be used again.
        """
        self._request_connections.close()
        self._replies.close()
        self._connections.close()

    def __enter__(self) -> RedisStreamProducer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _moment_after(block_seconds: float) -> float:
    """Return the time of the monotonic clock after this many seconds."""
    if block_seconds != 0.0:
        arguments.number("block_seconds", block_seconds, 0, 86_400)
    return time.monotonic() + block_seconds
