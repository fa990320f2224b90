"""RedisStreamProducer, the public class: publishes messages to a stream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType

from shared_sync.common import arguments
from shared_sync.connection import remedies
from shared_sync.connection.connection import Connection
from shared_sync.connection.credentials import CredentialProvider
from shared_sync.connection.driver_errors import NotRun
from shared_sync.connection.pool import ConnectionPool
from shared_sync.connection.scripts import Command
from shared_sync.errors import QueueFull, SharedSyncError
from shared_sync.protocol import publishing
from shared_sync.protocol.keys import check_stream_name
from shared_sync.redis_producer.batches import Batch, encode, next_batch

MAX_CONNECTIONS = 50
"""Threads that may publish at the same time; a publication takes a round trip."""


class RedisStreamProducer:
    """Publishes messages to a stream. Safe from any thread; each call blocks for a round trip.

        with RedisStreamProducer("redis://localhost:6379/0", "audio:jobs") as producer:
            message_id = producer.publish({"client_id": "c1", "audio": wav_bytes})

    A message counts as accepted when its id has been returned. A call that raises
    `RedisUnavailable` may have published or not: the connection broke before the reply. Publishing
    again may then publish twice, so the processor must tolerate a message that is run twice, as it
    must anyway. Nothing is ever sent twice by the producer itself.

    Connections are opened as needed, one for each thread that publishes at the same time, up to
    `max_connections`. One that was not used for 30 s is opened anew, because firewalls silently
    drop idle connections. The producer may be used after a fork: the forked process opens
    connections of its own.

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
        self._max_queue_depth = max_queue_depth
        self._connections = ConnectionPool.of_process(
            redis_url,
            key=stream_name,
            role="producer",
            timeout_seconds=timeout_seconds,
            credential_provider=credential_provider,
            most=max_connections,
        )

    def publish(self, fields: Mapping[str, object]) -> str:
        """Publish one message and return its id.

        Text is stored as UTF-8, bytes as they are, anything else as JSON; dates, paths and some
        more as text. Field names may not begin with `dead.`. Blocks up to `timeout_seconds` for
        the reply, as long again where it has to connect, and as long again while
        `max_connections` threads publish.

        Raises:
            InvalidMessage: The fields cannot be stored. Nothing was sent.
            QueueFull: The stream holds `max_queue_depth` messages. Nothing was published.
            RedisUnavailable: There was no reply. The message may have been published.
            RedisRefused: The server refused the message. Nothing was published.
        """
        if self._max_queue_depth is not None:
            (message_id,) = self.publish_many([fields])
            return message_id
        command = ("XADD", self.stream_name, "*", *encode(fields))
        with self._connections.connection() as connection:
            entry_id: bytes = connection.call(*command)
        return entry_id.decode()

    def publish_many(self, messages: Iterable[Mapping[str, object]]) -> list[str]:
        """Publish messages in order, up to 100 or 4 MiB a round trip, and return their ids.

        Each round trip blocks as `publish()` does, and raises the same errors. Nothing is published
        after the first error. What was accepted before stays published: the error's `published`
        has the ids, which belong to the first messages in order. After `RedisUnavailable` the batch
        that was being sent may have been published too. What the iteration over `messages` raises
        is passed on unchanged. A list or tuple is encoded while the server works on the messages
        before; anything else is read when it is needed.
        """
        published: list[str] = []
        unsent = iter(messages)
        # A list may be read ahead, while the server works; a generator is read when it is needed.
        reads_ahead = isinstance(messages, (list, tuple))
        try:
            batch = next_batch(unsent)
            while batch.messages:
                # Lent for one round trip: the iteration may take long, and may publish as well.
                with self._connections.connection() as connection:
                    command = self._send_batch(connection, batch)
                    following = next_batch(unsent) if reads_ahead else None
                    self._receive_ids(connection, command, len(batch.messages), published)
                batch = following or next_batch(unsent)
            if batch.error is not None:
                raise batch.error
        except SharedSyncError as error:
            error.published = tuple(published)
            raise
        return published

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

    def _send_batch(self, connection: Connection, batch: Batch) -> Command:
        command = publishing.publish(self.stream_name, batch.messages, self._max_queue_depth)
        connection.send([command])
        return command

    def _receive_ids(
        self, connection: Connection, command: Command, count: int, published: list[str]
    ) -> None:
        """Receive the reply to a batch of so many messages, and add their ids to `published`."""
        try:
            reply = connection.receive()
        except NotRun:
            reply = connection.call(*command)  # nothing was published
        ids, refusal = publishing.parse_published(reply)
        published += ids
        if refusal is not None:
            raise remedies.explain(refusal, command)
        if len(ids) < count and self._max_queue_depth is not None:
            raise QueueFull(self.stream_name, self._max_queue_depth)
