"""RedisStreamProducer, the public class: publishes messages to a stream."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from types import TracebackType

from shared_sync.common import arguments
from shared_sync.connection.credentials import CredentialProvider
from shared_sync.connection.pool import ConnectionPool
from shared_sync.errors import SharedSyncError
from shared_sync.protocol import scheduling
from shared_sync.protocol.keys import StreamKeys, check_stream_name
from shared_sync.redis_producer.batches import Batch, batch_of, next_batch
from shared_sync.redis_producer.job import DEDUPLICATE_SECONDS, Job, ScheduledJob
from shared_sync.redis_producer.sending import Sender

MAX_CONNECTIONS = 50
"""Threads that may publish at the same time; a publication takes a round trip."""


class RedisStreamProducer:
    """Publishes messages to a stream. Safe from any thread; each call blocks for a round trip.

        with RedisStreamProducer("redis://localhost:6379/0", "audio:jobs") as producer:
            message_id = producer.publish({"client_id": "c1", "audio": wav_bytes})

    A message counts as accepted when its id has been returned. A call that raises
    `RedisUnavailable` may have published or not: the connection broke before the reply. Publishing
    again may then publish twice, so the processor must tolerate a message that is run twice, as it
    must anyway. With a `deduplicate_key` publishing again publishes nothing twice, and the producer
    does that by itself; without one it sends nothing twice.

    Connections are opened as needed, one for each thread that publishes at the same time, up to
    `max_connections`. One that was not used for 2 s is asked for an answer before it is used, and
    after 30 s it is opened anew, because firewalls silently drop idle connections. The producer may
    be used after a fork: the forked process opens connections of its own.

    Args:
        redis_url: `redis://[user:password@]host:port/db`, `rediss://...`, `unix:///path`,
            `redis+sentinel://host:port,host:port/master/db` or
            `redis+cluster://host:port,host:port`.
        stream_name: The stream to publish to.
        max_queue_depth: Raise `QueueFull` instead of publishing if the stream holds this many
            messages; finished messages do not count. None for no limit. The server checks the
            limit with each message, so it holds for all producers of the stream together.
        timeout_seconds: Longest wait for a reply of the server; for a connection of the producer's
            own, if all are in use; and for one to be opened, 5 s at most.
        max_connections: Connections that may be open at a time, in each process. A thread that
            needs one more waits up to `timeout_seconds`, then `RedisUnavailable` is raised.
        credential_provider: Is asked for user and password at each connect, as for a consumer.

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
    ) -> None:
        check_stream_name(stream_name)
        arguments.number("timeout_seconds", timeout_seconds, 0.001, 86_400)
        if max_queue_depth is not None:
            arguments.whole_number("max_queue_depth", max_queue_depth, 1)
        arguments.whole_number("max_connections", max_connections, 1)
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
        to `timeout_seconds` for the reply, as long again where it has to connect, and as long again
        while `max_connections` threads publish.

        Args:
            fields: Names and values.
            expires_seconds: A message that has not been started by then is not run any more, and
                ends with the status `expired`. The time begins when it is on the stream.
            reply_to: The stream to which its result goes, in place of the workers' result stream.
            traceparent: The W3C trace context of the caller, for the processor and the result.
            deduplicate_key: The first message with this key is published. Those that follow within
                `deduplicate_seconds` are not: their calls return the id of the first. If a reply is
                lost, the producer sends the message again, for up to `timeout_seconds`.
            deduplicate_seconds: For how long the key is remembered.
            delay_seconds: Publish the message so much later. A consumer of the stream does that, up
                to 2 s late. The id then begins with `scheduled-`, and results have it as their
                `message_id`.
            at: Publish the message at that time, in the same way: a datetime with a time zone, or
                seconds since 1970.
            block_seconds: Wait up to so long for room while the stream holds `max_queue_depth`
                messages.

        Raises:
            InvalidMessage: The fields cannot be stored. Nothing was sent.
            ConfigurationError: An option cannot work. Nothing was sent.
            QueueFull: The stream holds `max_queue_depth` messages. Nothing was published.
            RedisUnavailable: There was no reply. The message may have been published.
            RedisRefused: The server refused the message. Nothing was published.
        """
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
        batch = batch_of(job, self.stream_name)
        if self._max_queue_depth is not None or batch.placings:
            published: list[str] = []
            self._sender.send(batch, published, wait_until=_moment_after(block_seconds))
            return published[0]
        command = ("XADD", self.stream_name, "*", *batch.messages[0])
        with self._connections.connection() as connection:
            entry_id: bytes = connection.call(*command)
        return entry_id.decode()

    def publish_many(
        self, messages: Iterable[Mapping[str, object] | Job], *, block_seconds: float = 0.0
    ) -> list[str]:
        """Publish messages in order, up to 100 or 4 MiB a round trip, and return their ids.

        A message is a mapping of names to values, or a `Job`, which has options beside them. Each
        round trip blocks as `publish()` does, and raises the same errors; all together wait up to
        `block_seconds` for room. Nothing is published after the first error. What was accepted
        before stays published: the error's `published` has the ids, which belong to the first
        messages in order. After `RedisUnavailable` the batch that was being sent may have been
        published too; it is repeated only if each of its messages has a `deduplicate_key`. What the
        iteration over `messages` raises is passed on unchanged. A list or tuple is encoded while
        the server works on the messages before; anything else is read when it is needed.
        """
        wait_until = _moment_after(block_seconds)
        published: list[str] = []
        unsent = iter(messages)
        # A list may be read ahead, while the server works; a generator is read when it is needed.
        reads_ahead = isinstance(messages, (list, tuple))
        following: Batch | None = None

        def read_ahead() -> None:
            nonlocal following
            if reads_ahead and following is None:
                following = next_batch(unsent, self.stream_name)

        try:
            batch = next_batch(unsent, self.stream_name)
            while batch.messages:
                self._sender.send(batch, published, wait_until=wait_until, meanwhile=read_ahead)
                batch, following = following or next_batch(unsent, self.stream_name), None
            if batch.error is not None:
                raise batch.error
        except SharedSyncError as error:
            error.published = tuple(published)
            raise
        return published

    def scheduled(self) -> Iterator[ScheduledJob]:
        """The jobs that are to be published later, by time: their ids and times.

        One round trip asks for 100 of them; it blocks and raises as `publish()` does. Jobs that are
        published or scheduled meanwhile may be missing.
        """
        start_ms, skip = 0, 0
        while True:
            with self._connections.connection() as connection:
                page = scheduling.read_page(connection, self._keys, start_ms, skip)
            for job_id, at_ms in page:
                yield ScheduledJob(job_id, at_ms / 1000)
            if not page:
                return
            last_ms = page[-1][1]
            at_last = sum(at_ms == last_ms for _, at_ms in page)
            start_ms, skip = last_ms, at_last + (skip if last_ms == start_ms else 0)

    def count_scheduled(self) -> int:
        """Return how many jobs are to be published later. Blocks and raises as `publish()` does."""
        with self._connections.connection() as connection:
            return scheduling.count(connection, self._keys)

    def close(self) -> None:
        """Close the connections that are not in use. The producer may be used again."""
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
    """The moment of the monotonic clock that is so many seconds from now."""
    arguments.number("block_seconds", block_seconds, 0, 86_400)
    return time.monotonic() + block_seconds
